#include "quire/cpu/cache/row_writer.h"

#include <algorithm>
#include <cstring>

#include "quire/cpu/cache/stream_copy.h"

namespace quire {
namespace {

// The processor's own prefetching stops at the end of each page, so that one long row is asked for
// this far ahead. Several rows are read side by side, and need none.
constexpr std::int64_t kAhead = 8 * 1024;

void prefetch(const std::byte* from, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += kLineBytes) __builtin_prefetch(from + at);
}

}  // namespace

RowWriter::RowWriter(const ArrayView& rows, const ArrayView& cache, Layout layout,
                     const CacheKernels& kernels)
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
  RowsCopy rows = rows_;
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

void RowWriter::copy(const RowsCopy& rows) const {
  if (from_dtype_ != dtype_) return kernels_.convert(rows, from_dtype_, dtype_);
  for (std::int64_t row = 0; row < rows.count; ++row) {
    std::memcpy(rows.to + row * rows.to_stride, rows.from + row * rows.from_stride,
                static_cast<std::size_t>(rows.length * item_));
  }
}

void RowWriter::stream(const RowsCopy& rows) const {
  const std::int64_t row_bytes = rows.length * item_;
  if (from_dtype_ == dtype_ && rows.count == 1) {
    return stream_copy(rows.to, rows.from, row_bytes);
  }
  if (from_dtype_ == dtype_ && past_line(rows.to) == 0 && row_bytes % kLineBytes == 0) {
    std::byte* to = rows.to;
    for (std::int64_t row = 0; row < rows.count; ++row) {
      const std::byte* from = rows.from + row * rows.from_stride;
      for (std::int64_t at = 0; at < row_bytes; at += kLineBytes, to += kLineBytes) {
        stream_line(to, from + at);
      }
    }
    return;
  }
  // some rows, or a part of one, at a time
  LineStream lines(rows.to);
  const std::int64_t most_rows = std::max<std::int64_t>(1, LineStream::kMostBytes / row_bytes);
  const std::int64_t most = std::min(rows.length, LineStream::kMostBytes / item_);
  RowsCopy piece = rows;
  for (std::int64_t row = 0; row < rows.count; row += most_rows) {
    piece.count = std::min(most_rows, rows.count - row);
    for (std::int64_t at = 0; at < rows.length; at += most) {
      piece.length = std::min(most, rows.length - at);
      piece.from = rows.from + row * rows.from_stride + at * from_item_;
      piece.to_stride = piece.length * item_;
      piece.to = lines.next(piece.count * piece.to_stride);
      if (rows.count == 1) prefetch(piece.from + kAhead, piece.length * from_item_);
      copy(piece);
    }
  }
}

}  // namespace quire
