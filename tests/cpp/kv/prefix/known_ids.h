// Sequences of few different ids, which begin like each other.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kv/prefix/prefix_rows.h"

namespace quire::testing {

class KnownIds {
 public:
  explicit KnownIds(std::int64_t block_size) : block_size_(block_size) {}

  // The beginning of something known, and some more. below(n): a number of [0, n).
  template <class Below>
  Ids some(Below below) {
    Ids ids;
    if (!known_.empty() && below(4) > 0) {
      ids = known_[below(known_.size())];
      ids.resize(below(ids.size() + 1));
    }
    for (std::int64_t n = below(2 * block_size_ + 2); n > 0; --n) ids.push_back(below(3) - 1);
    if (ids.size() > static_cast<std::size_t>(5 * block_size_)) ids.resize(5 * block_size_);
    known_.push_back(ids);
    if (known_.size() > 30) known_.erase(known_.begin() + below(known_.size()));
    return ids;
  }

  // One of them; none where none is known.
  template <class Below>
  Ids any(Below below) const {
    return known_.empty() ? Ids() : known_[below(known_.size())];
  }
  void add(Ids ids) { known_.push_back(std::move(ids)); }

 private:
  const std::int64_t block_size_;
  std::vector<Ids> known_;
};

}  // namespace quire::testing
