// A file that is replaced as a whole or not at all.
//
//   .name.saving   written, and locked by who writes it      fsync
//   name           the old file, until it is the new one     rename, then fsync of the directory
//
// A process that is killed leaves the old file, or none where there was none, and maybe
// .name.saving, which the next to save there writes over. Of two that save at once, one waits for
// the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "quire/io/file_descriptor.h"

namespace quire {

class AtomicFile {
 public:
  // Every method throws FileError where the system refuses.
  AtomicFile(std::string_view function, std::string path);
  // Leaves the old file where this was not committed.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  void commit();

 private:
  [[noreturn]] void fail(const char* action) const;
  bool is_ours() const;

  const std::string_view function_;
  const std::string path_;
  std::string directory_;  // of both
  std::string saving_;     // the path of what is written
  FileDescriptor file_;
  bool committed_ = false;
};

// Makes a directory, and those above it, unless they are there.
void make_directory(std::string_view function, const std::string& path);

}  // namespace quire
