// What a file holds, and who is to be told that it is not what it should be.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "quire/base/check.h"
#include "quire/base/file_error.h"

namespace quire {

// Throws "function: path: action: what errno's code means".
[[noreturn]] inline void fail_file(std::string_view function, const std::string& path,
                                   std::string_view action, int code) {
  throw FileError(concat(function, ": path: ", action, ": ", std::strerror(code)), code, path);
}

// That a path may name something. Throws ValueError.
inline void expect_path(std::string_view function, std::string_view argument,
                        std::string_view path) {
  if (!path.empty() && path.find('\0') == std::string_view::npos) return;
  raise<ValueError>(place(function, argument), "got ",
                    path.empty() ? "an empty one" : "one with NUL", ", expected a path");
}

// The bytes of a file, and who reads it, for messages.
struct FileBytes {
  std::string_view function;
  std::string path;
  std::span<const std::byte> bytes;
  // Takes bytes that are not needed soon out of memory; null where that is not wanted.
  void (*let_go_of)(std::span<const std::byte>) = nullptr;

  void let_go(std::span<const std::byte> some) const {
    if (let_go_of != nullptr) let_go_of(some);
  }

  // Throws E: "function: path: got `path`: parts...".
  template <class E = ValueError, class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    raise<E>(place(function, "path"), "got ", path, ": ", parts...);
  }
};

}  // namespace quire
