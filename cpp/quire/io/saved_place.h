// Where a file is saved to: the directory and the name that a path leads to, and what stands there.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "quire/io/directory.h"

namespace quire {

// As for open with O_CREAT symbolic links are followed, and one that leads to nothing says where
// the file is made. What stands there must be a regular file, and one that may be written.
class SavedPlace {
 public:
  // Throws ValueError for an empty path, and for a pipe, a socket or a device; FileError where the
  // system refuses, for a directory (EISDIR) and for a file that is read-only (EACCES).
  SavedPlace(std::string_view function, std::string path);

  const Directory& directory() const { return *directory_; }
  const std::string& name() const { return name_; }

  // Looks at what stands there, and throws as above. What was there once and is gone is forgotten
  // only by its name: who replaces it does so with its mode.
  void look();
  const std::optional<struct stat>& old_file() const { return old_; }

  // Throws FileError with errno.
  [[noreturn]] void fail(std::string_view action) const;

 private:
  void expect_regular(const struct stat& status) const;
  std::string followed() const;

  const std::string_view function_;
  const std::string path_;
  std::unique_ptr<const Directory> directory_;
  std::string name_;
  std::optional<struct stat> old_;
};

}  // namespace quire
