// Files of a test, as strings, in a directory of its own.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "quire/io/file_bytes.h"

namespace quire::testing {

class TemporaryDirectory {
 public:
  TemporaryDirectory() : path_(::testing::TempDir() + "quire_io_XXXXXX") {
    EXPECT_NE(mkdtemp(path_.data()), nullptr);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  // The names of all files, in order.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_;
};

inline std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline FileBytes as_file(const std::string& contents) {
  return {"load", "file", std::as_bytes(std::span(contents))};
}

// Why as_file's file was refused, of a message of load; or the whole message.
inline std::string reason_of(const std::string& message) {
  constexpr std::string_view start = "load: path: got file: ";
  return message.starts_with(start) ? message.substr(start.size()) : message;
}

// Whether load(file) refuses the file with one byte changed, whichever and however, or cut short
// anywhere, or with a byte more. What refuses it leaves nothing behind, as the caller checks.
template <class Load>
void expect_every_damage_refused(const std::string& good, Load load) {
  const auto expect_refused = [&](const std::string& file, const char* what, std::size_t at) {
    try {
      load(as_file(file));
      ADD_FAILURE() << what << " at byte " << at << " was loaded";
    } catch (const ValueError&) {
    }
  };
  ASSERT_NO_THROW(load(as_file(good)));
  std::string file = good;
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const int flip : {1, 2, 4, 8, 16, 32, 64, 128, 255, good[at] ^ ' '}) {
      if (flip == 0) continue;
      file[at] = static_cast<char>(good[at] ^ flip);
      expect_refused(file, "a flip", at);
    }
    file[at] = good[at];
    expect_refused(good.substr(0, at), "the end", at);
  }
  expect_refused(good + '\0', "one more", good.size());
}

}  // namespace quire::testing
