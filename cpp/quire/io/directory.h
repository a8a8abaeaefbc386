// A directory that is held open, so that its files are reached by their names there whatever
// becomes of its path, and it can be synced once they have changed.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/file_descriptor.h"

namespace quire {

// "a/b" is b in a, "b" is b in ".", "a/b/" is "" in a/b.
struct SplitPath {
  std::string directory, name;

  explicit SplitPath(const std::string& path);
};

class Directory {
 public:
  // is_open() says whether it could be opened; errno why not.
  explicit Directory(const std::string& path);

  bool is_open() const { return descriptor_.is_open(); }
  int get() const { return descriptor_.get(); }

  // Whether this open file has that name here; nullopt, and errno, where the system does not say.
  std::optional<bool> has(const std::string& name, const FileDescriptor& file) const;

  // Whether what became of its names is on the disk; errno why not. A file system that has no such
  // call for directories, as some of a network, decides that by itself: true then.
  bool sync() const;

 private:
  const FileDescriptor descriptor_;
};

// A directory, made with those above it where they are missing. What was made goes again with this
// unless it is kept: but for those that somebody has put something into.
class NewDirectories {
 public:
  // Throws FileError, and nothing has changed then.
  NewDirectories(std::string_view function, const std::string& path);
  ~NewDirectories() { remove(); }
  NewDirectories(const NewDirectories&) = delete;
  NewDirectories& operator=(const NewDirectories&) = delete;

  void keep() { made_.clear(); }

 private:
  void make(std::string_view function, const std::string& path);
  void remove() noexcept;

  std::vector<std::string> made_;  // in their order
};

}  // namespace quire
