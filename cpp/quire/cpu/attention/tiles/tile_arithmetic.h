// Query rows of attention in tiles, by tiles: 16 or 32 of a KV head at a time.
#pragma once

#include "quire/cpu/attention/tiles/tile_products.h"
#include "quire/cpu/attention/tiles/tile_values.h"

namespace quire {

template <class S>
class TileArithmetic {
 public:
  using Rooms = TileRooms<S>;
  using Words = TileWords<S>;
  using KeyRows = typename Words::KeyRows;
  using Lines = LineQueue<S>;
  using Products = TileProducts<S>;
  static constexpr int kRowTiles = 2;  // 16 rows that go through together

  // KV heads that go through together.
  static constexpr int heads_together(std::int64_t) { return 1; }

  TileArithmetic(const AttentionTask& task, const AttentionUnit&, const Rooms& rooms,
                 const TileSights<S>& sights)
      : rooms_(rooms),
        sights_(sights),
        values_(task, rooms, sights),
        k_chunks_(Rooms::chunks(task.head_dim)),
        v_chunks_(Rooms::chunks(task.v_head_dim)) {}

  void begin() const { S::configure_tiles(kRows); }
  void end() const { S::release_tiles(); }

  // Of a step of 32 keys and a head, beside the softmax.
  std::int64_t work_of_step() const {
    return Rooms::row_tiles(sights_.count()) * (k_chunks_ + v_chunks_) * Products::kPairWork +
           v_chunks_ * 16 * TileValues<S>::kPairUpWork;
  }

  // As tiles of pairs of columns: of each 32 columns 16 rows of words, a query row in each lane.
  // rows: 16 of k_chunks x 32 bfloat16s.
  void prepare(const BFloat16* rows, float* to) const {
    for (std::int64_t chunk = 0; chunk < k_chunks_; ++chunk) {
      Words::transpose(reinterpret_cast<const float*>(rows + chunk * 32), k_chunks_ * 16,
                       to + chunk * Words::kTileFloats);
    }
  }

  // Scores of keys [first, last) and kTiles x 16 rows of a head.
  template <int kTiles>
  void score(const KeyRows* all_keys, std::int64_t head, std::int64_t row, int, int first, int last,
             Lines& lines) const {
    constexpr int kOther = kTiles - 1;
    const float* const q0 = rooms_.queries(head, row);
    const float* const q1 = rooms_.queries(head, row + kOther * kRows);
    for (int key = first; key < last;) {
      float* const to0 = rooms_.scores + key * kRows;
      float* const to1 = rooms_.scores + kOther * Rooms::kTileScores + key * kRows;
      const KeyRows* const keys = all_keys + key / 16;
      if constexpr (kTiles == 1) {
        if (last - key >= 64) {
          Products::template score<1, 4>(keys, q0, q1, k_chunks_, to0, to1, lines);
          key += 64;
          continue;
        }
      }
      Products::template score<kTiles, 2>(keys, q0, q1, k_chunks_, to0, to1, lines);
      key += kStep;
    }
  }

  void finish_scores(int, int) const {}

  // After the softmax of a tile of 16 rows: pairs of weights as tiles, of each step one.
  void take_weights(int tile, int first, int last) const {
    for (int key = first; key < last; key += kStep) {
      Words::transpose(rooms_.weights + key / 2 * kRows, kRows,
                       rooms_.step_weights(tile, key / kStep));
    }
  }

  void find_values(const TileRows& rows, const TilePlace& place, Lines& lines) {
    values_.find(rows, place, lines);
  }

  // Adds the values of steps [first, last), weighted, to the sums of kTiles x 16 rows.
  template <int kTiles>
  void add(int, int first, int last, const TileSight* sights, float* sums0, float* sums1,
           Lines& lines) {
    values_.template add<kTiles>(first, last, sights, sums0, sums1, lines);
  }

 private:
  static constexpr int kRows = TileGrid::kRows;
  static constexpr int kStep = TileGrid::kStep;

  const Rooms& rooms_;
  const TileSights<S>& sights_;
  TileValues<S> values_;
  const std::int64_t k_chunks_, v_chunks_;
};

}  // namespace quire
