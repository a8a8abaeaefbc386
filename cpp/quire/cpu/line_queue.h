// Lines of memory asked for in advance, spread over the work that is done meanwhile, so that memory
// is never idle and its queue never full.
#pragma once

#include <cstdint>

#include "quire/cpu/key_tile.h"

namespace quire {

template <class S>
class LineQueue {
 public:
  static constexpr std::int64_t kLine = 64;

  // All lines of the keys and values in a tile, up to the first of an open block, of `heads` KV
  // heads from `head` on that lie together in each token, in the course of `work`, in units of
  // one's own. `none`: no lines.
  template <class Tile>
  static LineQueue of_tile(const AttentionTask& task, const Tile& tile, std::int64_t head,
                           std::int64_t heads, bool none, std::int64_t work) {
    using Rows = AttentionRows<S>;
    const int count = none ? 0 : tile.num_sealed();
    if (!none) tile.prefetch_scales(task, head, heads);
    const std::int64_t k_bytes = Rows::row_bytes(task.k.dtype, task.head_dim);
    const std::int64_t v_bytes = Rows::row_bytes(task.v.dtype, task.v_head_dim);
    return LineQueue({tile.k(task, head), count, heads * k_bytes},
                     {tile.v(task, head), count, heads * v_bytes}, work);
  }

  // Some of the work is done.
  void advance(std::int64_t work) {
    for (credit_ += work * rate_; credit_ >= kOne; credit_ -= kOne) ask();
  }

 private:
  static constexpr std::int64_t kOne = 1 << 16;  // a line

  struct Span {  // of rows
    TileRows rows;
    int count;
    std::int64_t row_bytes;

    std::int64_t lines() const { return count * ((row_bytes + kLine - 1) / kLine); }
  };

  LineQueue(const Span& first, const Span& second, std::int64_t work)
      : row_(first.rows.rows),
        end_(first.rows.rows + first.count),
        offset_(first.rows.offset),
        row_bytes_(first.row_bytes),
        second_(second) {
    // rounded up, so that all is asked for before the work is over, if it is done
    rate_ = ((first.lines() + second.lines()) * kOne + work - 1) / work;
    if (first.count == 0) go_on();
  }

  void ask() {
    S::prefetch(*row_ + offset_ + at_);
    at_ += kLine;
    if (at_ < row_bytes_) return;
    at_ = 0;
    if (++row_ == end_) go_on();
  }

  // To the second span, or to the end.
  void go_on() {
    if (second_.count == 0) {
      rate_ = credit_ = 0;
      return;
    }
    row_ = second_.rows.rows;
    end_ = row_ + second_.count;
    offset_ = second_.rows.offset;
    row_bytes_ = second_.row_bytes;
    second_.count = 0;
  }

  const std::byte* const* row_;
  const std::byte* const* end_;
  std::int64_t offset_, row_bytes_;
  std::int64_t at_ = 0;
  std::int64_t rate_, credit_ = 0;
  Span second_;
};

}  // namespace quire
