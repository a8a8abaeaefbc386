// Attention in tiles of bfloat16 (AMX, or its model): all query rows of a unit, few or many, in the
// same way and with the same sums, so that a row has the same bits in any company.
//
// A tile of 128 keys goes through in four steps: values become pairs of keys, once for all rows;
// then, for 16 or 32 rows at a time, scores (tile_products.h), their softmax (tile_softmax.h) and
// the weighted sums of values. Keys are multiplied where they lie, if they lie 16 to a block and
// end where tiles do. tile_grid.h has the rules that make bits independent of the company.
#pragma once

#include "quire/base/float_mode.h"
#include "quire/cpu/attention/joined_tile.h"
#include "quire/cpu/attention/tile_walk.h"
#include "quire/cpu/attention/tiles/tile_rooms.h"
#include "quire/cpu/attention/tiles/tile_sight.h"
#include "quire/cpu/attention/tiles/tile_softmax.h"
#include "quire/cpu/attention/tiles/tile_sums.h"

namespace quire {

// Arithmetic: of rows, TileArithmetic or LaneArithmetic.
template <class S, class Arithmetic>
class TileAttention {
 public:
  using Rows = AttentionRows<S>;
  using Rooms = TileRooms<S>;

  TileAttention(const AttentionTask& task, const AttentionUnit& unit, float* scratch,
                const StateView& state)
      : task_(task),
        unit_(unit),
        rooms_(task, unit, scratch),
        sums_(task, unit, rooms_, state, Arithmetic::kRowTiles == 2),
        sights_(task, unit),
        is_set_(Arithmetic::heads_together(sights_.count()) > 1),
        k_chunks_(Rooms::chunks(task.head_dim)),
        arithmetic_(task, unit, rooms_, sights_) {
    const double scale = Rows::score_scale(task);
    softmax_.has_softcap = task.softcap != 0;
    softmax_.cap_scale = softmax_.has_softcap ? Rows::finite(scale / task.softcap) : 0.0f;
    softmax_.exponent_scale =
        Rows::finite((softmax_.has_softcap ? task.softcap : scale) * Rows::kLog2E);
  }

  void run(const AttentionPart& part, const AttentionPart* upcoming) {
    const FlushingFloatMode mode;  // as tiles know no subnormal numbers
    sums_.begin(part);
    if (part.key_begin < part.key_end) {
      prepare_queries();
      TileWalk<S, kKeys>::run(
          task_, part, upcoming, [&](int num_keys) { return work_of_tile(num_keys); },
          [&](const Tile& tile, std::int64_t head, std::int64_t end, Lines& lines) {
            for (std::int64_t h = head; h < end; ++h) sums_.enter(tile.first(), h);
            // for these keys alone: after them a signal's handler may run, and have tiles itself
            arithmetic_.begin();
            attend_tile(tile, head, end, lines);
            arithmetic_.end();
          },
          Steps{sights_});
    }
    sums_.end(part);
  }

 private:
  static constexpr int kKeys = TileGrid::kKeys;
  static constexpr int kRows = TileGrid::kRows;
  static constexpr int kStep = TileGrid::kStep;
  static constexpr int kFourWork = 120;  // of the softmax: four pairs of keys, in half cycles

  using KeyRows = typename TileWords<S>::KeyRows;
  using Softmax = TileSoftmax<S>;
  using Tile = KeyTile<S, kKeys>;
  using Joined = JoinedTile<S, kKeys>;
  using Lines = LineQueue<S>;

  // Tiles begin on the grid, and go around keys that no row sees.
  struct Steps {
    const TileSights<S>& sights;
    static constexpr std::int64_t kAskedBytes = 128 * 1024;
    static std::int64_t end_of(std::int64_t key) { return TileGrid::tile_begin(key) + kKeys; }
    std::int64_t after(std::int64_t end) const { return sights.after(end); }
  };

  std::int64_t work_of_tile(int num_keys) const {
    const std::int64_t steps = (num_keys + kStep - 1) / kStep;
    const std::int64_t together = Arithmetic::heads_together(sights_.count());
    const std::int64_t softmax = Rooms::row_tiles(sights_.count()) * 4 * kFourWork / together;
    return steps * (arithmetic_.work_of_step() + softmax);
  }

