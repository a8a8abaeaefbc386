// Rows, dealt to threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "quire/base/aligned_buffer.h"
#include "quire/base/lent.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/cache/stream_copy.h"
#include "quire/ops/row_arrays.h"

namespace quire {

// What pays for a thread, in numbers that are read or written: some 20 us.
inline constexpr std::int64_t kRowWorkOfOne = 1 << 16;
// Numbers of an item: large enough to cost more than being dealt, small enough for a cache.
inline constexpr std::int64_t kRowsAtOnce = 1 << 13;

// Calls body(first row, number of rows) for all rows of `numbers_of_row` numbers each, in runs that
// are a fixed step apart. Rows are computed one by one, so no bit knows how they are dealt.
template <class Body>
void deal_rows(const RowAxes& rows, std::int64_t numbers_of_row, int num_threads,
               const Body& body) {
  const std::int64_t num_rows = rows.num_rows();
  const std::int64_t at_once = std::max<std::int64_t>(1, kRowsAtOnce / numbers_of_row);
  const std::int64_t items = (num_rows + at_once - 1) / at_once;
  const Crew crew = crew_for(num_rows * numbers_of_row, kRowWorkOfOne, items, num_threads);
  deal(crew, items, [&](std::int64_t item, int) {
    const std::int64_t end = std::min(num_rows, (item + 1) * at_once);
    for (std::int64_t row = item * at_once; row < end;) {
      const std::int64_t count = rows.run_from(row, end);
      body(row, count);
      row += count;
    }
  });
}

// Where rows of a result are computed. A result that is too large to be read from a cache soon, and
// that nothing is read from, is written past the caches (cache/stream_copy.h): its memory need not
// be read first, which is a third of the traffic. Rows then go through a buffer of the thread: of
// results that are written inside of one another each has one of its own, a type of `Buffer`, as
// what is lent is not there to be lent again.
template <class Buffer = AlignedBuffer>
class RowResult {
 public:
  RowResult(const ArrayView& out, std::initializer_list<const ArrayView*> read)
      : row_bytes_(out.shape[out.ndim - 1] * static_cast<std::int64_t>(size_of(out.dtype))) {
    const ByteRange range = byte_range(out);
    streams_ = static_cast<std::int64_t>(range.end - range.begin) >= kStreamed;
    for (const ArrayView* const array : read) {
      streams_ = streams_ && !range.overlaps(byte_range(*array));
    }
  }

  // Calls body(where the first row goes, the step from one to the next), for `count` rows that are
  // to be at `to`, `step` bytes apart.
  template <class Body>
  void write(std::byte* to, std::int64_t step, std::int64_t count, const Body& body) const {
    if (!streams_) return body(to, step);
    const Lent<Buffer> buffer;
    const std::int64_t room = (row_bytes_ + kCacheLine - 1) / kCacheLine * kCacheLine;
    constexpr auto kFloat = static_cast<std::int64_t>(sizeof(float));
    auto* const rows = reinterpret_cast<std::byte*>(buffer->reserve(room / kFloat, count));
    body(rows, room);
    for (std::int64_t row = 0; row < count; ++row) {
      stream_copy(to + row * step, rows + row * room, row_bytes_);
    }
    stream_fence();
  }

 private:
  static constexpr std::int64_t kStreamed = std::int64_t{32} << 20;

  std::int64_t row_bytes_;
  bool streams_;
};

}  // namespace quire
