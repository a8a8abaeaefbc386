#include "quire/io/saved_place.h"

#include <fcntl.h>
#include <unistd.h>

#include <climits>
#include <memory>
#include <utility>

#include "quire/io/file_bytes.h"

namespace quire {
namespace {

constexpr int kMostLinks = 40;  // as many as the system follows

std::string_view kind_of(mode_t mode) {
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISLNK(mode)) return "a symbolic link";
  return "a device";
}

}  // namespace

SavedPlace::SavedPlace(std::string_view function, std::string path)
    : function_(function), path_(std::move(path)) {
  expect_path(function_, "path", path_);
  // First of all what the path leads to: the way to a pipe of this process cannot be gone by names.
  struct stat status{};
  if (file_call<&FileCalls::fstatat>(AT_FDCWD, path_.c_str(), &status, 0) == 0) {
    expect_regular(status);
  } else if (errno != ENOENT) {
    fail("stat");
  }
  const SplitPath place(followed());
  if (place.name.empty()) {
    errno = EISDIR;
    fail("open");
  }
  name_ = place.name;
  directory_ = std::make_unique<const Directory>(place.directory);
  if (!directory_->is_open()) fail("open the directory");
  look();
}

// The path of the file itself, after all links.
std::string SavedPlace::followed() const {
  std::string path = path_;
  for (int links = 0; links <= kMostLinks; ++links) {
    char target[PATH_MAX];
    const ssize_t size =
        file_call<&FileCalls::readlinkat>(AT_FDCWD, path.c_str(), &target[0], sizeof target);
    if (size < 0) {
      if (errno == EINVAL || errno == ENOENT) return path;  // no link, or nothing
      fail("read the link");
    }
    const std::string_view next(&target[0], static_cast<std::size_t>(size));
    path = next.starts_with('/') ? std::string(next) : concat(SplitPath(path).directory, "/", next);
  }
  errno = ELOOP;
  fail("read the link");
}

void SavedPlace::look() {
  struct stat status{};
  if (file_call<&FileCalls::fstatat>(directory_->get(), name_.c_str(), &status,
                                     AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return;
    fail("stat");
  }
  expect_regular(status);
  constexpr std::string_view keep = "replace a file that is read-only";
  if ((status.st_mode & 0222) == 0) {  // the superuser may write it, but somebody wants to keep it
    errno = EACCES;
    fail(keep);
  }
  if (file_call<&FileCalls::faccessat>(directory_->get(), name_.c_str(), W_OK, AT_EACCESS) != 0 &&
      errno != ENOENT) {
    fail(errno == EACCES ? keep : "access");
  }
  old_ = status;
}

void SavedPlace::expect_regular(const struct stat& status) const {
  if (S_ISREG(status.st_mode)) return;
  if (S_ISDIR(status.st_mode)) {
    errno = EISDIR;
    fail("open");
  }
  raise<ValueError>(place(function_, "path"), "got ", path_, ": ", kind_of(status.st_mode),
                    ", expected a regular file or none");
}

void SavedPlace::fail(std::string_view action) const { fail_file(function_, path_, action, errno); }

}  // namespace quire
