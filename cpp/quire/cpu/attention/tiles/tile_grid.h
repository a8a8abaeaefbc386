// The grid of keys that attention in tiles computes on. It decides bits: a row has the same ones
// wherever it is computed because nothing else of the call enters into its sums.
//
//   cell    1024 keys   its sums are carried over into those of the cells before, in order
//   tile     128 keys   a row's maximum may rise before each, by the keys that the row sees of it
//   step      32 keys   one multiplication of tiles: even and odd keys apart, then together
//
// All begin at multiples of their size, counted from the sequence's first key. A key that a row
// does not see has a weight of 0 in its step; steps and tiles that it sees nothing of change
// nothing.
#pragma once

#include <cstdint>

namespace quire {

struct TileGrid {
  static constexpr int kStep = 32;
  static constexpr int kKeys = 128;
  static constexpr std::int64_t kCell = 1024;

  static constexpr int kRows = 16;  // query rows that go through tiles together

  static constexpr std::int64_t cell_of(std::int64_t key) { return key / kCell; }
  static constexpr std::int64_t tile_begin(std::int64_t key) { return key / kKeys * kKeys; }
};

}  // namespace quire
