#include "quire/io/directory.h"

#include <fcntl.h>

#include "quire/io/file_bytes.h"

namespace quire {

SplitPath::SplitPath(const std::string& path) : directory("."), name(path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return;
  directory = slash == 0 ? "/" : path.substr(0, slash);
  name = path.substr(slash + 1);
}

Directory::Directory(const std::string& path)
    : descriptor_(file_call<&FileCalls::openat>(AT_FDCWD, path.c_str(),
                                                O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)) {}

std::optional<bool> Directory::has(const std::string& name, const FileDescriptor& file) const {
  struct stat there{}, open{};
  if (file_call<&FileCalls::fstat>(file.get(), &open) != 0) return std::nullopt;
  if (file_call<&FileCalls::fstatat>(get(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? std::optional(false) : std::nullopt;
  }
  return there.st_ino == open.st_ino && there.st_dev == open.st_dev;
}

bool Directory::sync() const {
  return file_call<&FileCalls::fsync>(get()) == 0 || errno == EINVAL || errno == ENOSYS ||
         errno == EOPNOTSUPP;
}

NewDirectories::NewDirectories(std::string_view function, const std::string& path) {
  try {
    make(function, path);
  } catch (...) {
    remove();
    throw;
  }
}

void NewDirectories::make(std::string_view function, const std::string& path) {
  struct stat status{};
  if (file_call<&FileCalls::fstatat>(AT_FDCWD, path.c_str(), &status, 0) == 0) {
    if (S_ISDIR(status.st_mode)) return;
    fail_file(function, path, "mkdir", EEXIST);
  }
  if (errno != ENOENT) fail_file(function, path, "stat", errno);
  const SplitPath split(path);
  if (split.directory != path) make(function, split.directory);
  if (split.name.empty()) return;  // as after a slash
  const Directory above(split.directory);
  if (!above.is_open()) fail_file(function, path, "open the directory above", errno);
  if (file_call<&FileCalls::mkdirat>(AT_FDCWD, path.c_str(), mode_t{0777}) == 0) {
    made_.push_back(path);
    if (!above.sync()) fail_file(function, path, "fsync of the directory above", errno);
    return;
  }
  const int code = errno;
  const bool is_there = file_call<&FileCalls::fstatat>(AT_FDCWD, path.c_str(), &status, 0) == 0;
  if (code != EEXIST || !is_there)
    fail_file(function, path, "mkdir", code);  // else made by another
}

void NewDirectories::remove() noexcept {
  for (; !made_.empty(); made_.pop_back()) {
    file_call<&FileCalls::unlinkat>(AT_FDCWD, made_.back().c_str(), AT_REMOVEDIR);
  }
}

}  // namespace quire
