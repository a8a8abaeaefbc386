// Directories that are made for a file, and go again where it is not saved.
#include "quire/io/directory.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "io/file_support.h"
#include "kv/table/token_rows.h"
#include "support/file_faults.h"

namespace quire::testing {
namespace {

bool is_there(const std::string& path) { return std::filesystem::exists(path); }

TEST(Directory, WhereDirectoriesAreNotSyncedThatIsNoFailure) {
  const TemporaryDirectory path;
  const Directory directory(path / "");
  for (const int code : {EINVAL, ENOSYS, EOPNOTSUPP, EIO, ENOSPC}) {
    const FileFaults faults([&](std::string_view, std::size_t) { return code; });
    EXPECT_EQ(directory.sync(), code != EIO && code != ENOSPC);
  }
  EXPECT_FALSE(Directory(path / "none").is_open());
}

TEST(NewDirectories, AreMadeAndGoUnlessTheyAreKept) {
  const TemporaryDirectory directory;
  for (const char* path : {"a/b/c", "a/b/c/", "a//b/c", "a/b/../b/c/"}) {
    {
      const NewDirectories made("save", directory / path);
      EXPECT_TRUE(is_there(directory / "a/b/c"));
    }
    EXPECT_EQ(directory.names(), std::vector<std::string>{});
  }
  NewDirectories("save", directory / "a/b").keep();
  {
    const NewDirectories made("save", directory / "a/b/c");
  }
  EXPECT_TRUE(is_there(directory / "a/b"));
  EXPECT_FALSE(is_there(directory / "a/b/c"));
}

TEST(NewDirectories, ThoseThatSomebodyUsesStay) {
  const TemporaryDirectory directory;
  {
    const NewDirectories made("save", directory / "a/b/c");
    std::ofstream(directory / "a/b/file") << "somebody's";
  }
  EXPECT_TRUE(is_there(directory / "a/b/file"));
  EXPECT_FALSE(is_there(directory / "a/b/c"));
}

TEST(NewDirectories, WhatTheSystemRefusesIsAnErrorAndLeavesNothing) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "file") << "";
  const auto message = [&](const std::string& path) {
    return message_of<FileError>([&] { const NewDirectories made("save", directory / path); });
  };
  EXPECT_EQ(message("file"), "save: path: mkdir: File exists");
  EXPECT_EQ(message("file/x"), "save: path: stat: Not a directory");
  EXPECT_EQ(message("a/b/" + std::string(256, 'x')), "save: path: mkdir: File name too long");
  std::filesystem::create_symlink("none", directory / "link");
  EXPECT_EQ(message("link"), "save: path: mkdir: File exists");
  EXPECT_EQ(directory.names(), (std::vector<std::string>{"file", "link"}));
}

TEST(NewDirectories, WhicheverCallFails) {
  const TemporaryDirectory directory;
  const auto make = [&] { NewDirectories("save", directory / "a/b").keep(); };
  const std::vector<std::string> calls = calls_of(make);
  std::filesystem::remove_all(directory / "a");
  for (std::size_t failing = 0; failing < calls.size(); ++failing) {
    for (const int code : {EIO, ENOSPC, EACCES}) {
      {
        const FileFaults faults(
            [&](std::string_view, std::size_t index) { return index == failing ? code : 0; });
        if (calls[failing] == "close") {
          EXPECT_NO_THROW(make());
        } else {
          EXPECT_THROW(make(), FileError) << calls[failing];
        }
      }
      EXPECT_EQ(is_there(directory / "a"), calls[failing] == "close") << calls[failing];
      std::filesystem::remove_all(directory / "a");
    }
  }
}

}  // namespace
}  // namespace quire::testing
