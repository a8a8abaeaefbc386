// What query rows see of a tile of keys: 16 rows, one in each lane.
#pragma once

#include "quire/cpu/attention/key_tile.h"
#include "quire/cpu/attention/tiles/tile_grid.h"

namespace quire {

// Keys are counted from the tile's first.
struct TileSight {
  int first, last;  // that some row sees; none where first >= last
  bool whole;       // every row sees every key
};

// A tile on the grid, of which a part may have the keys [begin, end) alone, counted from its first.
struct TilePlace {
  std::int64_t first;
  int begin, end;
};

template <class S>
class TileSights {
 public:
  using Rows = AttentionRows<S>;
  static constexpr int kKeys = TileGrid::kKeys;
  static constexpr int kLanes = TileGrid::kRows;

  TileSights(const AttentionTask& task, const AttentionUnit& unit)
      : unit_(unit),
        group_(task.group),
        count_(unit.num_tokens * task.group),
        first_key_(unit.num_tokens > 0
                       ? Rows::larger(0, Rows::first_key(unit, Rows::token_of(unit, 0).own_key))
                       : 0) {}

  // Rows of a KV head.
  std::int64_t count() const { return count_; }

  // Whether a key may be read: one that some row sees, if a tree does not hide it. Others may lie
  // in holes.
  bool is_held(std::int64_t key) const { return are_held(key, key + 1); }
  bool are_held(std::int64_t begin, std::int64_t end) const {
    return end <= unit_.sink_tokens || begin >= first_key_ || unit_.sink_tokens >= first_key_;
  }

  bool is_held(const TilePlace& place, int key) const {
    return key >= place.begin && key < place.end && is_held(place.first + key);
  }

  // Where the rows of a tile lie, [kKeys], or `zeros` for those that are not to be read.
  void find_rows(const TileRows& rows, const TilePlace& place, const BFloat16* zeros,
                 const BFloat16** to) const {
    const bool all = are_held(place.first + place.begin, place.first + place.end);
    for (int key = 0; key < kKeys; ++key) {
      const bool held = all ? key >= place.begin && key < place.end : is_held(place, key);
      to[key] = held ? reinterpret_cast<const BFloat16*>(rows.rows[key - place.begin] + rows.offset)
                     : zeros;
    }
  }

  // Whether all rows see all of the tile that begins there.
  bool all_see(std::int64_t tile) const {
    return sees_all(0, tile) && sees_all(unit_.num_tokens - 1, tile);
  }

  // Where the next tile begins after one that ends at `end`: beyond the keys that are not held.
  std::int64_t after(std::int64_t end) const {
    return is_held(end) ? end : Rows::larger(end, TileGrid::tile_begin(first_key_));
  }

  // Rows [row, row + kLanes) of a head, or all rows of some heads, one after the other, as far as
  // there are any, before the tile that begins at `tile`. Where they do not all see all of it,
  // `shown` [kKeys, kLanes] is made 1 or 0 for whether the row sees the key; lanes past the last row
  // see all.
  TileSight find(std::int64_t row, int heads, std::int64_t tile, float* shown) const {
    const int lanes = static_cast<int>(Rows::smaller(kLanes, heads * count_ - row));
    const std::int64_t last_row = Rows::smaller(count_, row + lanes) - 1;
    if (sees_all(row / group_, tile) && sees_all(last_row / group_, tile)) {
      return {0, kKeys, true};  // so does every row between
    }
    Reach reach[kLanes];
    int first = kKeys, last = 0;
    std::int64_t token = row / group_, g = row % group_;
    for (int i = 0; i < lanes; ++i) {
      reach[i] = reach_of(token, tile);
      const auto take = [&](int begin, int end) {
        if (begin >= end) return;
        first = begin < first ? begin : first;
        last = end > last ? end : last;
      };
      take(reach[i].begin, reach[i].end);
      take(0, reach[i].sink_end);
      if (++g == group_) {
        g = 0;
        token = token + 1 < unit_.num_tokens ? token + 1 : 0;  // of the next head
      }
    }
    show(reach, lanes, shown);
    if (unit_.tree.rows != nullptr) hide(row, lanes, tile, first, last, shown);
    return {first, last, false};
  }

 private:
  // Keys that a row sees of a tile: the first ones, and those between begin and end.
  struct Reach {
    int sink_end, begin, end;
  };
  Reach reach_of(std::int64_t token, std::int64_t tile) const {
    const std::int64_t own = Rows::token_of(unit_, token).own_key;
    const std::int64_t sink_end =
        unit_.causal ? Rows::smaller(unit_.sink_tokens, own + 1) : unit_.sink_tokens;
    return {clamp(sink_end - tile), clamp(Rows::first_key(unit_, own) - tile),
            clamp(Rows::end_key(unit_, own) - tile)};
  }
  static int clamp(std::int64_t key) {
    return static_cast<int>(key < 0 ? 0 : key > kKeys ? kKeys : key);
  }

  bool sees_all(std::int64_t token, std::int64_t tile) const {
    const std::int64_t own = Rows::token_of(unit_, token).own_key;
    const bool hides = unit_.tree.rows != nullptr && tile + kKeys > unit_.tree.first;
    return !hides && Rows::first_key(unit_, own) <= tile &&
           Rows::end_key(unit_, own) >= tile + kKeys;
  }

  using Vec = typename S::Vec;
  static void show(const Reach* reach, int lanes, float* shown) {
    float sink_end[kLanes], begin[kLanes], end[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const bool is_row = i < lanes;
      sink_end[i] = is_row ? static_cast<float>(reach[i].sink_end) : 0.0f;
      begin[i] = is_row ? static_cast<float>(reach[i].begin) : 0.0f;
      end[i] = is_row ? static_cast<float>(reach[i].end) : static_cast<float>(kKeys);
    }
    for (int i = 0; i < kLanes; i += S::kWidth) {
      const Vec sinks = S::load(sink_end + i), begins = S::load(begin + i), ends = S::load(end + i);
      for (int key = 0; key < kKeys; ++key) {
        const Vec at = S::set1(static_cast<float>(key));
        const Vec within = S::select(S::less(at, begins), S::zero(),
                                     S::select(S::less(at, ends), S::set1(1.0f), S::zero()));
        S::store(shown + key * kLanes + i, S::select(S::less(at, sinks), S::set1(1.0f), within));
      }
    }
  }

  void hide(std::int64_t row, int lanes, std::int64_t tile, int first, int last,
            float* shown) const {
    for (int i = 0; i < lanes; ++i) {
      for (int key = first; key < last; ++key) {
        if (!Rows::shows(unit_.tree, (row + i) % count_ / group_, tile + key)) shown[key * kLanes + i] = 0;
      }
    }
  }

  const AttentionUnit& unit_;
  const std::int64_t group_, count_, first_key_;
};

}  // namespace quire
