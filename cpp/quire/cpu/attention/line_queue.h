// Lines of memory asked for in advance, spread over the work that is done meanwhile, so that memory
// is never idle and its queue never full.
#pragma once

#include <cstdint>

#include "quire/cpu/attention/tile_extents.h"

namespace quire {

template <class S>
class LineQueue {
 public:
  using Extents = TileExtents<S>;

  // All lines of `extents`, which outlive it, in the course of `work`, in units of one's own.
  LineQueue(const Extents& extents, std::int64_t work)
      : next_(extents.begin()), end_(extents.end()) {
    std::int64_t lines = 0;
    for (auto each = next_; each != end_; ++each) {
      lines += (each->end - each->begin + kLine - 1) / kLine;
    }
    // rounded up, so that all is asked for before the work is over, if it is done
    rate_ = (lines * kOne + work - 1) / work;
    go_on();
  }

  // Some of the work is done.
  void advance(std::int64_t work) { earn(credit_of(work)); }

  // The same in two steps, as a loop need take only the second, an addition.
  std::int64_t credit_of(std::int64_t work) const { return work * rate_; }
  void earn(std::int64_t credit) {
    for (credit_ += credit; credit_ >= kOne; credit_ -= kOne) ask();
  }

 private:
  static constexpr std::int64_t kLine = Extents::kLine;
  static constexpr std::int64_t kOne = 1 << 16;  // a line

  void ask() {
    S::prefetch(line_);
    line_ += kLine;
    if (line_ >= extent_end_) go_on();
  }

  // To the next extent, or to the end.
  void go_on() {
    if (next_ == end_) {
      rate_ = 0;
      credit_ = INT64_MIN / 2;  // whatever is still earned
      return;
    }
    line_ = next_->begin;
    extent_end_ = next_->end;
    ++next_;
  }

  const std::byte* line_ = nullptr;
  const std::byte* extent_end_ = nullptr;
  std::int64_t rate_, credit_ = 0;
  const typename Extents::Extent* next_;
  const typename Extents::Extent* end_;
};

}  // namespace quire
