// What the system says when it refuses a file.
#pragma once

#include <string>
#include <utility>

#include "quire/base/check.h"

namespace quire {

// The system refuses to make, open, read or write a file. Python: OSError, with errno's code and,
// where it is known, the path.
class FileError : public Error {
 public:
  FileError(const std::string& message, int code, std::string path = {})
      : Error(message), code_(code), path_(std::move(path)) {}

  int code() const { return code_; }
  const std::string& path() const { return path_; }

 private:
  int code_;
  std::string path_;
};

}  // namespace quire
