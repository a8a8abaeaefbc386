// A file that is replaced as a whole or not at all.
//
//   the directory is opened, and what stands at the path looked at
//   .NAME.saving is made, locked and written        temporary_file.h
//   it gets the old file's mode, and is synced
//   it is renamed to NAME
//   the directory is synced
//
// Where one of these fails that comes before the renaming, or the renaming does, nothing has
// changed: the old file stands, or none where there was none, and .NAME.saving is removed. Where
// the last one fails the new file stands, and the error says so: only whether a power failure would
// bring the old one back is not known. A process that is killed leaves the old file or the new one,
// and maybe .NAME.saving, which the next to save there removes. Of two that save at once each
// writes a file of its own, and the one that ends last stays.
//
// Other names of the old file, hard links, keep it. The path may be one that saved_place.h takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "quire/io/saved_place.h"
#include "quire/io/temporary_file.h"

namespace quire {

class AtomicFile {
 public:
  // Throws as SavedPlace. Every method throws FileError where the system refuses.
  AtomicFile(std::string_view function, std::string path);

  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  // Once, and last. Until then the old file stands. Throws Interrupted until all is on the disk but
  // what one fsync does, and nothing has changed then.
  void commit();

 private:
  void write_out();

  SavedPlace place_;
  TemporaryFile file_;
  std::uint64_t size_ = 0;     // so far
  std::uint64_t written_ = 0;  // since the system was told to write it out
};

}  // namespace quire
