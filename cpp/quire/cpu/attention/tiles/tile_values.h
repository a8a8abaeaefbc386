// The values of a tile of keys on their way into tiles: as pairs of keys, weighted and added up.
#pragma once

#include "quire/cpu/attention/line_queue.h"
#include "quire/cpu/attention/tiles/tile_products.h"
#include "quire/cpu/attention/tiles/tile_rooms.h"
#include "quire/cpu/attention/tiles/tile_sight.h"

namespace quire {

template <class S>
class TileValues {
 public:
  using Rooms = TileRooms<S>;
  using Lines = LineQueue<S>;
  static constexpr int kPairUpWork = 12;  // of two rows of 32 columns, in half cycles

  TileValues(const AttentionTask& task, const Rooms& rooms, const TileSights<S>& sights)
      : task_(task), rooms_(rooms), sights_(sights), chunks_(Rooms::chunks(task.v_head_dim)) {}

  // Where the values of a tile lie, or zeros for those that are not to be read.
  void find(const TileRows& rows, const TilePlace& place, Lines& lines) {
    sights_.find_rows(rows, place, rooms_.zeros(), value_rows_);
    checks_ = !sights_.all_see(place.first);
    if (is_ring()) return;
    const int first = place.begin / kStep, last = (place.end + kStep - 1) / kStep;
    for (std::int64_t i = 0; i < chunks_; ++i) pair_up_chunk(i, first, last, lines);
  }

  // Adds the values of steps [first, last), weighted, to the sums of kTiles x 16 rows, which see as
  // `sights` say. Of few rows two chunks of columns go together, as many sums as of more rows one.
  template <int kTiles>
  void add(int first, int last, const TileSight* sights, float* sums0, float* sums1, Lines& lines) {
    constexpr int kChunks = 3 - kTiles;
    const auto pair_up = [&](std::int64_t chunk) {
      for (int i = 0; is_ring() && i < kChunks && chunk + i < chunks_; ++i) {
        pair_up_chunk(chunk + i, first, last, lines);
      }
    };
    pair_up(0);
    for (std::int64_t chunk = 0; chunk < chunks_; chunk += kChunks) {
      pair_up(chunk + kChunks);
      if constexpr (kTiles == 1) {
        if (chunk + 1 < chunks_ && !are_poisoned(chunk, first, last) &&
            !are_poisoned(chunk + 1, first, last)) {
          float* const sums = sums0 + chunk * 32;
          Products::template add_values<1, 2, Rooms::kChunkValues>(
              steps_of(0, chunk, first, last), sums, sums, sums_row_bytes(), lines);
          continue;
        }
      }
      for (int i = 0; i < kChunks && chunk + i < chunks_; ++i) {
        add_chunk<kTiles>(chunk + i, first, last, sights, sums0 + (chunk + i) * 32,
                          sums1 + (chunk + i) * 32, lines);
      }
    }
  }

 private:
  static constexpr int kKeys = TileGrid::kKeys;
  static constexpr int kRows = TileGrid::kRows;
  static constexpr int kStep = TileGrid::kStep;
  using Words = TileWords<S>;
  using Products = TileProducts<S>;

  // Whether values go through a ring of four chunks of columns: they are multiplied once, and are
  // to stay in the first-level cache until then.
  bool is_ring() const { return sights_.count() <= 2 * kRows; }
  float* values_of(std::int64_t chunk) const {
    return rooms_.values + (is_ring() ? chunk % 4 : chunk) * Rooms::kChunkValues;
  }
  bool* poisoned(std::int64_t chunk) const {
    return rooms_.poisoned + (is_ring() ? chunk % 4 : chunk) * Rooms::kSteps;
  }

