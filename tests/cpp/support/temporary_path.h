// A path where nothing is, on a disk where the system has one.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

namespace quire::testing {

// In a directory of its own, which goes with this.
class TemporaryPath {
 public:
  TemporaryPath() : directory_(::testing::TempDir() + "quire-XXXXXX") {
    if (mkdtemp(directory_.data()) == nullptr)
      throw std::filesystem::filesystem_error("mkdtemp", directory_,
                                              std::error_code(errno, std::generic_category()));
  }
  ~TemporaryPath() { std::filesystem::remove_all(directory_); }
  TemporaryPath(const TemporaryPath&) = delete;
  TemporaryPath& operator=(const TemporaryPath&) = delete;

  const std::string& directory() const { return directory_; }
  std::string text() const { return directory_ + "/blocks"; }

 private:
  std::string directory_;
};

}  // namespace quire::testing
