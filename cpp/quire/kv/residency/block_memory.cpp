#include "quire/kv/residency/block_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "quire/base/interruption.h"

namespace quire {
namespace {

// Attention walks blocks in any order: with pages of 4 KiB most of its reads would miss the TLB.
constexpr std::uintptr_t kHugePage = std::uintptr_t{1} << 21;

// MADV_POPULATE_READ of Linux 5.14, which older headers do not name.
constexpr int kPopulateRead = 22;

// At once: of a longer range the system reads the beginning, as much as a disk takes or it would
// read ahead, whichever is more.
constexpr std::int64_t kMostAskedFor = std::int64_t{512} << 10;

// At once: what a disk brings in a moment, so that in between a call can be interrupted. Likewise
// of the space that a file takes.
constexpr std::int64_t kMostBroughtIn = std::int64_t{8} << 20;
constexpr std::int64_t kMostTaken = std::int64_t{64} << 20;

// To drop what others map meanwhile.
constexpr int kMostAttempts = 4;

template <class... Parts>
[[noreturn]] void raise_file_error(int code, const Parts&... parts) {
  throw FileError(concat("BlockPool: backing_file: got ", parts..., ": ", std::strerror(code)),
                  code);
}

// A limit is looked at beforehand: the system answers who passes it with a signal that ends the
// process.
FileDescriptor new_file(const std::string& path, std::int64_t bytes) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < static_cast<rlim_t>(bytes)) {
    raise_file_error(EFBIG, path, " for ", bytes, " bytes, expected at most the ", limit.rlim_cur,
                     " that this process may write");
  }
  return FileDescriptor(file_call<&FileCalls::openat>(AT_FDCWD, path.c_str(),
                                                      O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
}

// Takes the file's space, in steps between which the call can be interrupted. Whether there is room
// for all of it is asked first: a disk that is filled up until it refuses is full for everybody
// else meanwhile.
void take_space(int file, const std::string& path, std::int64_t bytes) {
  const auto require = [&](bool has_room, int code) {
    if (!has_room)
      raise_file_error(code, path, ", expected a disk with room for ", bytes, " bytes");
  };
  struct statvfs disk{};
  if (file_call<&FileCalls::fstatvfs>(file, &disk) == 0 && disk.f_blocks > 0) {
    require(static_cast<std::uint64_t>(bytes) / disk.f_frsize < disk.f_bavail, ENOSPC);
  }
  for (std::int64_t taken = 0; taken < bytes && !is_interrupted(); taken += kMostTaken) {
    const std::int64_t more = std::min(kMostTaken, bytes - taken);
    const int done =
        file_call<&FileCalls::fallocate>(file, static_cast<off_t>(taken), static_cast<off_t>(more));
    require(done == 0, errno);
  }
  confirm_uninterrupted();
}

}  // namespace

std::int64_t BlockMemory::page_bytes() { return sysconf(_SC_PAGESIZE); }

BlockMemory::BlockMemory(std::int64_t bytes, std::int64_t num_blocks, Claim claim)
    : mapping_bytes_(static_cast<std::size_t>(bytes) + kHugePage) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (claim == Claim::all ? 0 : MAP_NORESERVE);
  mapping_ = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapping_ == MAP_FAILED) {
    raise<OutOfMemory>("BlockPool: num_blocks", "got ", num_blocks, " (", bytes,
                       " bytes), expected a pool that fits in this machine's memory");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
  data_ = static_cast<std::byte*>(mapping_) + (kHugePage - address % kHugePage) % kHugePage;
#ifdef MADV_HUGEPAGE
  madvise(data_, static_cast<std::size_t>(bytes),
          claim == Claim::pages ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);  // advice: may be declined
#endif
}

