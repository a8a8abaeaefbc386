// The file of a pool: what is left where a call of the system fails, and what is never opened.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <string>

#include "quire/kv/residency/block_memory.h"
#include "support/file_faults.h"
#include "support/temporary_path.h"

namespace quire::testing {
namespace {

const std::int64_t kBytes = 4 * BlockMemory::page_bytes();

TEST(BlockMemoryFaults, LeaveNothing) {
  const TemporaryPath path;
  const std::vector<std::string> calls =
      calls_of([&] { const BlockMemory memory(kBytes, path.text()); });
  EXPECT_EQ(calls, (std::vector<std::string>{"openat", "unlinkat", "fstatvfs", "fallocate", "mmap",
                                             "close"}));
  const auto open_files = count_open_files();
  for (std::size_t failing = 0; failing < calls.size(); ++failing) {
    for (const int code : {EIO, ENOSPC, EINTR}) {
      SCOPED_TRACE(calls[failing]);
      int thrown = 0;
      {
        const FileFaults faults(
            [&](std::string_view, std::size_t index) { return index == failing ? code : 0; });
        try {
          const BlockMemory memory(kBytes, path.text());
        } catch (const FileError& error) {
          thrown = error.code();
        }
      }
      // Where nobody knows how much room there is, it is tried.
      const bool is_harmless = calls[failing] == "close" || calls[failing] == "fstatvfs" ||
                               (code == EINTR && calls[failing] != "mmap");
      EXPECT_EQ(thrown, is_harmless ? 0 : code);
      // Only where its name cannot be removed is it still there.
      const bool stays = calls[failing] == "unlinkat" && code != EINTR;
      EXPECT_EQ(std::filesystem::remove(path.text()), stays);
      EXPECT_EQ(count_open_files(), open_files);
    }
  }
}

// A disk without room for all is left as it is, not filled up first.
TEST(BlockMemoryFaults, NothingIsTakenOfADiskThatIsTooSmall) {
  const TemporaryPath path;
  const std::vector<std::string> calls = calls_of([&] {
    file_calls.fstatvfs = [](int, struct statvfs* disk) {
      *disk = {};
      disk->f_frsize = 4096;
      disk->f_blocks = 1 << 20;
      disk->f_bavail = static_cast<fsblkcnt_t>(kBytes / 4096 - 1);
      return 0;
    };
    try {
      const BlockMemory memory(kBytes, path.text());
      ADD_FAILURE();
    } catch (const FileError& error) {
      EXPECT_EQ(error.code(), ENOSPC);
    }
  });
  EXPECT_EQ(calls, (std::vector<std::string>{"openat", "unlinkat", "close"}));
  EXPECT_TRUE(std::filesystem::is_empty(path.directory()));
}

// Whatever has the name, even a link to nothing, is left alone.
TEST(BlockMemoryFaults, WhatIsThereIsRefused) {
  const TemporaryPath path;
  const auto expect_refused = [&] {
    try {
      const BlockMemory memory(kBytes, path.text());
      ADD_FAILURE();
    } catch (const FileError& error) {
      EXPECT_EQ(error.code(), EEXIST);
    }
    struct stat status{};
    EXPECT_EQ(lstat(path.text().c_str(), &status), 0);
    std::filesystem::remove(path.text());
  };
  ASSERT_EQ(mkfifo(path.text().c_str(), 0666), 0);
  expect_refused();
  std::filesystem::create_symlink("none", path.text());
  expect_refused();
  EXPECT_TRUE(std::filesystem::is_empty(path.directory()));
}

}  // namespace
}  // namespace quire::testing
