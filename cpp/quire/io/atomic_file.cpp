#include "quire/io/atomic_file.h"

#include <utility>

namespace quire {

AtomicFile::AtomicFile(std::string_view function, std::string path)
    : place_(function, std::move(path)), file_(place_) {
  file_.make();
}

void AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = file_call<&FileCalls::pwrite>(file_.descriptor(), bytes.data(),
                                                          bytes.size(), static_cast<off_t>(offset));
    if (written == 0) errno = EIO;  // which no file should say
    if (written <= 0) place_.fail("write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
}

void AtomicFile::commit() {
  place_.look();  // it was a while ago
  if (place_.old_file()) file_.take_after(*place_.old_file());
  if (file_call<&FileCalls::fsync>(file_.descriptor()) != 0) place_.fail("fsync");
  file_.replace();
  if (!place_.directory().sync()) {
    place_.fail("the new file stands, but may not be on the disk yet: fsync of the directory");
  }
}

}  // namespace quire
