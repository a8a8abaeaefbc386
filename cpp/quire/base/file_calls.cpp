#include "quire/base/file_calls.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

namespace quire {
namespace {

// Takes its mode only where it makes a file, and so has no pointer of FileCalls' kind.
int open_at(int directory, const char* path, int flags, mode_t mode) {
  return openat(directory, path, flags, mode);
}

// Returns its error.
int fallocate_all(int file, off_t offset, off_t size) {
  const int error = posix_fallocate(file, offset, size);
  if (error == 0) return 0;
  errno = error;
  return -1;
}

}  // namespace

FileCalls file_calls = {
    .openat = &open_at,
    .close = &::close,
    .fstat = &::fstat,
    .fstatat = &::fstatat,
    .faccessat = &::faccessat,
    .readlinkat = &::readlinkat,
    .flock = &::flock,
    .pwrite = &::pwrite,
    .fchown = &::fchown,
    .fchmod = &::fchmod,
    .fsync = &::fsync,
    .sync_file_range = &::sync_file_range,
    .renameat = &::renameat,
    .unlinkat = &::unlinkat,
    .mkdirat = &::mkdirat,
    .fstatvfs = &::fstatvfs,
    .fallocate = &fallocate_all,
    .mmap = &::mmap,
};

}  // namespace quire