  // 32 columns of the values of some steps become pairs of keys. Where some row does not see all of
  // the tile, steps with a number that is not finite are found.
  void pair_up_chunk(std::int64_t chunk, int first, int last, Lines& lines) const {
    const bool is_whole = (chunk + 1) * 32 <= task_.v_head_dim;
    if (checks_) {
      is_whole ? pair_up<true, true>(chunk, first, last, lines)
               : pair_up<false, true>(chunk, first, last, lines);
    } else {
      is_whole ? pair_up<true, false>(chunk, first, last, lines)
               : pair_up<false, false>(chunk, first, last, lines);
    }
  }
  template <bool kWhole, bool kChecks>
  void pair_up(std::int64_t chunk, int first, int last, Lines& all_lines) const {
    Lines lines = all_lines;
    const std::int64_t begin = chunk * 32, count = task_.v_head_dim - begin;
    for (int step = first; step < last; ++step) {
      float* const to = values_of(chunk) + step * 2 * Words::kTileFloats;
      const BFloat16* const* const rows = value_rows_ + step * kStep;
      auto poison = S::zero();
#pragma GCC unroll 4
      for (int pair = 0; pair < 16; ++pair) {
        Words::template pair_up<kWhole, kChecks>(rows[2 * pair] + begin, rows[2 * pair + 1] + begin,
                                                 count, to + pair * 16, poison);
        if (pair % 4 == 3) lines.advance(4 * kPairUpWork);
      }
      poisoned(chunk)[step] = kChecks && !(S::reduce_add(poison) == 0);
    }
    all_lines = lines;
  }

  bool are_poisoned(std::int64_t chunk, int first, int last) const {
    bool any = false;
    for (int step = first; step < last; ++step) any = any || poisoned(chunk)[step];
    return any;
  }
  typename Products::Steps steps_of(int other, std::int64_t chunk, int first, int last) const {
    return {rooms_.step_weights(0, first), rooms_.step_weights(other, first),
            values_of(chunk) + first * 2 * Words::kTileFloats, last - first};
  }

  // Of 32 columns, steps [first, last).
  template <int kTiles>
  void add_chunk(std::int64_t chunk, int first, int last, const TileSight* sights, float* sums0,
                 float* sums1, Lines& lines) {
    constexpr int kOther = kTiles - 1;
    const bool* const is_poisoned = poisoned(chunk);
    for (int step = first, end = step; step < last; step = end) {
      while (end < last && !is_poisoned[end]) ++end;
      if (step < end) {
        Products::template add_values<kTiles, 1, 0>(steps_of(kOther, chunk, step, end), sums0,
                                                    sums1, sums_row_bytes(), lines);
        continue;
      }
      ++end;
      for (int i = 0; i < kTiles; ++i) {
        add_poisoned(chunk, step, i, sights[i], i == 0 ? sums0 : sums1, lines);
      }
    }
  }

  std::int64_t sums_row_bytes() const { return chunks_ * 32 * std::int64_t{sizeof(float)}; }
  // A step in which some value is not finite, which would make a NaN of the weight 0 of a row that
  // does not see it: for each row alone, with zeros for what it does not see.
  void add_poisoned(std::int64_t chunk, int step, int tile, const TileSight& sight, float* sums,
                    Lines& lines) {
    if (sight.first >= (step + 1) * kStep || sight.last <= step * kStep) return;
    const float* const shown = rooms_.shown + tile * Rooms::kTileScores + step * kStep * kRows;
    const float* const weights = rooms_.step_weights(tile, step);
    const std::int64_t stride = sums_row_bytes() / std::int64_t{sizeof(float)};
    for (int row = 0; row < kRows; ++row) {
      const auto row_of = [&](int key) {
        const bool sees = sight.whole || shown[key * kRows + row] != 0;
        return sees ? value_rows_[step * kStep + key] : rooms_.zeros();
      };
      auto unused = S::zero();
      for (int pair = 0; pair < 16; ++pair) {
        Words::template pair_up<false, false>(
            row_of(2 * pair) + chunk * 32, row_of(2 * pair + 1) + chunk * 32,
            task_.v_head_dim - chunk * 32, rooms_.row_values + pair * 16, unused);
      }
      float* const alone = rooms_.row_sums;
      __builtin_memcpy(alone + row * 32, sums + row * stride, sizeof(float) * 32);
      Products::template add_values<1, 1, 0>({weights, weights, rooms_.row_values, 1}, alone, alone,
                                             sizeof(float) * 32, lines);
      __builtin_memcpy(sums + row * stride, alone + row * 32, sizeof(float) * 32);
    }
  }

  const AttentionTask& task_;
  const Rooms& rooms_;
  const TileSights<S>& sights_;
  const std::int64_t chunks_;
  const BFloat16* value_rows_[kKeys];
  bool checks_ = false;  // whether numbers are finite
};

}  // namespace quire
