// A file that is written beside the one that it will replace, under a name of its own.
//
//   .NAME.saving    .NAME.saving1    .NAME.saving2    ...
//
// The first that is free. Each is locked (flock) while it is written; one that is not is what a
// killed process left, and removed by the next who comes upon it, where the system lets them: so
// leftovers do not pile up, and nobody else's is in the way. Where there are no locks, as in some
// file systems of a network, a leftover cannot be told, and stays.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>

#include "quire/base/file_descriptor.h"
#include "quire/base/process.h"
#include "quire/io/saved_place.h"

namespace quire {

class TemporaryFile {
 public:
  // Nothing yet. `place` outlives this.
  explicit TemporaryFile(const SavedPlace& place) : place_(place) {}
  // Removes the file where it still has its name; not in a forked child.
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  // Makes it, empty. As long as it is written nobody else may read it if it is to replace a file,
  // which others may not be allowed to read. Every method throws FileError.
  void make();
  int descriptor() const { return file_.get(); }

  // Gives it the mode of the file that it replaces, and the owner and group where the system
  // allows that. Access lists and other attributes it does not get.
  void take_after(const struct stat& old_file);
  // Gives it the name of its place, and closes it.
  void replace();

  // The name of the number-th that is tried: never longer than NAME and than 64 bytes, so that it
  // fits wherever NAME does.
  static std::string name_of(const std::string& place_name, int number);

 private:
  bool make_new(mode_t mode);
  bool remove_leftover() const;
  void close_later();

  const SavedPlace& place_;
  std::string name_;
  FileDescriptor file_;
  HomeProcess home_;
};

}  // namespace quire
