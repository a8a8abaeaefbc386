#include "quire/kv/residency/block_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "support/temporary_path.h"

namespace quire::testing {
namespace {

const std::int64_t kPage = BlockMemory::page_bytes();

// Whether a page is mapped or in the page cache.
bool is_in_memory(const BlockMemory& memory, std::int64_t page) {
  unsigned char state = 0;
  EXPECT_EQ(mincore(memory.data() + page * kPage, static_cast<std::size_t>(kPage), &state), 0);
  return (state & 1) != 0;
}

int code_of_failure(std::int64_t bytes, const std::string& path) {
  try {
    const BlockMemory memory(bytes, path);
  } catch (const FileError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("BlockPool: backing_file: got " + path))
        << error.what();
    return error.code();
  }
  return 0;
}

TEST(BlockMemory, BothKindsAreZeroAndWritable) {
  const TemporaryPath path;
  const BlockMemory own(3 * kPage, 1);
  const BlockMemory file(3 * kPage, path.text());
  EXPECT_FALSE(own.is_file());
  EXPECT_TRUE(file.is_file());
  for (const BlockMemory* memory : {&own, &file}) {
    for (std::int64_t i = 0; i < 3 * kPage; i += 512) {
      EXPECT_EQ(memory->data()[i], std::byte{0});
      memory->data()[i] = std::byte{7};
      EXPECT_EQ(memory->data()[i], std::byte{7});
    }
  }
}

TEST(BlockMemory, TheFileLosesItsNameAndTakesItsSpace) {
  const TemporaryPath path;
  const auto room = [&] { return std::filesystem::space(path.directory()).available; };
  constexpr std::int64_t kBytes = std::int64_t{256} << 20;
  const auto before = room();
  {
    const BlockMemory memory(kBytes, path.text());
    EXPECT_FALSE(std::filesystem::exists(path.text()));
    EXPECT_LT(room(), before - kBytes / 2);  // others may use the disk meanwhile
  }
  EXPECT_GT(room(), before - kBytes / 2);
}

TEST(BlockMemory, WhatIsGivenBackIsWrittenAndLeavesMemory) {
  const TemporaryPath path;
  BlockMemory memory(64 * kPage, path.text());
  memory.read_only_what_is_asked();
  for (std::int64_t page = 0; page < 64; ++page) {
    std::memset(memory.data() + page * kPage, static_cast<int>(page + 1),
                static_cast<std::size_t>(kPage));
  }
  const PageRange given[] = {{0, 3 * kPage}, {10 * kPage, 11 * kPage}, {60 * kPage, 64 * kPage}};
  memory.give_back(given);
  if (is_in_memory(memory, 0)) GTEST_SKIP() << "this directory's file system lies in memory";
  for (const std::int64_t page : {0, 1, 2, 10, 60, 63}) EXPECT_FALSE(is_in_memory(memory, page));
  for (const std::int64_t page : {3, 9, 11, 59}) EXPECT_TRUE(is_in_memory(memory, page));

  const PageRange asked[] = {{kPage, 2 * kPage}};
  memory.ask_for(asked);
  memory.bring_in(asked);
  EXPECT_TRUE(is_in_memory(memory, 1));
  EXPECT_FALSE(is_in_memory(memory, 2));  // nothing around it was read
  for (std::int64_t page = 0; page < 64; ++page) {
    for (const std::int64_t byte : {std::int64_t{0}, kPage - 1}) {
      EXPECT_EQ(memory.data()[page * kPage + byte], static_cast<std::byte>(page + 1)) << page;
    }
  }
  memory.require_written("f");
}

TEST(BlockMemory, PathsThatCannotBeMadeThrow) {
  const TemporaryPath path;
  EXPECT_EQ(code_of_failure(kPage, path.directory()), EEXIST);
  EXPECT_EQ(code_of_failure(kPage, path.directory() + "/none/file"), ENOENT);
  std::ofstream(path.text()) << "somebody's";
  EXPECT_EQ(code_of_failure(kPage, path.text()), EEXIST);
  EXPECT_EQ(code_of_failure(kPage, path.text() + "/below"), ENOTDIR);
  std::string kept;
  std::ifstream(path.text()) >> kept;
  EXPECT_EQ(kept, "somebody's");
}

TEST(BlockMemory, ADiskWithoutRoomThrowsAndKeepsNothing) {
  const TemporaryPath path;
  const int code = code_of_failure(std::int64_t{1} << 52, path.text());
  EXPECT_TRUE(code == ENOSPC || code == EFBIG) << code;
  EXPECT_FALSE(std::filesystem::exists(path.text()));
}

// The system would end the process by a signal otherwise.
TEST(BlockMemory, AFileBeyondTheProcessLimitThrows) {
  const TemporaryPath path;
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit low{static_cast<rlim_t>(4 * kPage), old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &low), 0);
  const int code = code_of_failure(5 * kPage, path.text());
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_EQ(code, EFBIG);
  EXPECT_FALSE(std::filesystem::exists(path.text()));
}

}  // namespace
}  // namespace quire::testing
