#include "quire/io/atomic_file.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "quire/base/interruption.h"

namespace quire {
namespace {

// At once: what a disk writes in a moment.
constexpr std::uint64_t kWrittenOut = std::uint64_t{8} << 20;

}  // namespace

AtomicFile::AtomicFile(std::string_view function, std::string path)
    : place_(function, std::move(path)), file_(place_) {
  file_.make();
}

// A disk gets what there is early, so that little is left for the end.
void AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  written_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t written = file_call<&FileCalls::pwrite>(file_.descriptor(), bytes.data(),
                                                          bytes.size(), static_cast<off_t>(offset));
    if (written == 0) errno = EIO;  // which no file should say
    if (written <= 0) place_.fail("write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
  size_ = std::max(size_, offset);
  if (written_ < kWrittenOut) return;
  written_ = 0;
  file_call<&FileCalls::sync_file_range>(file_.descriptor(), off_t{0}, off_t{0},
                                         unsigned{SYNC_FILE_RANGE_WRITE});  // all; as it can
}

// Waits for what is on its way to the disk, in steps between which the call can be interrupted.
// What the system cannot do by parts is left to fsync; what could not be written it says only once.
void AtomicFile::write_out() {
  constexpr unsigned kAndWait =
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if (size_ <= kWrittenOut) return;
  for (std::uint64_t at = 0; at < size_; at += kWrittenOut) {
    check_interruption();
    if (file_call<&FileCalls::sync_file_range>(file_.descriptor(), static_cast<off_t>(at),
                                               static_cast<off_t>(kWrittenOut), kAndWait) == 0) {
      continue;
    }
    if (errno == ENOSYS || errno == EINVAL || errno == ESPIPE || errno == EOPNOTSUPP) return;
    place_.fail("write");
  }
  check_interruption();
}

void AtomicFile::commit() {
  place_.look();  // it was a while ago
  if (place_.old_file()) file_.take_after(*place_.old_file());
  write_out();
  if (file_call<&FileCalls::fsync>(file_.descriptor()) != 0) place_.fail("fsync");
  file_.replace();
  if (!place_.directory().sync()) {
    place_.fail("the new file stands, but may not be on the disk yet: fsync of the directory");
  }
}

}  // namespace quire
