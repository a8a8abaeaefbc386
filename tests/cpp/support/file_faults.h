// Has calls of the system that touch files fail, as a test asks.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "quire/base/file_calls.h"

namespace quire::testing {

// While it lives every call of FileCalls is counted, and fails where `code_of` says with which
// code. One at a time, in one thread.
class FileFaults {
 public:
  // Of call `index`, from 0: its errno, or 0 where it is to be made.
  using CodeOf = std::function<int(std::string_view name, std::size_t index)>;

  explicit FileFaults(CodeOf code_of) : code_of_(std::move(code_of)), real_(file_calls) {
    current_ = this;
    made_.fsync = [](int) { return 0; };  // no power fails meanwhile, and a disk takes its time
    replace<&FileCalls::openat>("openat");
    replace<&FileCalls::close>("close");
    replace<&FileCalls::fstat>("fstat");
    replace<&FileCalls::fstatat>("fstatat");
    replace<&FileCalls::faccessat>("faccessat");
    replace<&FileCalls::readlinkat>("readlinkat");
    replace<&FileCalls::flock>("flock");
    replace<&FileCalls::pwrite>("pwrite");
    replace<&FileCalls::fchown>("fchown");
    replace<&FileCalls::fchmod>("fchmod");
    replace<&FileCalls::fsync>("fsync");
    replace<&FileCalls::sync_file_range>("sync_file_range");
    replace<&FileCalls::renameat>("renameat");
    replace<&FileCalls::unlinkat>("unlinkat");
    replace<&FileCalls::mkdirat>("mkdirat");
    replace<&FileCalls::fstatvfs>("fstatvfs");
    replace<&FileCalls::fallocate>("fallocate");
    replace<&FileCalls::mmap>("mmap");
  }
  ~FileFaults() { file_calls = real_; }
  FileFaults(const FileFaults&) = delete;
  FileFaults& operator=(const FileFaults&) = delete;

  // The calls so far. Of a directory fsync is "fsync of a directory".
  const std::vector<std::string>& names() const { return names_; }

 private:
  template <auto kCall>
  struct Faulty;
  template <class Result, class... Arguments, Result (*FileCalls::*kCall)(Arguments...)>
  struct Faulty<kCall> {
    static inline std::string name;
    static Result call(Arguments... arguments) {
      const int code = current_->next(name_of(arguments...));
      if (code == 0) return (current_->made_.*kCall)(arguments...);
      if (name == "close") (current_->made_.*kCall)(arguments...);  // it does, whatever it returns
      errno = code;
      if constexpr (std::is_pointer_v<Result>) {
        return MAP_FAILED;
      } else {
        return -1;
      }
    }
    static std::string name_of(Arguments... arguments) {
      if constexpr (std::is_same_v<std::tuple<Arguments...>, std::tuple<int>>) {
        struct stat status{};
        const bool is_directory = fstat(arguments..., &status) == 0 && S_ISDIR(status.st_mode);
        if (name == "fsync" && is_directory) return name + " of a directory";
      }
      return name;
    }
  };

  template <auto kCall>
  void replace(const char* name) {
    Faulty<kCall>::name = name;
    file_calls.*kCall = &Faulty<kCall>::call;
  }

  int next(const std::string& name) {
    names_.push_back(name);
    return code_of_(name, names_.size() - 1);
  }

  static inline FileFaults* current_ = nullptr;

  const CodeOf code_of_;
  const FileCalls real_;
  FileCalls made_ = real_;
  std::vector<std::string> names_;
};

inline std::vector<std::string> calls_of(const std::function<void()>& action) {
  const FileFaults none([](std::string_view, std::size_t) { return 0; });
  action();
  return none.names();
}

// How many files this process has open.
inline std::ptrdiff_t count_open_files() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return std::distance(begin(files), end(files));
}

}  // namespace quire::testing
