#include "quire/io/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "quire/io/file_bytes.h"

namespace quire {
namespace {

struct SplitPath {
  std::string directory, name;
};

// "a/b" is b in a, "b" is b in ".".
SplitPath split(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

// Whether what happened to the names in a directory is on the disk.
bool sync_directory(const std::string& path) {
  const FileDescriptor directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return directory.is_open() && fsync(directory.get()) == 0;
}

}  // namespace

AtomicFile::AtomicFile(std::string_view function, std::string path)
    : function_(function), path_(std::move(path)) {
  const auto [directory, name] = split(path_);
  directory_ = directory;
  saving_ = directory + "/." + name + ".saving";
  struct stat status{};
  if (name.empty() || (stat(path_.c_str(), &status) == 0 && S_ISDIR(status.st_mode))) {
    errno = EISDIR;
    fail("open");
  }
  do {  // the file that was waited for may be the saved one by now
    file_.reset(open(saving_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!file_.is_open()) fail("open");
    while (flock(file_.get(), LOCK_EX) != 0) {
      if (errno != EINTR) fail("lock");
    }
  } while (!is_ours());
  if (ftruncate(file_.get(), 0) != 0) fail("truncate");
}

AtomicFile::~AtomicFile() {
  if (file_.is_open() && !committed_ && is_ours()) unlink(saving_.c_str());
}

bool AtomicFile::is_ours() const {
  struct stat ours{}, there{};
  return fstat(file_.get(), &ours) == 0 && stat(saving_.c_str(), &there) == 0 &&
         ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
}

void AtomicFile::fail(const char* action) const { fail_file(function_, path_, action, errno); }

void AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written =
        pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
}

void AtomicFile::commit() {
  if (fsync(file_.get()) != 0) fail("fsync");
  if (std::rename(saving_.c_str(), path_.c_str()) != 0) fail("rename");
  committed_ = true;
  if (!sync_directory(directory_)) fail("fsync of the directory");
}

void make_directory(std::string_view function, const std::string& path) {
  struct stat status{};
  if (path.empty() || (stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))) return;
  const std::string above = split(path).directory;
  if (above != path) make_directory(function, above);
  if (mkdir(path.c_str(), 0777) == 0 ? sync_directory(above) : errno == EEXIST) return;
  fail_file(function, path, "mkdir", errno);
}

}  // namespace quire