  // Rounded to bfloat16, as tiles multiply them.
  void prepare_queries() {
    const std::int64_t columns = k_chunks_ * 32;
    const float factor = Rows::query_factor(task_);
    auto* const rows = reinterpret_cast<BFloat16*>(rooms_.key_copies);  // free until there are keys
    float* const floats = rooms_.key_copies + kRows * columns / 2;
    for (std::int64_t head = unit_.kv_head_begin; head < unit_.kv_head_end; ++head) {
      for (std::int64_t row = 0; row < sights_.count(); row += kRows) {
        for (int i = 0; i < kRows; ++i) {
          BFloat16* const to = rows + i * columns;
          __builtin_memset(static_cast<void*>(to), 0, static_cast<std::size_t>(2 * columns));
          if (row + i >= sights_.count()) continue;
          const std::int64_t token = Rows::token_of(unit_, (row + i) / task_.group).q_row;
          const std::int64_t q_head = head * task_.group + (row + i) % task_.group;
          Rows::load_floats(Rows::at(task_.q, token, q_head), task_.q.dtype, task_.head_dim, factor,
                            floats);
          Rows::store_floats(floats, task_.head_dim, reinterpret_cast<std::byte*>(to),
                             DType::bfloat16);
        }
        arithmetic_.prepare(rows, rooms_.queries(head, row));
      }
    }
  }

  // KV heads that go through together: their rows are 16 or fewer, if there are several.
  struct Heads {
    std::int64_t first;
    int count;
  };

  void attend_tile(const Tile& tile, std::int64_t head, std::int64_t end, Lines& lines) {
    TilePlace place;
    place.first = TileGrid::tile_begin(tile.first());
    place.begin = static_cast<int>(tile.first() - place.first);
    place.end = place.begin + tile.num_keys();
    const std::int64_t count = sights_.count();
    const int together = Arithmetic::heads_together(count);
    for (; head < end; head += together) {
      const Heads heads{head, static_cast<int>(Rows::smaller(together, end - head))};
      if (together == 1) find(tile, place, head, lines);
      for (std::int64_t row = 0; row < count; row += Arithmetic::kRowTiles * kRows) {
        if constexpr (Arithmetic::kRowTiles == 2) {
          if (row + kRows < count) {
            attend_rows<2>(tile, place, heads, row, lines);
            continue;
          }
        }
        attend_rows<1>(tile, place, heads, row, lines);
      }
    }
  }

  void find(const Tile& tile, const TilePlace& place, std::int64_t head, Lines& lines) {
    find_keys(tile, place, head);
    arithmetic_.find_values(tile.v(task_, head), place, lines);
  }

  // Where tiles of 16 keys lie, or copies of them with zeros for those that are not to be read.
  void find_keys(const Tile& stored, const TilePlace& place, std::int64_t head) {
    const bool joins = task_.stored != nullptr;
    if (joins) Joined::make(*task_.stored, unit_, stored, head, task_.staging, joined_);
    const TileRows rows = (joins ? joined_ : stored).k(task_, head);
    const bool in_place = task_.head_dim % 32 == 0 && task_.block_size % 16 == 0;
    // steps without a key are of no row
    for (int key = place.begin / kStep * kStep; key < (place.end + kStep - 1) / kStep * kStep;
         key += 16) {
      KeyRows& found = keys_[key / 16];
      const bool whole = key >= place.begin && key + 16 <= place.end &&
                         sights_.are_held(place.first + key, place.first + key + 16);
      if (in_place && whole) {
        found = {rows.rows[key - place.begin] + rows.offset, task_.k.token_stride};
        continue;
      }
      const std::int64_t columns = k_chunks_ * 32;
      auto* const copies = reinterpret_cast<BFloat16*>(rooms_.key_copies) + key * columns;
      __builtin_memset(static_cast<void*>(copies), 0, static_cast<std::size_t>(2 * 16 * columns));
      for (int i = 0; i < 16; ++i) {
        if (!sights_.is_held(place, key + i)) continue;
        __builtin_memcpy(copies + i * columns, rows.rows[key + i - place.begin] + rows.offset,
                         static_cast<std::size_t>(2 * task_.head_dim));
      }
      found = {reinterpret_cast<const std::byte*>(copies), 2 * columns};
    }
  }

