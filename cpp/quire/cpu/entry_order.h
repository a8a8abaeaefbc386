// The order in which the entries of packed keys and queries are multiplied and added up.
#pragma once

#include <cstdint>

#include "quire/cpu/value_columns.h"

namespace quire {

// As the elements of a key lie.
struct NaturalOrder {
  static constexpr std::int64_t at(std::int64_t entry) { return entry; }
};

// That of direct_tile.h, bit for bit: there each lane of a vector adds up its own entries of a key,
// and the sums of lanes are added up last. Here a lane is a stretch of `lane_entries` entries. The
// stretches stand in the order of S::kAddOrder, and are added as a counter in base two carries:
// whenever two sums of as many lanes stand there, they become one.
template <class S>
class LaneOrder {
 public:
  static constexpr int kLevels = [] {
    int levels = 0;
    while ((1 << levels) < S::kWidth) ++levels;
    return levels;
  }();

  // Of keys of dtype T and a head size padded to a multiple of 2 * kWidth.
  template <class T, class Product>
  static LaneOrder of_keys(std::int64_t padded_head_dim) {
    LaneOrder order;
    order.chunk_ = 2 * S::kWidth / Product::kElements;
    order.step_ = order.chunk_ / S::kWidth;
    order.lane_entries_ = padded_head_dim / (2 * S::kWidth) * order.step_;
    std::int64_t rank[S::kWidth];
    for (int i = 0; i < S::kWidth; ++i) rank[S::kAddOrder[i]] = i * order.lane_entries_;
    if (Product::kElements == 2) {  // a lane's elements lie together
      for (int lane = 0; lane < S::kWidth; ++lane) order.places_[lane] = rank[lane];
      return order;
    }
    const typename S::Vec lo = S::iota();
    const auto pair = S::template from_natural<T>({lo, S::add(lo, S::set1(S::kWidth))});
    float elements[2 * S::kWidth];
    S::store(elements, pair.lo);
    S::store(elements + S::kWidth, pair.hi);
    for (int lane = 0; lane < S::kWidth; ++lane) {
      order.places_[static_cast<int>(elements[lane])] = rank[lane];
      order.places_[static_cast<int>(elements[S::kWidth + lane])] = rank[lane] + 1;
    }
    return order;
  }

  std::int64_t at(std::int64_t entry) const {
    return places_[entry % chunk_] + entry / chunk_ * step_;
  }
  std::int64_t lane_entries() const { return lane_entries_; }

 private:
  std::int64_t chunk_, step_;  // entries of a chunk of 2 * kWidth elements, and of a lane of it
  std::int64_t lane_entries_;
  std::int64_t places_[2 * S::kWidth];  // of the first chunk's entries
};

}  // namespace quire
