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

  struct Span {  // of rows
    TileRows rows;
    std::int64_t count;
    std::int64_t row_bytes;

    std::int64_t lines() const { return count * ((row_bytes + kLine - 1) / kLine); }
  };
  // What a queue goes through, from its second span on; it outlives the queue.
  struct Spans {
    Span spans[4];
    int count;
  };

  // All lines of the keys and values in a tile, up to the first of an open block, of `heads` KV
  // heads from `head` on that lie together in each token, in the course of `work`, in units of
  // one's own. `none`: no lines.
  template <class Tile>
  static LineQueue of_tile(const AttentionTask& task, const Tile& tile, std::int64_t head,
                           std::int64_t heads, bool none, std::int64_t work, Spans& spans) {
    using Rows = AttentionRows<S>;
    spans.count = 0;
    const auto add = [&](TileRows rows, std::int64_t count, std::int64_t row_bytes) {
      if (count > 0) spans.spans[spans.count++] = {rows, count, heads * row_bytes};
    };
    if (!none) {
      tile.prefetch_scales(task, head, heads);
      const int count = tile.num_sealed();
      add(tile.k_grids(task, head), tile.num_k_grids(), task.head_dim * sizeof(Int4Grid));
      add(tile.v_grids(task, head), tile.num_v_grids(), sizeof(Int4Grid));
      add(tile.k(task, head), count, Rows::row_bytes(task.k.dtype, task.head_dim));
      add(tile.v(task, head), count, Rows::row_bytes(task.v.dtype, task.v_head_dim));
    }
    return LineQueue(spans, work);
  }

  // Some of the work is done.
  void advance(std::int64_t work) {
    for (credit_ += work * rate_; credit_ >= kOne; credit_ -= kOne) ask();
  }

 private:
  static constexpr std::int64_t kOne = 1 << 16;  // a line

  LineQueue(const Spans& spans, std::int64_t work)
      : more_(spans.spans), more_end_(spans.spans + spans.count) {
    std::int64_t lines = 0;
    for (const Span* span = more_; span != more_end_; ++span) lines += span->lines();
    // rounded up, so that all is asked for before the work is over, if it is done
    rate_ = (lines * kOne + work - 1) / work;
    go_on();
  }

  void ask() {
    S::prefetch(*row_ + offset_ + at_);
    at_ += kLine;
    if (at_ < row_bytes_) return;
    at_ = 0;
    if (++row_ == end_) go_on();
  }

  // To the next span, or to the end.
  void go_on() {
    if (more_ == more_end_) {
      rate_ = credit_ = 0;
      return;
    }
    const Span& span = *more_++;
    row_ = span.rows.rows;
    end_ = row_ + span.count;
    offset_ = span.rows.offset;
    row_bytes_ = span.row_bytes;
  }

  const std::byte* const* row_ = nullptr;
  const std::byte* const* end_ = nullptr;
  std::int64_t offset_ = 0, row_bytes_ = 0;
  std::int64_t at_ = 0;
  std::int64_t rate_, credit_ = 0;
  const Span* more_;
  const Span* more_end_;
};

}  // namespace quire
