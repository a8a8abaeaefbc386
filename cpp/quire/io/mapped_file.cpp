#include "quire/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "quire/base/file_descriptor.h"

namespace quire {
namespace {

// What is read again comes from the page cache, or from the disk.
void unmap(std::span<const std::byte> some) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(some.data());
  const std::uintptr_t before = address % page;
  madvise(const_cast<std::byte*>(some.data()) - before, some.size() + before, MADV_DONTNEED);
}

}  // namespace

MappedFile::MappedFile(std::string_view function, std::string path, bool lets_go)
    : contents_{function, std::move(path), {}, lets_go ? &unmap : nullptr} {
  const auto fail = [&](const char* action) { fail_file(function, contents_.path, action, errno); };
  expect_path(function, "path", contents_.path);
  // not to wait for the writer of a pipe
  const FileDescriptor file(file_call<&FileCalls::openat>(AT_FDCWD, contents_.path.c_str(),
                                                          O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0));
  if (!file.is_open()) fail("open");
  struct stat status{};
  if (file_call<&FileCalls::fstat>(file.get(), &status) != 0) fail("stat");
  if (!S_ISREG(status.st_mode)) contents_.refuse("no regular file, expected one");
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return;
  void* const memory = file_calls.mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (memory == MAP_FAILED) fail("mmap");
  madvise(memory, size, MADV_SEQUENTIAL);  // advice: may be declined
  contents_.bytes = {static_cast<const std::byte*>(memory), size};
}

MappedFile::~MappedFile() {
  if (contents_.bytes.empty()) return;
  munmap(const_cast<std::byte*>(contents_.bytes.data()), contents_.bytes.size());
}

}  // namespace quire
