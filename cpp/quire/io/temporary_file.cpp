#include "quire/io/temporary_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <thread>

#include "quire/base/check.h"

namespace quire {
namespace {

// As many may save to one place at once, or have left something that cannot be removed.
constexpr int kMostNames = 1000;

// Bytes that take the system milliseconds to give back.
constexpr off_t kLarge = off_t{16} << 20;

// Whether the lock is had.
bool lock(const FileDescriptor& file) {
  return file_call<&FileCalls::flock>(file.get(), LOCK_EX | LOCK_NB) == 0;
}

}  // namespace

std::string TemporaryFile::name_of(const std::string& place_name, int number) {
  const std::string end = concat(".saving", number == 0 ? "" : concat(number));
  const std::size_t most = std::max<std::size_t>(64, place_name.size()) - 1 - end.size();
  std::size_t size = std::min(place_name.size(), most);
  // not within a letter of UTF-8, which some file systems would not take
  const auto is_inside = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; };
  if (size < place_name.size()) {
    while (size > 0 && is_inside(place_name[size])) --size;
  }
  return concat(".", place_name.substr(0, size), end);
}

void TemporaryFile::make() {
  const mode_t mode = place_.old_file() ? 0600 : 0666;
  for (int number = 0; number < kMostNames; ++number) {
    name_ = name_of(place_.name(), number);
    if (make_new(mode) || (remove_leftover() && make_new(mode))) return;
  }
  errno = EEXIST;
  place_.fail(concat("open ", name_));
}

// False where the name is taken.
bool TemporaryFile::make_new(mode_t mode) {
  file_.reset(file_call<&FileCalls::openat>(place_.directory().get(), name_.c_str(),
                                            O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                                            mode));
  if (!file_.is_open()) {
    if (errno == EEXIST) return false;
    place_.fail("open");
  }
  // Another who saves here may have met it before it was locked, and be removing it as a leftover.
  if (!lock(file_) && errno == EWOULDBLOCK) return false;
  const std::optional<bool> is_named = place_.directory().has(name_, file_);
  if (!is_named) place_.fail("stat");
  return *is_named;
}

// False where this is not known to be a leftover, or cannot be removed.
bool TemporaryFile::remove_leftover() const {
  const int directory = place_.directory().get();
  struct stat status{};
  if (file_call<&FileCalls::fstatat>(directory, name_.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 ||
      !S_ISREG(status.st_mode)) {  // to open a device may do something
    return false;
  }
  const FileDescriptor file(file_call<&FileCalls::openat>(
      directory, name_.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0));
  return file.is_open() && lock(file) && place_.directory().has(name_, file).value_or(false) &&
         file_call<&FileCalls::unlinkat>(directory, name_.c_str(), 0) == 0;
}

TemporaryFile::~TemporaryFile() {
  if (!home_.is_here()) return;  // a forked child: the file is its parent's
  if (file_.is_open() && place_.directory().has(name_, file_).value_or(false)) {
    file_call<&FileCalls::unlinkat>(place_.directory().get(), name_.c_str(), 0);
    close_later();
  }
}

// To close the last descriptor of a file without a name gives back its pages and its space: of a
// large one that takes long, and whoever is interrupted need not wait for it.
void TemporaryFile::close_later() {
  struct stat status{};
  if (file_call<&FileCalls::fstat>(file_.get(), &status) != 0 || status.st_size < kLarge) return;
  try {
    std::thread([file = file_.get()] { file_calls.close(file); }).detach();
    file_.release();
  } catch (const std::exception&) {
    return;  // no thread to be had: then at once
  }
}

void TemporaryFile::take_after(const struct stat& old_file) {
  struct stat own{};
  if (file_call<&FileCalls::fstat>(file_.get(), &own) != 0) place_.fail("stat");
  if (own.st_uid != old_file.st_uid || own.st_gid != old_file.st_gid) {
    // Only the superuser gives files away, but members of a group may give them to it.
    const uid_t nobody = static_cast<uid_t>(-1);
    if (file_call<&FileCalls::fchown>(file_.get(), old_file.st_uid, old_file.st_gid) != 0) {
      file_call<&FileCalls::fchown>(file_.get(), nobody, old_file.st_gid);
    }
    if (file_call<&FileCalls::fstat>(file_.get(), &own) != 0) place_.fail("stat");
  }
  mode_t mode = old_file.st_mode & 0777;
  // What the old group was allowed another one is not, unless all others were.
  if (own.st_gid != old_file.st_gid) mode &= 0707 | ((mode & 0007) << 3);
  if ((own.st_mode & 0777) != mode && file_call<&FileCalls::fchmod>(file_.get(), mode) != 0) {
    place_.fail("chmod");
  }
}

void TemporaryFile::replace() {
  const Directory& directory = place_.directory();
  // Without locks, or where they are not the same for all, somebody may have removed it.
  const std::optional<bool> is_named = directory.has(name_, file_);
  if (!is_named) place_.fail("stat");
  if (!*is_named) {
    errno = ENOENT;
    place_.fail(concat("rename ", name_, ", which somebody has removed"));
  }
  if (file_call<&FileCalls::renameat>(directory.get(), name_.c_str(), directory.get(),
                                      place_.name().c_str()) != 0) {
    const int code = errno;
    // A server may have done it, and its answer been lost.
    if (!directory.has(place_.name(), file_).value_or(false)) {
      errno = code;
      place_.fail("rename");
    }
  }
  file_.reset(-1);
}

}  // namespace quire
