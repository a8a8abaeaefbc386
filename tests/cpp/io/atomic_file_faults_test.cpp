// Files that are replaced as a whole: what is left where a call of the system fails.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>

#include "io/save_faults.h"
#include "kv/table/token_rows.h"
#include "quire/base/interruption.h"
#include "quire/io/atomic_file.h"

namespace quire::testing {
namespace {

void save(const std::string& path) {
  AtomicFile file("save", path);
  const std::string text = "new";
  const auto bytes = std::as_bytes(std::span(text));
  file.write_at(2, bytes.subspan(2));
  file.write_at(0, bytes.first(2));
  file.commit();
}

void save_x(const TemporaryDirectory& directory) { save(directory / "x"); }

void write(const std::string& path, std::string_view text, mode_t mode = 0640) {
  std::ofstream(path) << text;
  ASSERT_EQ(chmod(path.c_str(), mode), 0);
}

TEST(AtomicFileFaults, OfANewFile) {
  expect_all_or_nothing([](const TemporaryDirectory&) {}, save_x);
}

TEST(AtomicFileFaults, OfOneThatIsReplaced) {
  expect_all_or_nothing([](const TemporaryDirectory& directory) { write(directory / "x", "old"); },
                        save_x);
}

TEST(AtomicFileFaults, OfSomebodyElsesThatIsReplaced) {
  if (geteuid() != 0) GTEST_SKIP() << "only the superuser gives files away";
  const auto prepare = [](const TemporaryDirectory& directory) {
    write(directory / "x", "old");
    ASSERT_EQ(chown((directory / "x").c_str(), 1234, 5678), 0);
  };
  // Without fchown the file is complete, but for its owner: so that is not compared.
  const auto save_and_take = [](const TemporaryDirectory& directory) {
    save_x(directory);
    ASSERT_EQ(chown((directory / "x").c_str(), 1234, 5678), 0);
    ASSERT_EQ(chmod((directory / "x").c_str(), 0640), 0);
  };
  expect_all_or_nothing(prepare, save_and_take);
}

TEST(AtomicFileFaults, OfOneBehindLinks) {
  const auto prepare = [](const TemporaryDirectory& directory) {
    std::filesystem::create_directory(directory / "to");
    write(directory / "to/target", "old");
    std::filesystem::create_symlink("to/next", directory / "x");
    std::filesystem::create_symlink("target", directory / "to/next");
  };
  expect_all_or_nothing(prepare, save_x);
}

TEST(AtomicFileFaults, WhereAKilledOneLeftSomething) {
  const auto prepare = [](const TemporaryDirectory& directory) {
    write(directory / ".left.saving", "a part");
  };
  expect_all_or_nothing(
      prepare, [](const TemporaryDirectory& directory) { save(directory / "left"); }, true);
}

// What cannot be undone either: the old file stands, though what was written may lie beside it.
TEST(AtomicFileFaults, AllCallsFromSomewhereOn) {
  std::vector<std::string> calls;
  for (std::size_t first = 0; first == 0 || first < calls.size(); ++first) {
    const TemporaryDirectory directory;
    write(directory / "x", "old");
    if (first == 0) {
      calls = calls_of([&] { save(directory / "x"); });
      write(directory / "x", "old");
    }
    std::string message;
    {
      const FileFaults faults(
          [&](std::string_view, std::size_t index) { return index < first ? 0 : EIO; });
      message = message_of<FileError>([&] {
        save(directory / "x");
        throw FileError("only close failed", 0);
      });
    }
    const bool is_new =
        message.find("the new file stands") != std::string::npos || message == "only close failed";
    EXPECT_EQ(contents(directory / "x"), is_new ? "new" : "old") << message;
  }
}

TEST(AtomicFileFaults, BytesThatAreWrittenBitByBit) {
  const TemporaryDirectory directory;
  const FileCalls real = file_calls;
  file_calls.pwrite = [](int file, const void* bytes, std::size_t size, off_t offset) {
    return pwrite(file, bytes, std::min<std::size_t>(size, 1), offset);
  };
  save(directory / "x");
  EXPECT_EQ(contents(directory / "x"), "new");
  file_calls.pwrite = [](int, const void*, std::size_t, off_t) { return ssize_t{0}; };
  EXPECT_EQ(message_of<FileError>([&] { save(directory / "x"); }),
            "save: path: write: Input/output error");
  file_calls = real;
  EXPECT_EQ(directory.names(), std::vector<std::string>{"x"});
}

TEST(AtomicFileFaults, ARenamingWhoseAnswerWasLost) {
  const TemporaryDirectory directory;
  write(directory / "x", "old");
  const FileCalls real = file_calls;
  file_calls.renameat = [](int from_directory, const char* from, int to_directory, const char* to) {
    EXPECT_EQ(renameat(from_directory, from, to_directory, to), 0);
    errno = ENOENT;
    return -1;
  };
  save(directory / "x");
  file_calls = real;
  EXPECT_EQ(contents(directory / "x"), "new");
  EXPECT_EQ(directory.names(), std::vector<std::string>{"x"});
}

// A file of several steps that are waited for.
void save_large(const std::string& path) {
  AtomicFile file("save", path);
  const std::vector<std::byte> some(std::size_t{5} << 20, std::byte{7});
  for (int i = 0; i < 5; ++i) file.write_at(i * some.size(), some);
  file.commit();
}

TEST(AtomicFileFaults, WhatIsWaitedForInSteps) {
  const TemporaryDirectory directory;
  write(directory / "x", "old");
  int waits = 0;
  for (int stopped = 0;; ++stopped) {  // interrupted in each wait in turn, until there is none
    const Interruptible interruptible([] { return true; });
    waits = 0;
    const FileFaults faults([&](std::string_view name, std::size_t) {
      if (name == "sync_file_range" && waits++ == stopped) is_interrupted(true);
      return 0;
    });
    try {
      save_large(directory / "x");
      break;
    } catch (const Interrupted&) {
      EXPECT_EQ(contents(directory / "x"), "old");
      EXPECT_EQ(everything_in(directory).size(), 1u);
    }
  }
  EXPECT_EQ(waits, 6);  // two while it is written, and four steps
  EXPECT_EQ(std::filesystem::file_size(directory / "x"), std::size_t{25} << 20);
}

TEST(AtomicFileFaults, WhatCannotBeWrittenIsSaidOnceAndIsNotLost) {
  for (const int code : {EIO, ENOSPC, ENOSYS, EOPNOTSUPP}) {
    const TemporaryDirectory directory;
    write(directory / "x", "old");
    int waits = 0;
    const FileFaults faults([&](std::string_view name, std::size_t) {
      return name == "sync_file_range" && ++waits > 3 ? code : 0;
    });
    const bool fails = code == EIO || code == ENOSPC;
    try {
      save_large(directory / "x");
      EXPECT_FALSE(fails);
      EXPECT_EQ(std::filesystem::file_size(directory / "x"), std::size_t{25} << 20);
    } catch (const FileError& error) {
      EXPECT_TRUE(fails);
      EXPECT_EQ(error.code(), code);
      EXPECT_EQ(contents(directory / "x"), "old");
    }
  }
}

}  // namespace
}  // namespace quire::testing
