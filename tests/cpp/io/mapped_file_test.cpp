#include "quire/io/mapped_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "io/file_support.h"

namespace quire::testing {
namespace {

// KiB of a file's mapping that are mapped in memory.
long mapped_kib(const std::string& path) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < line.find(' ')) inside = line.ends_with(path);
    if (inside && line.starts_with("Rss:")) return std::stol(line.substr(4));
  }
  return -1;
}

TEST(MappedFile, LetsGoOfWhatWasReadAndReadsItAgain) {
  const TemporaryDirectory directory;
  const std::string path = directory / "file";
  std::string written(4'000'001, '\0');
  for (std::size_t i = 0; i < written.size(); ++i) written[i] = static_cast<char>(i * 7 % 251);
  std::ofstream(path, std::ios::binary) << written;
  for (const bool lets_go : {false, true}) {
    const MappedFile file("f", path, lets_go);
    const auto bytes = file.contents().bytes;
    ASSERT_EQ(bytes.size(), written.size());
    const auto is_right = [&] {
      return std::equal(bytes.begin(), bytes.end(), written.begin(),
                        [](std::byte a, char b) { return a == static_cast<std::byte>(b); });
    };
    EXPECT_TRUE(is_right());
    EXPECT_GE(mapped_kib(path), 3900);
    // wherever a piece begins and ends
    for (std::size_t begin = 0; begin < bytes.size(); begin += 1'000'003) {
      file.contents().let_go(
          bytes.subspan(begin, std::min<std::size_t>(1'000'003, bytes.size() - begin)));
    }
    if (lets_go) {
      EXPECT_LE(mapped_kib(path), 4);
    } else {
      EXPECT_GE(mapped_kib(path), 3900);
    }
    EXPECT_TRUE(is_right());
  }
}

}  // namespace
}  // namespace quire::testing