  // Rows [row, row + kTiles * kRows) of a head, or all rows of some heads, as far as there are any.
  template <int kTiles>
  void attend_rows(const Tile& tile, const TilePlace& place, const Heads& heads, std::int64_t row,
                   Lines& lines) {
    TileSight sights[kTiles];
    int first = kKeys, last = 0;
    for (int i = 0; i < kTiles; ++i) {
      sights[i] = sights_.find(row + i * kRows, heads.count, place.first,
                               rooms_.shown + i * Rooms::kTileScores);
      if (sights[i].first >= sights[i].last) continue;
      first = sights[i].first < first ? sights[i].first : first;
      last = sights[i].last > last ? sights[i].last : last;
    }
    if (first >= last) return;
    first = first / kStep * kStep;
    last = (last + kStep - 1) / kStep * kStep;
    const auto rows = static_cast<int>(Rows::smaller(sights_.count(), kRows));
    for (int i = 0; i < heads.count; ++i) {
      if (is_set_) find_keys(tile, place, heads.first + i);
      arithmetic_.template score<kTiles>(keys_, heads.first + i, row, i * rows, first, last, lines);
    }
    arithmetic_.finish_scores(first, last);
    for (int i = 0; i < kTiles; ++i) {
      const float* const shown = sights[i].whole ? nullptr : rooms_.shown + i * Rooms::kTileScores;
      weigh({rooms_.scores + i * Rooms::kTileScores, rooms_.weights, shown, first, last}, place,
            heads, row + i * kRows, lines);
      arithmetic_.take_weights(i, first, last);
    }
    for (int i = 0; i < heads.count; ++i) {
      const std::int64_t head = heads.first + i;
      if (is_set_) arithmetic_.find_values(tile.v(task_, head), place, lines);
      arithmetic_.template add<kTiles>(i * rows, first / kStep, last / kStep, sights,
                                       sums_.values(head, row),
                                       sums_.values(head, row + (kTiles - 1) * kRows), lines);
    }
  }

  // The softmax of 16 rows, of a head or of several.
  void weigh(const typename Softmax::Tile& tile, const TilePlace& place, const Heads& heads,
             std::int64_t row, Lines& lines) {
    float factor = softmax_.exponent_scale;
    if (softmax_.has_softcap || task_.alibi_slopes != nullptr) {
      transform(tile, place, heads, row);
      if (task_.alibi_slopes != nullptr) factor = 1;
    }
    const auto advance = [&] { lines.advance(kFourWork); };
    float shrink[kRows];
    if (!is_set_) {
      const auto state = sums_.state(heads.first, row);
      if (softmax_.raise(tile, factor, {state.maximum, state.sum}, shrink)) {
        sums_.shrink(heads.first, row, kRows, shrink);
      }
      return softmax_.weigh(tile, factor, {state.maximum, state.sum}, advance);
    }
    // those of all heads together, and 0 for lanes without a row
    const auto rows = static_cast<int>(sights_.count());
    const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(rows);
    float maximum[kRows] = {}, sum[kRows] = {};
    for (int i = 0; i < heads.count; ++i) {
      const auto state = sums_.state(heads.first + i, 0);
      __builtin_memcpy(maximum + i * rows, state.maximum, bytes);
      __builtin_memcpy(sum + i * rows, state.sum, bytes);
    }
    if (softmax_.raise(tile, factor, {maximum, sum}, shrink)) {
      for (int i = 0; i < heads.count; ++i) {
        sums_.shrink(heads.first + i, 0, rows, shrink + i * rows);
      }
    }
    softmax_.weigh(tile, factor, {maximum, sum}, advance);
    for (int i = 0; i < heads.count; ++i) {
      const auto state = sums_.state(heads.first + i, 0);
      __builtin_memcpy(state.maximum, maximum + i * rows, bytes);
      __builtin_memcpy(state.sum, sum + i * rows, bytes);
    }
  }

  // Scores, by softcap and slopes.
  void transform(const typename Softmax::Tile& tile, const TilePlace& place, const Heads& heads,
                 std::int64_t row) const {
    float slopes[kRows];
    std::int64_t positions[kRows];
    const std::int64_t count = sights_.count();
    for (int i = 0; i < kRows; ++i) {
      const std::int64_t at = Rows::smaller(row + i, heads.count * count - 1);
      const std::int64_t q_head =
          (heads.first + at / count) * task_.group + at % count % task_.group;
      slopes[i] = task_.alibi_slopes == nullptr
                      ? 0.0f
                      : Rows::finite(task_.alibi_slopes[q_head] * Rows::kLog2E);
      positions[i] =
          Rows::position_of(unit_, Rows::token_of(unit_, at % count / task_.group).own_key);
    }
    const auto distance = [&](int key, int lane) {
      const std::int64_t at = Rows::smaller(place.first + key, unit_.seq_len - 1);
      return static_cast<float>(Rows::position_of(unit_, at) - positions[lane]);
    };
    softmax_.transform(tile, task_.alibi_slopes == nullptr ? nullptr : slopes, distance);
  }

  const AttentionTask& task_;
  const AttentionUnit& unit_;
  const Rooms rooms_;
  TileSums<S> sums_;
  const TileSights<S> sights_;
  const bool is_set_;  // whether heads go through together
  const std::int64_t k_chunks_;
  Arithmetic arithmetic_;
  Softmax softmax_;
  Tile joined_;  // keys of two arrays
  KeyRows keys_[kKeys / 16];
};

}  // namespace quire
