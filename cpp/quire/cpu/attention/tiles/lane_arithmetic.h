// Few query rows of attention in tiles, by vectors: with the bits of tile_arithmetic.h, in less time.
//
// The rows of several KV heads go through one softmax, as a head has too few to fill its lanes.
#pragma once

#include "quire/cpu/attention/line_queue.h"
#include "quire/cpu/attention/tiles/lane_products.h"
#include "quire/cpu/attention/tiles/tile_rooms.h"
#include "quire/cpu/attention/tiles/tile_sight.h"

namespace quire {

template <class S>
class LaneArithmetic {
 public:
  using Rooms = TileRooms<S>;
  using Words = TileWords<S>;
  using KeyRows = typename Words::KeyRows;
  using Lines = LineQueue<S>;
  using Products = LaneProducts<S>;
  static constexpr int kRowTiles = 1;  // 16 rows that go through together
  static constexpr std::int64_t kMostRows = Products::kMostRows;

  // KV heads that go through together, of so many rows each.
  static constexpr int heads_together(std::int64_t rows) {
    return static_cast<int>(rows == 0 ? 1 : TileGrid::kRows / rows);
  }

  LaneArithmetic(const AttentionTask& task, const AttentionUnit& unit, const Rooms& rooms,
                 const TileSights<S>& sights)
      : task_(task),
        rooms_(rooms),
        sights_(sights),
        see_alike_(unit.num_tokens == 1),
        k_chunks_(Rooms::chunks(task.head_dim)),
        v_chunks_(Rooms::chunks(task.v_head_dim)) {}

  void begin() const {}
  void end() const {}

  // Of a step of 32 keys and a head, beside the softmax.
  std::int64_t work_of_step() const {
    const std::int64_t rows = sights_.count();
    return k_chunks_ * 2 * (Products::kTurnWork + rows * Products::kScoreWork) +
           v_chunks_ * 16 * (Products::kWidenWork + rows * Products::kValueWork);
  }

  // As floats, row by row. rows: 16 of k_chunks x 32 bfloat16s.
  void prepare(const BFloat16* rows, float* to) const {
    const std::int64_t columns = k_chunks_ * 32;
    for (std::int64_t row = 0; row < sights_.count(); ++row) {
      Rooms::Rows::load_floats(reinterpret_cast<const std::byte*>(rows + row * columns),
                               DType::bfloat16, columns, 1, to + row * columns);
    }
    // of lanes without a row
    __builtin_memset(by_row(), 0, sizeof(float) * static_cast<std::size_t>(Rooms::kTileScores));
  }

  // Scores of keys [first, last) and the rows of a head, which are those of lanes from `lane` on.
  template <int kTiles>
  void score(const KeyRows* keys, std::int64_t head, std::int64_t, int lane, int first, int last,
             Lines& lines) const {
    static_assert(kTiles == kRowTiles);
    for_count(sights_.count(), [&]<int kCount>() {
      for (int key = first; key < last; key += TileGrid::kStep) {
        Products::template score_step<kCount>(keys + key / 16, rooms_.queries(head, 0),
                                              k_chunks_ * 32, k_chunks_,
                                              by_row() + lane * TileGrid::kKeys + key, lines);
      }
    });
  }

  // After the scores of all heads.
  void finish_scores(int first, int last) const {
    for (int key = first; key < last; key += 16) {
      Words::transpose(by_row() + key, TileGrid::kKeys, rooms_.scores + key * TileGrid::kRows);
    }
  }

  // After the softmax: pairs of weights as floats, [key][lane].
  void take_weights(int, int first, int last) const {
    for (int key = first; key < last; key += 2) {
      for (int lane = 0; lane < TileGrid::kRows; lane += S::kWidth) {
        const auto two = S::widen(S::load(rooms_.weights + key / 2 * TileGrid::kRows + lane));
        S::store(weights() + key * TileGrid::kRows + lane, two.lo);
        S::store(weights() + (key + 1) * TileGrid::kRows + lane, two.hi);
      }
    }
  }

  // Where the values of a tile lie, or zeros for those that are not to be read.
  void find_values(const TileRows& rows, const TilePlace& place, Lines&) {
    sights_.find_rows(rows, place, rooms_.zeros(), value_rows_);
  }

  // Adds the values of steps [first, last), weighted, to the sums of a head's rows.
  template <int kTiles>
  void add(int lane, int first, int last, const TileSight* sight, float* sums, float*,
           Lines& lines) const {
    const std::int64_t stride = v_chunks_ * 32;
    if (sight->whole) return add_rows(sights_.count(), value_rows_, lane, first, last, sums, lines);
    const std::int64_t alone = see_alike_ ? sights_.count() : 1;
    const BFloat16* seen[TileGrid::kKeys];
    for (std::int64_t row = 0; row < sights_.count(); row += alone) {
      const int at = lane + static_cast<int>(row);
      for (int key = first * TileGrid::kStep; key < last * TileGrid::kStep; ++key) {
        // a weight of 0 does not keep an infinity away
        const bool sees = rooms_.shown[key * TileGrid::kRows + at] != 0;
        seen[key] = sees ? value_rows_[key] : rooms_.zeros();
      }
      add_rows(alone, seen, at, first, last, sums + row * stride, lines);
    }
  }

 private:
  // Of kMostRows rows at most.
  template <class Visit>
  static void for_count(std::int64_t rows, Visit visit) {
    switch (rows) {
      case 1: return visit.template operator()<1>();
      case 2: return visit.template operator()<2>();
      case 3: return visit.template operator()<3>();
      case 4: return visit.template operator()<4>();
      case 5: return visit.template operator()<5>();
      case 6: return visit.template operator()<6>();
      case 7: return visit.template operator()<7>();
      default: return visit.template operator()<8>();
    }
  }

  void add_rows(std::int64_t count, const BFloat16* const* rows, int lane, int first, int last,
                float* sums, Lines& lines) const {
    const std::int64_t stride = v_chunks_ * 32;
    for (; count > 4; count -= 4, lane += 4, sums += 4 * stride) {
      add_columns<4>({rows, task_.v_head_dim, weights() + lane, first, last}, sums, lines);
    }
    for_count(count, [&]<int kCount>() {
      if constexpr (kCount <= 4) {
        add_columns<kCount>({rows, task_.v_head_dim, weights() + lane, first, last}, sums, lines);
      }
    });
  }

  // As many columns at a time as there is room for their sums in registers.
  template <int kCount>
  void add_columns(const typename Products::Steps& steps, float* sums, Lines& lines) const {
    constexpr int kChunks = 4 / kCount;
    const std::int64_t stride = v_chunks_ * 32;
    std::int64_t column = 0;
    for (; column + kChunks * 32 <= steps.columns; column += kChunks * 32) {
      Products::template add_values<kCount, kChunks, true>(steps, column, sums + column, stride,
                                                           lines);
    }
    for (; column < steps.columns; column += 32) {
      Products::template add_values<kCount, 1, false>(steps, column, sums + column, stride, lines);
    }
  }

  float* by_row() const { return rooms_.scores + Rooms::kTileScores; }  // scores [lane][key]
  float* weights() const { return rooms_.step_weights(0, 0); }

  const AttentionTask& task_;
  const Rooms& rooms_;
  const TileSights<S>& sights_;
  const bool see_alike_;  // all rows
  const std::int64_t k_chunks_, v_chunks_;
  const BFloat16* value_rows_[TileGrid::kKeys];
};

}  // namespace quire
