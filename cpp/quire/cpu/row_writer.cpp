#include "quire/cpu/row_writer.h"

#include <algorithm>
#include <cstring>

#include "quire/cpu/stream_copy.h"

namespace quire {
namespace {

constexpr std::int64_t kLine = 64;

// The processor's own prefetching stops at the end of each page, so that one long row is asked for
// this far ahead. Several rows are read side by side, and need none.
constexpr std::int64_t kAhead = 8 * 1024;

void prefetch(const std::byte* from, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(from + at);
}

}  // namespace

RowWriter::RowWriter(const ArrayView& rows, const ArrayView& cache, Layout layout,
                     const Kernels& kernels)
    : rows_{rows.data, rows.strides[0], cache.data, cache.strides[layout == Layout::NHD ? 1 : 2],
            0,         rows.shape[2]},
      from_dtype_(rows.dtype),
      dtype_(cache.dtype),
      from_item_(static_cast<std::int64_t>(size_of(rows.dtype))),
      item_(static_cast<std::int64_t>(size_of(cache.dtype))),
      heads_(rows.shape[1]),
      from_head_stride_(rows.strides[1]),
      head_stride_(cache.strides[layout == Layout::NHD ? 2 : 1]),
      block_stride_(cache.strides[0]),
      kernels_(kernels) {
  // heads that follow one another in both arrays are one long row
  if (head_stride_ == rows_.length * item_ && from_head_stride_ == rows_.length * from_item_) {
    rows_.length *= heads_;
    heads_ = 1;
  }
}

// A head at a time, as its tokens lie together in the cache.
void RowWriter::write(const SlotRun& run, bool streamed) const {
  Rows rows = rows_;
  rows.from += run.row * rows.from_stride;
  rows.to += run.block * block_stride_ + run.offset * rows.to_stride;
  rows.count = run.count;
  const bool adjacent = rows.to_stride == rows.length * item_;
  if (adjacent && rows.from_stride == rows.length * from_item_) {
    rows.length *= rows.count;
    rows.count = 1;
  }
  for (std::int64_t head = 0; head < heads_; ++head) {
    if (streamed && adjacent) {
      stream(rows);
    } else {
      copy(rows);
    }
    rows.from += from_head_stride_;
    rows.to += head_stride_;
  }
}

void RowWriter::convert(const std::byte* from, std::byte* to, std::int64_t length) const {
  if (from_dtype_ == dtype_) {
    std::memcpy(to, from, static_cast<std::size_t>(length * item_));
  } else {
    kernels_.convert(from, from_dtype_, to, dtype_, length);
  }
}

void RowWriter::copy(const Rows& rows) const {
  for (std::int64_t row = 0; row < rows.count; ++row) {
    convert(rows.from + row * rows.from_stride, rows.to + row * rows.to_stride, rows.length);
  }
}

void RowWriter::stream(const Rows& rows) const {
  const std::int64_t row_bytes = rows.length * item_;
  const bool by_lines =
      rows.count == 1 || (reinterpret_cast<std::uintptr_t>(rows.to) | row_bytes) % kLine == 0;
  if (from_dtype_ == dtype_ && by_lines) {
    for (std::int64_t row = 0; row < rows.count; ++row) {
      stream_copy(rows.to + row * row_bytes, rows.from + row * rows.from_stride, row_bytes);
    }
    return;
  }
  LineStream lines(rows.to);
  const std::int64_t most = LineStream::kMostBytes / item_;  // elements of a piece
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const std::byte* from = rows.from + row * rows.from_stride;
    for (std::int64_t at = 0; at < rows.length; at += most) {
      const std::int64_t length = std::min(most, rows.length - at);
      if (rows.count == 1) prefetch(from + kAhead, length * from_item_);
      convert(from, lines.next(length * item_), length);
      from += length * from_item_;
    }
  }
}

}  // namespace quire
