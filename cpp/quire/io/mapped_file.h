// A file as bytes in memory, which the system reads when they are touched.
#pragma once

#include <string>
#include <string_view>

#include "quire/io/file_bytes.h"

namespace quire {

// Whoever shortens the file meanwhile kills this process (SIGBUS), as with every mapping; saving
// over it does not, as that leaves the old file alone.
class MappedFile {
 public:
  // `lets_go`: whoever has read some of it, and says so, makes room for the rest. Throws FileError
  // where the system refuses, ValueError for an empty path and for what is no file, as a directory.
  MappedFile(std::string_view function, std::string path, bool lets_go = false);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const FileBytes& contents() const { return contents_; }

 private:
  FileBytes contents_;
};

}  // namespace quire
