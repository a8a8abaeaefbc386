// Files that are replaced as a whole: what is there before, after, and where it goes wrong.
#include "quire/io/atomic_file.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "io/file_support.h"

namespace quire::testing {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

void save(const std::string& path, std::string_view text) {
  AtomicFile file("save", path);
  file.write_at(0, bytes_of(text));
  file.commit();
}

template <class Action>
int code_of(Action action) {
  try {
    action();
  } catch (const FileError& error) {
    EXPECT_NE(std::string(error.what()).find("save: path: "), std::string::npos) << error.what();
    return error.code();
  }
  return 0;
}

TEST(AtomicFile, IsThereOnceCommitted) {
  const TemporaryDirectory directory;
  const std::string path = directory / "x";
  {
    AtomicFile file("save", path);
    file.write_at(3, bytes_of("def"));
    file.write_at(0, bytes_of("abc"));
    EXPECT_EQ(directory.names(), std::vector<std::string>{".x.saving"});
    file.commit();
    EXPECT_EQ(contents(path), "abcdef");
  }
  EXPECT_EQ(directory.names(), std::vector<std::string>{"x"});
}

TEST(AtomicFile, TheOldOneStandsUntilThenAndWhereItIsNotCommitted) {
  const TemporaryDirectory directory;
  save(directory / "x", "old");
  {
    AtomicFile file("save", directory / "x");
    file.write_at(0, bytes_of("new"));
    EXPECT_EQ(contents(directory / "x"), "old");
  }
  EXPECT_EQ(contents(directory / "x"), "old");
  EXPECT_EQ(directory.names(), std::vector<std::string>{"x"});
}

TEST(AtomicFile, WhatTheSystemRefusesIsAnError) {
  const TemporaryDirectory directory;
  EXPECT_EQ(code_of([&] { save(directory / "no/x", ""); }), ENOENT);
  EXPECT_EQ(code_of([&] { save(directory / "", ""); }), EISDIR);
  EXPECT_EQ(code_of([&] { save(directory / ".", ""); }), EISDIR);
  EXPECT_EQ(code_of([&] { save(directory / std::string(300, 'x'), ""); }), ENAMETOOLONG);
  std::ofstream(directory / "file") << "";
  EXPECT_EQ(code_of([&] { save(directory / "file/x", ""); }), ENOTDIR);
  EXPECT_EQ(contents(directory / "file"), "");
}

// Each writes a file of one letter and of its own length: never do two of them mix.
TEST(AtomicFileConcurrency, TheLastOneStays) {
  const TemporaryDirectory directory;
  const std::string path = directory / "x";
  save(path, std::string(1000, '0'));
  std::atomic<int> running{4};
  std::vector<std::thread> threads;
  for (int worker = 0; worker < 4; ++worker) {
    threads.emplace_back([&, worker] {
      const std::string text(1000 * (worker + 1), static_cast<char>('0' + worker));
      for (int i = 0; i < 6; ++i) save(path, text);
      --running;
    });
  }
  while (running > 0) {
    const std::string text = contents(path);
    ASSERT_EQ(text, std::string(1000 * (text[0] - '0' + 1), text[0]));
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(directory.names(), std::vector<std::string>{"x"});
}

}  // namespace
}  // namespace quire::testing
