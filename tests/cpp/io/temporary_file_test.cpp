// What is written beside a file: under which name, and what becomes of leftovers.
#include "quire/io/temporary_file.h"

#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>

#include "io/as_nobody.h"
#include "io/file_support.h"
#include "kv/table/token_rows.h"
#include "quire/io/atomic_file.h"
#include "support/file_faults.h"

namespace quire::testing {
namespace {

using Names = std::vector<std::string>;

void save(const std::string& path) { AtomicFile("save", path).commit(); }

TEST(TemporaryFile, ItsNameIsNoLongerThanIsSafe) {
  EXPECT_EQ(TemporaryFile::name_of("x", 0), ".x.saving");
  EXPECT_EQ(TemporaryFile::name_of("x", 12), ".x.saving12");
  EXPECT_EQ(TemporaryFile::name_of(std::string(56, 'x'), 0),
            "." + std::string(56, 'x') + ".saving");
  for (const std::size_t size : {57, 64, 65, 255}) {
    for (const int number : {0, 1, 999}) {
      const std::string name = TemporaryFile::name_of(std::string(size, 'x'), number);
      EXPECT_EQ(name.size(), std::max<std::size_t>(64, size));
      EXPECT_TRUE(name.starts_with(".xxx"));
    }
  }
  std::string letters = "x";
  for (int i = 0; i < 127; ++i) letters += "\xc3\xa4";
  EXPECT_EQ(TemporaryFile::name_of(letters, 0), "." + letters.substr(0, 247) + ".saving");
  EXPECT_EQ(TemporaryFile::name_of(letters, 1), "." + letters.substr(0, 245) + ".saving1");
}

TEST(TemporaryFile, SeveralAtOnceHaveNamesOfTheirOwn) {
  const TemporaryDirectory directory;
  {
    AtomicFile first("save", directory / "x"), second("save", directory / "x");
    EXPECT_EQ(directory.names(), (Names{".x.saving", ".x.saving1"}));
    first.commit();
    AtomicFile third("save", directory / "x");
    EXPECT_EQ(directory.names(), (Names{".x.saving", ".x.saving1", "x"}));
    second.commit();
  }
  EXPECT_EQ(directory.names(), Names{"x"});
}

TEST(TemporaryFile, LeftoversAreRemovedByWhoComesUponThem) {
  const TemporaryDirectory directory;
  std::ofstream(directory / ".x.saving") << "longer than what comes now";
  save(directory / "x");
  EXPECT_EQ(contents(directory / "x"), "");
  EXPECT_EQ(directory.names(), Names{"x"});
}

TEST(TemporaryFile, WhatIsNoLeftoverIsPassedOver) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "file") << "somebody's";
  std::filesystem::create_symlink("file", directory / ".x.saving");
  ASSERT_EQ(mkfifo((directory / ".x.saving1").c_str(), 0666), 0);
  std::filesystem::create_directory(directory / ".x.saving2");
  const Names before = directory.names();
  save(directory / "x");
  EXPECT_EQ(directory.names().size(), before.size() + 1);
  EXPECT_EQ(contents(directory / "file"), "somebody's");
}

TEST(TemporaryFile, AnotherUsersIsPassedOver) {
  if (!is_superuser()) GTEST_SKIP() << "to be another user";
  const TemporaryDirectory directory;
  std::ofstream(directory / ".x.saving") << "the superuser's";
  std::ofstream(directory / ".x.saving1") << "which all may write";
  ASSERT_EQ(chmod((directory / ".x.saving").c_str(), 0600), 0);
  ASSERT_EQ(chmod((directory / ".x.saving1").c_str(), 0666), 0);
  ASSERT_EQ(chmod((directory / "").c_str(), 01777), 0);  // where only owners remove their files
  {
    const AsNobody nobody;
    save(directory / "x");
  }
  EXPECT_EQ(directory.names(), (Names{".x.saving", ".x.saving1", "x"}));
}

TEST(TemporaryFile, WithoutLocksNothingIsTakenForALeftover) {
  const TemporaryDirectory directory;
  std::ofstream(directory / ".x.saving") << "perhaps somebody writes it";
  for (const int code : {ENOLCK, ENOSYS, EOPNOTSUPP, EIO}) {
    const FileFaults faults(
        [&](std::string_view name, std::size_t) { return name == "flock" ? code : 0; });
    save(directory / "x");
    EXPECT_EQ(directory.names(), (Names{".x.saving", "x"}));
    {
      const AtomicFile forgotten("save", directory / "x");
      EXPECT_EQ(directory.names(), (Names{".x.saving", ".x.saving1", "x"}));
    }
    EXPECT_EQ(directory.names(), (Names{".x.saving", "x"}));
  }
}

// Another who saves there may meet it before it is locked.
TEST(TemporaryFile, OneThatIsTakenForALeftoverAtOnceIsMadeAgain) {
  const TemporaryDirectory directory;
  for (const bool is_locked : {false, true}) {
    int other = -1;
    bool met = false;
    {
      const FileFaults faults([&](std::string_view name, std::size_t) {
        if (name != "flock" || std::exchange(met, true)) return 0;
        if (is_locked) {
          other = open((directory / ".x.saving").c_str(), O_RDWR);
          EXPECT_EQ(flock(other, LOCK_EX), 0);
        }
        std::filesystem::remove(directory / ".x.saving");
        return 0;
      });
      save(directory / "x");
    }
    EXPECT_TRUE(met);
    EXPECT_EQ(directory.names(), Names{"x"});
    std::filesystem::remove(directory / "x");
    if (other >= 0) close(other);
  }
}

TEST(TemporaryFile, OneThatSomebodyReplacedIsNotRenamed) {
  const TemporaryDirectory directory;
  {
    AtomicFile file("save", directory / "x");
    std::filesystem::remove(directory / ".x.saving");
    std::ofstream(directory / ".x.saving") << "another's";
    EXPECT_EQ(message_of<FileError>([&] { file.commit(); }),
              "save: path: rename .x.saving, which somebody has removed: No such file or "
              "directory");
  }
  EXPECT_EQ(directory.names(), Names{".x.saving"});
}

TEST(TemporaryFile, AThousandNamesThatAreTakenAreAnError) {
  const TemporaryDirectory directory;
  for (int number = 0; number < 1000; ++number) {
    std::filesystem::create_directory(directory / TemporaryFile::name_of("x", number));
  }
  EXPECT_EQ(message_of<FileError>([&] { save(directory / "x"); }),
            "save: path: open .x.saving999: File exists");
}

}  // namespace
}  // namespace quire::testing
