// What can be wrong with a file: the system refuses it, or what it holds is not what it should be.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "quire/base/check.h"

namespace quire {

// The system refuses to open, read or write a file. Python: OSError, with the code and the path.
class FileError : public Error {
 public:
  FileError(std::string_view function, std::string path, std::string_view action, int code)
      : Error(concat(function, ": path: ", action, ": ", std::strerror(code))),
        code_(code),
        path_(std::move(path)) {}

  int code() const { return code_; }
  const std::string& path() const { return path_; }

 private:
  int code_;
  std::string path_;
};

// The bytes of a file, and who reads it, for messages.
struct FileBytes {
  std::string_view function;
  std::string path;
  std::span<const std::byte> bytes;

  // Throws E: "function: path: got `path`: parts...".
  template <class E = ValueError, class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    raise<E>(place(function, "path"), "got ", path, ": ", parts...);
  }
};

}  // namespace quire
