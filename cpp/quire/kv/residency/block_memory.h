// The memory that blocks lie in: of the process, or mapped from a file.
//
// The file is working memory, not a saved copy: it is made anew, takes all of its disk space at
// once, so that a disk that fills up later cannot hurt, and loses its name as soon as it is made.
// So nobody else can open or shorten it, and the system frees it with the pool, however the process
// ends. What stands in it can always be read and written, in memory or not; the methods below say
// what should be in memory, and never change what is read.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "quire/base/check.h"
#include "quire/base/file_descriptor.h"
#include "quire/base/file_error.h"

namespace quire {

// The machine has no room for a pool of this size. Python: MemoryError.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

// Bytes [begin, end) of the memory, whole pages.
struct PageRange {
  std::int64_t begin;
  std::int64_t end;
};

class BlockMemory {
 public:
  // Whether memory for all bytes is asked for at once, so that a pool that does not fit is refused,
  // or they are addresses alone, which cost memory where they are used; `pages` of it come and go
  // by themselves, where others may be huge ones.
  enum class Claim : std::uint8_t { all, addresses, pages };

  // Zeros, `bytes` of them. Throws OutOfMemory, saying that a pool of num_blocks does not fit.
  BlockMemory(std::int64_t bytes, std::int64_t num_blocks, Claim claim = Claim::all);
  // The same in a file at `path`, where there must be nothing, no link either. Throws FileError,
  // and leaves nothing there then, unless it is the name that cannot be removed.
  BlockMemory(std::int64_t bytes, const std::string& path);
  ~BlockMemory();
  BlockMemory(const BlockMemory&) = delete;
  BlockMemory& operator=(const BlockMemory&) = delete;

  std::byte* data() const { return data_; }
  bool is_file() const { return file_.is_open(); }

  static std::int64_t page_bytes();

  // Of memory that is no file: gives it back. Zeros stand there from now on.
  void clear(PageRange range) noexcept;

  // The rest is for files.

  // From here on the system reads nothing that it is not asked for.
  void read_only_what_is_asked() const noexcept;

  // Asks for ranges to be read, and does not wait.
  void ask_for(std::span<const PageRange> ranges) const noexcept;
  // Returns when they are in memory, or the call is interrupted, which this does not throw.
  void bring_in(std::span<const PageRange> ranges) const noexcept;
  // Gives their memory back, after it was written to the file where that is needed. What cannot be
  // written stays in memory, and require_written throws from then on.
  void give_back(std::span<const PageRange> ranges) noexcept;
  // Throws FileError once the file could not be written.
  void require_written(std::string_view function) const;

 private:
  void drop(PageRange range) const noexcept;
  bool is_any_in_memory(PageRange range) const noexcept;

  void* mapping_ = nullptr;  // what the system gave, mapping_bytes_ long
  std::size_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;        // in memory of the process: at the start of a huge page
  const FileDescriptor file_;        // none in memory of the process
  std::atomic<int> write_error_{0};  // errno's
};

}  // namespace quire
