// The calls of the system that make, change and find files, all in one place, so that a test can
// have each of them fail and see what is left then.
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#include <cerrno>
#include <cstddef>

namespace quire {

// What the system has under these names: -1, or MAP_FAILED, and errno where it refuses.
struct FileCalls {
  int (*openat)(int directory, const char* path, int flags, mode_t mode);
  int (*close)(int file);
  int (*fstat)(int file, struct stat* status);
  int (*fstatat)(int directory, const char* path, struct stat* status, int flags);
  int (*faccessat)(int directory, const char* path, int mode, int flags);
  ssize_t (*readlinkat)(int directory, const char* path, char* target, std::size_t size);
  int (*flock)(int file, int operation);
  ssize_t (*pwrite)(int file, const void* bytes, std::size_t size, off_t offset);
  int (*fchown)(int file, uid_t owner, gid_t group);
  int (*fchmod)(int file, mode_t mode);
  int (*fsync)(int file);
  int (*sync_file_range)(int file, off_t offset, off_t size, unsigned flags);
  int (*renameat)(int old_directory, const char* old_path, int directory, const char* path);
  int (*unlinkat)(int directory, const char* path, int flags);
  int (*mkdirat)(int directory, const char* path, mode_t mode);
  int (*fstatvfs)(int file, struct statvfs* status);
  int (*fallocate)(int file, off_t offset, off_t size);  // posix_fallocate, and errno as the others
  void* (*mmap)(void* address, std::size_t size, int protection, int flags, int file, off_t offset);
};

// The system's own. Only tests put others in their place, while nobody uses files.
extern FileCalls file_calls;

// file_call<&FileCalls::fsync>(file) makes a call, and again where a signal interrupted it.
template <auto kCall, class... Arguments>
auto file_call(Arguments... arguments) {
  for (;;) {
    const auto result = (file_calls.*kCall)(arguments...);
    if (result != -1 || errno != EINTR) return result;
  }
}

}  // namespace quire
