// The working memory of attention in tiles.
#pragma once

#include "quire/cpu/attention/attention_rows.h"
#include "quire/cpu/attention/tiles/tile_words.h"

namespace quire {

// In floats. Of rows [16 at a time] of each KV head of a unit: queries, and sums while keys go by.
template <class S>
struct TileRooms {
  using Rows = AttentionRows<S>;
  static constexpr std::int64_t kRows = TileGrid::kRows;
  static constexpr std::int64_t kTileFloats = TileWords<S>::kTileFloats;
  static constexpr std::int64_t kTileScores = TileGrid::kKeys * kRows;
  static constexpr std::int64_t kSteps = TileGrid::kKeys / TileGrid::kStep;

  static constexpr std::int64_t kChunkValues = kSteps * 2 * kTileFloats;

  static std::int64_t chunks(std::int64_t columns) { return (columns + 31) / 32; }
  static std::int64_t row_tiles(std::int64_t rows) { return (rows + kRows - 1) / kRows; }

  // For units of so many rows of states, whatever their heads are.
  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    const std::int64_t heads = Rows::smaller(rows, task.num_heads / task.group);
    const std::int64_t tiles = (rows + heads * (kRows - 1)) / kRows;
    const Sizes sizes(task);
    return tiles * (sizes.queries + sizes.sums + 2 * kRows) + sizes.scores + sizes.of_keys;
  }

  TileRooms(const AttentionTask& task, const AttentionUnit& unit, float* scratch)
      : first_head_(unit.kv_head_begin),
        tiles_(row_tiles(unit.num_tokens * task.group)),
        sizes_(task) {
    const std::int64_t all = tiles_ * (unit.kv_head_end - unit.kv_head_begin);
    const auto take = [&](std::int64_t floats) {
      float* const room = scratch;
      scratch += floats;
      return room;
    };
    queries_ = take(all * sizes_.queries);
    values_ = take(all * sizes_.sums);
    maximum_ = take(all * kRows);
    sum_ = take(all * kRows);
    scores = take(2 * kTileScores);
    shown = take(2 * kTileScores);
    weights = take(kTileScores / 2 + 2 * kSteps * kTileFloats);
    key_copies = take(sizes_.keys);
    values = take(sizes_.values);
    row_values = take(2 * kTileFloats);
    row_sums = take(2 * kTileFloats);
    poisoned = reinterpret_cast<bool*>(take(sizes_.flags));
    zeros_ = take(sizes_.zeros);
    __builtin_memset(zeros_, 0, static_cast<std::size_t>(sizes_.zeros) * sizeof(float));
  }

  // Of the 16 rows of a KV head that begin with `row`.
  float* queries(std::int64_t head, std::int64_t row) const {
    return queries_ + tile(head, row) * sizes_.queries;
  }
  float* sums_of_values(std::int64_t head, std::int64_t row) const {
    return values_ + tile(head, row) * sizes_.sums;
  }
  float* maximum(std::int64_t head, std::int64_t row) const {
    return maximum_ + tile(head, row) * kRows;
  }
  float* sum(std::int64_t head, std::int64_t row) const { return sum_ + tile(head, row) * kRows; }

  // Of a tile of 16 rows, the first or the second, and of one step.
  float* step_weights(int tile, int step) const {
    return weights + kTileScores / 2 + (tile * kSteps + step) * kTileFloats;
  }

  // As long as a row of values.
  const BFloat16* zeros() const { return reinterpret_cast<const BFloat16*>(zeros_); }

  float* scores;      // two of [key][16 rows]
  float* shown;       // likewise
  float* weights;     // [pair of keys][16 rows] of words, then two of [step] tiles
  float* key_copies;  // [key][columns] of bfloat16
  float* values;      // [chunk of 32 columns][step] two tiles
  float* row_values;  // of one chunk and step
  float* row_sums;    // of one chunk and 16 rows
  bool* poisoned;     // [chunk][step]

 private:
  struct Sizes {
    std::int64_t queries, sums, scores, keys, values, flags, zeros, of_keys;

    explicit Sizes(const AttentionTask& task)
        : queries(chunks(task.head_dim) * kTileFloats),
          sums(chunks(task.v_head_dim) * 32 * kRows),
          scores(4 * kTileScores + kTileScores / 2 + 2 * kSteps * kTileFloats),
          keys(TileGrid::kKeys * chunks(task.head_dim) * 16),
          values(Rows::larger(4, chunks(task.v_head_dim)) * kChunkValues),
          flags(chunks(task.v_head_dim) / 16 * 16 + 16),
          zeros(chunks(task.v_head_dim) * 16),
          of_keys(keys + values + 4 * kTileFloats + flags + zeros) {}
  };

  std::int64_t tile(std::int64_t head, std::int64_t row) const {
    return (head - first_head_) * tiles_ + row / kRows;
  }

  const std::int64_t first_head_, tiles_;
  const Sizes sizes_;
  float *queries_, *values_, *maximum_, *sum_, *zeros_;
};

}  // namespace quire