BlockMemory::BlockMemory(std::int64_t bytes, const std::string& path)
    : mapping_bytes_(static_cast<std::size_t>(bytes)), file_(new_file(path, bytes)) {
  if (!is_file()) raise_file_error(errno, path, ", expected the path of a file that can be made");
  if (file_call<&FileCalls::unlinkat>(AT_FDCWD, path.c_str(), 0) != 0) {
    raise_file_error(errno, path, ", expected a file whose name can be removed");
  }
  take_space(file_.get(), path, bytes);
  constexpr int kAccess = PROT_READ | PROT_WRITE;
  mapping_ = file_calls.mmap(nullptr, mapping_bytes_, kAccess, MAP_SHARED, file_.get(), 0);
  if (mapping_ == MAP_FAILED) raise_file_error(errno, path, ", expected a file that can be mapped");
  data_ = static_cast<std::byte*>(mapping_);
}

BlockMemory::~BlockMemory() { munmap(mapping_, mapping_bytes_); }

void BlockMemory::clear(PageRange range) noexcept {
  madvise(data_ + range.begin, static_cast<std::size_t>(range.end - range.begin), MADV_DONTNEED);
}

// Otherwise a page that is missing brings in megabytes around it, which nobody asked for where
// blocks lie in any order.
void BlockMemory::read_only_what_is_asked() const noexcept {
  madvise(data_, mapping_bytes_, MADV_RANDOM);
}

void BlockMemory::ask_for(std::span<const PageRange> ranges) const noexcept {
  for (const auto [begin, end] : ranges) {
    for (std::int64_t at = begin; at < end; at += kMostAskedFor) {
      const std::int64_t bytes = std::min(kMostAskedFor, end - at);
      madvise(data_ + at, static_cast<std::size_t>(bytes), MADV_WILLNEED);
    }
  }
}

void BlockMemory::bring_in(std::span<const PageRange> ranges) const noexcept {
  for (const auto [begin, end] : ranges) {
    for (std::int64_t at = begin; at < end; at += kMostBroughtIn) {
      if (is_interrupted()) return;
      // What an old system does not know, or cannot do now, the first access does.
      const std::int64_t bytes = std::min(kMostBroughtIn, end - at);
      madvise(data_ + at, static_cast<std::size_t>(bytes), kPopulateRead);
    }
  }
}

void BlockMemory::give_back(std::span<const PageRange> ranges) noexcept {
  constexpr unsigned kWrite = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE;
  for (const auto [begin, end] : ranges) {
    madvise(data_ + begin, static_cast<std::size_t>(end - begin), MADV_DONTNEED);
  }
  // All are on their way to the disk before the first is waited for.
  for (const auto [begin, end] : ranges) sync_file_range(file_.get(), begin, end - begin, kWrite);
  for (const auto [begin, end] : ranges) {
    if (sync_file_range(file_.get(), begin, end - begin, kWrite | SYNC_FILE_RANGE_WAIT_AFTER) !=
        0) {
      write_error_ = errno;
      continue;
    }
    drop({begin, end});
  }
}

// What is mapped at this moment stays in the page cache, and a fault of another thread maps what
// lies beside the page that it is for. So this looks, and does it again.
void BlockMemory::drop(PageRange range) const noexcept {
  const auto [begin, end] = range;
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    if (attempt > 0) madvise(data_ + begin, static_cast<std::size_t>(end - begin), MADV_DONTNEED);
    posix_fadvise(file_.get(), begin, end - begin, POSIX_FADV_DONTNEED);
    if (!is_any_in_memory(range)) return;
  }
}

bool BlockMemory::is_any_in_memory(PageRange range) const noexcept {
  constexpr std::int64_t kPages = 2048;  // at a time
  unsigned char states[kPages];
  for (std::int64_t at = range.begin; at < range.end; at += kPages * page_bytes()) {
    const std::int64_t bytes = std::min(kPages * page_bytes(), range.end - at);
    if (mincore(data_ + at, static_cast<std::size_t>(bytes), states) != 0) return false;
    const auto* const states_end = states + (bytes + page_bytes() - 1) / page_bytes();
    if (std::any_of(static_cast<const unsigned char*>(states), states_end,
                    [](unsigned char state) { return (state & 1) != 0; })) {
      return true;
    }
  }
  return false;
}

void BlockMemory::require_written(std::string_view function) const {
  const int error = write_error_;
  if (error == 0) return;
  throw FileError(concat(place(function, "backing_file"),
                         ": got a file that could not be written, expected one that can: ",
                         std::strerror(error)),
                  error);
}

}  // namespace quire
