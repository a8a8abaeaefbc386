// Few query rows for a KV head of int4 caches: the codes of sealed blocks are multiplied where they
// lie, in whole numbers (int4_tile.h); the rows of open blocks are copied as floats first, and so
// are those that a query row asks for.
#pragma once

#include "quire/cpu/attention/int4_tile.h"
#include "quire/cpu/attention/tile_walk.h"
#include "quire/cpu/cache/int4_rows.h"

namespace quire {

// Where the vocabulary has whole numbers.
template <class S>
class Int4Attention {
 public:
  using Rows = AttentionRows<S>;
  static constexpr int kKeys = kDirectKeys;  // that are taken at a time
  static constexpr int kMostRows = 4;        // rows that go through a tile together

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    const std::int64_t d = Rows::padded(task.head_dim);
    return (kMostRows + 3) * kKeys + Int4Queries<S>::scratch_floats(task.head_dim) +
           (rows + 1) * (d + Int4Chunk<S>::padded(task.head_dim)) +
           kKeys * (d + Rows::padded(task.v_head_dim)) + Int4Rows<S>::grid_floats(d);
  }

  Int4Attention(const AttentionTask& task, const AttentionUnit& unit, float* scratch,
                StateView state)
      : task_(task),
        unit_(unit),
        rows_(task, unit, state),
        d_(Rows::padded(task.head_dim)),
        dv_(Rows::padded(task.v_head_dim)),
        q_stride_(Int4Chunk<S>::padded(task.head_dim)),
        most_factor_(IntegerRow<S>::tolerance(task) / kSpreadNumber),
        scores_(scratch),
        open_scores_(scores_ + kMostRows * kKeys),
        steps_(open_scores_ + kKeys),
        middles_(steps_ + kKeys),
        k_(middles_ + kKeys),
        v_(k_ + kKeys * d_),
        grids_(v_ + kKeys * dv_),
        queries_(grids_ + Int4Rows<S>::grid_floats(d_), task.head_dim),
        q_(grids_ + Int4Rows<S>::grid_floats(d_) + Int4Queries<S>::scratch_floats(task.head_dim)),
        natural_q_(q_ + (unit.kv_head_end - unit.kv_head_begin) * rows_.count() * q_stride_) {}

  // FusedKernels::takes, of int4 caches: more rows are worth packed copies.
  static bool takes(const AttentionTask& task, std::int64_t rows) {
    return rows <= kMostRowsOfSeq && task.head_dim <= IntegerRow<S>::kMostHeadDim;
  }

  void run(const AttentionPart& part, const AttentionPart* upcoming) {
    rows_.begin(part);
    TileWalk<S, kKeys>::run_rows(
        task_, rows_, part, upcoming, [&] { prepare_queries(); },
        [&](int num_keys) { return work_of_tile(num_keys); },
        [&](const Tile& tile, std::int64_t head, Lines& lines) { attend_tile(tile, head, lines); });
    rows_.end(part);
    if (part.has_bad_scale != nullptr && (value_check_.found_bad() || queries_.found_bad_grid())) {
      __atomic_store_n(part.has_bad_scale, true, __ATOMIC_RELAXED);
    }
  }

 private:
  using Tile = KeyTile<S, kKeys>;
  using Group = RowGroup<kMostRows>;
  using Lines = LineQueue<S>;
  using Values = Int4Values<S>;
  static constexpr std::int64_t kMostRowsOfSeq = 16;  // where they were measured to break even
  static constexpr float kSpreadNumber = 4.6f;        // the root mean square of -8 to 7

  void prepare_queries() {
    const std::int64_t heads = unit_.kv_head_end - unit_.kv_head_begin;
    float* const buffer = natural_q_ + heads * rows_.count() * d_;
    rows_.for_queries(buffer, [&](const float* row, std::int64_t head, std::int64_t r) {
      const std::int64_t index = head * rows_.count() + r;
      Int4Chunk<S>::arrange(row, task_.head_dim, q_ + index * q_stride_);
      float* const natural = natural_q_ + index * d_;
      for (std::int64_t d = 0; d < d_; d += S::kWidth) S::store(natural + d, S::load(row + d));
    });
  }

  static constexpr int kWeighWork = 2;  // of one row's softmax, for each key

  std::int64_t work_of_tile(int num_keys) const {
    using Queries = Int4Queries<S>;
    const auto parts = [](std::int64_t n, std::int64_t size) { return (n + size - 1) / size; };
    const std::int64_t rows = rows_.count();
    const std::int64_t groups = rows / 4 + rows % 4 / 2 + rows % 2;
    const std::int64_t prepare = groups * Queries::kGridWork + rows * Queries::kPrepareWork;
    constexpr std::int64_t kChunk = Int4Chunk<S>::kElements;
    return parts(num_keys, task_.block_size) * parts(task_.head_dim, 2 * S::kWidth) * prepare +
           rows * (num_keys * (parts(task_.head_dim, kChunk) * Int4Dot<S>::kWork +
                               parts(task_.v_head_dim, kChunk) * Int4Terms<S>::kWork / 2) +
                   kKeys * kWeighWork);
  }

  void attend_tile(const Tile& tile, std::int64_t head, Lines& lines) {
    load_grids_of_values(tile, head);
    copied_keys_ = copied_values_ = 0;
    copy_open_rows(tile, head);
    for (std::int64_t r = 0; r < rows_.count();) {
      const std::int64_t left = rows_.count() - r;
      const int count = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      Group group;
      rows_.find_group(head, r, count, tile, group);
      if (group.first < group.last) {
        if (count == 4) attend_group<4>(tile, group, lines);
        if (count == 2) attend_group<2>(tile, group, lines);
        if (count == 1) attend_group<1>(tile, group, lines);
      }
      r += count;
    }
  }

  // Steps and middles of the tile's values, 0 where they have none.
  void load_grids_of_values(const Tile& tile, std::int64_t head) {
    alignas(64) Int4Grid grids[kKeys];
    tile.copy_grids_of_values(task_, head, grids);
    const int whole = tile.num_sealed() / S::kWidth * S::kWidth;
    for (int i = 0; i < kKeys; i += S::kWidth) {
      const auto pair = S::load_grids(grids + i);
      S::store(steps_ + i, pair.lo);
      S::store(middles_ + i, pair.hi);
      if (i < whole) value_check_.add_grids(pair.lo, pair.hi);
    }
    for (int i = whole; i < tile.num_keys(); ++i) {
      const auto pair = S::load_grids(grids + i, 1);
      if (tile.is_sealed(i)) value_check_.add_grids(pair.lo, pair.hi, 1);
    }
  }

  void copy_open_rows(const Tile& tile, std::int64_t head) {
    tile.for_runs(0, tile.num_keys(), [&](int begin, int end, bool open) {
      for (int i = begin; open && i < end; ++i) {
        Rows::load_floats(tile.stored_k(task_, head, i).data, task_.k_open.dtype, task_.head_dim,
                          1.0f, k_ + i * d_);
        Rows::load_floats(tile.stored_v(task_, head, i).data, task_.v_open.dtype, task_.v_head_dim,
                          1.0f, v_ + i * dv_);
      }
    });
  }

  template <int R>
  void attend_group(const Tile& tile, const Group& group, Lines& lines) {
    tile.for_runs(group.first, group.last, [&](int begin, int end, bool open) {
      if (open) {
        score_open(group, begin, end, lines);
      } else {
        score<R>(tile, group, begin, end, lines);
      }
    });
    rows_.template weigh<kKeys, kKeys>(group, scores_, scores_, KeyScales{nullptr, nullptr},
                                       [&] { lines.advance(kKeys * kWeighWork); });
    tile.for_runs(group.first, group.last, [&](int begin, int end, bool open) {
      if (open) {
        add_open(group, begin, end, lines);
      } else {
        add_values<R>(tile, group, begin, end, lines);
      }
    });
  }

  std::int64_t row_of(const Group& group) const {
    return (group.head - unit_.kv_head_begin) * rows_.count() + group.row;
  }

  // Sealed keys, those of a block at a time.
  template <int R>
  void score(const Tile& tile, const Group& group, int begin, int end, Lines& lines) {
    const float* const q = q_ + row_of(group) * q_stride_;
    constexpr int kMostBlocks = Int4Queries<S>::kMostBlocks;
    for (int key = begin; key < end;) {
      int ends[kMostBlocks];
      RowMask asking[kMostBlocks];
      int blocks = 0;
      const int first = key;
      for (; blocks < kMostBlocks && key < end; ++blocks) {
        const std::int64_t left = task_.block_size - (tile.first() + key) % task_.block_size;
        asking[blocks] = queries_.template prepare<R>(
            blocks, q, tile.stored_k(task_, group.head, key).grid, most_factor_, lines);
        key = ends[blocks] = left < end - key ? key + static_cast<int>(left) : end;
      }
      for (int i = 0; i < blocks; ++i) {
        const int block_begin = i == 0 ? first : ends[i - 1];
        queries_.template score<R>(i, tile.k(task_, group.head), block_begin, ends[i], scores_,
                                   lines);
        if (asking[i] == 0) continue;
        copy_keys(tile, group.head, block_begin, ends[i]);
        score_copies(group, asking[i], block_begin, ends[i], lines);
      }
    }
  }

  // Sealed keys as floats, beside the open ones of the tile, and values likewise.
  void copy_keys(const Tile& tile, std::int64_t head, int begin, int end) {
    Int4Rows<S> int4(grids_);
    for (int i = begin; i < end; ++i) {
      if (!note(i, copied_keys_)) continue;
      const auto key = tile.stored_k(task_, head, i);
      int4.load_key(key.data, key.grid, task_.head_dim, k_ + i * d_);
    }
  }
  void copy_values(const Tile& tile, std::int64_t head, int begin, int end) {
    for (int i = begin; i < end; ++i) {
      if (!note(i, copied_values_)) continue;
      const auto value = tile.stored_v(task_, head, i);
      Int4Rows<S>::load_value(value.data, value.grid, task_.v_head_dim, v_ + i * dv_);
    }
  }
  // False where it was noted before.
  static bool note(int i, std::uint64_t& noted) {
    const std::uint64_t bit = std::uint64_t{1} << i;
    const bool is_new = (noted & bit) == 0;
    noted |= bit;
    return is_new;
  }
  static_assert(kKeys <= 64);

  void score_open(const Group& group, int begin, int end, Lines& lines) {
    score_copies(group, ~RowMask{0}, begin, end, lines);
  }

  // One row at a time, of those asked for: copied keys are few, and where they begin and end is no
  // row's own affair.
  void score_copies(const Group& group, RowMask rows, int begin, int end, Lines& lines) {
    const CopiedRows keys(k_, d_, begin, end);
    for (int r = 0; r < group.count; ++r) {
      if ((rows >> r & 1) == 0) continue;
      KeyScores<S, float>::template run<1>(natural_q_ + (row_of(group) + r) * d_, d_,
                                           task_.head_dim, keys.rows(), begin, end, open_scores_,
                                           lines);
      for (int key = begin; key < end; ++key) scores_[r * kKeys + key] = open_scores_[key];
    }
  }

  template <int R>
  void add_values(const Tile& tile, const Group& group, int begin, int end, Lines& lines) {
    Int4Weights<S> weights;
    RowMask asking = 0;
    for (int r = 0; r < R; ++r) {
      const Range range = seen(group, r, begin, end);
      asking |=
          RowMask{weights.round(r, scores_ + r * kKeys, range.begin, range.end, steps_, middles_)}
          << r;
    }
    if (asking != (RowMask{1} << R) - 1) {
      constexpr int kRows = R < Values::kMostRows ? R : Values::kMostRows;
      for (int r = 0; r < R; r += kRows) {
        Values::template run<kRows>(weights, r,
                                    {tile.v(task_, group.head), begin, end, task_.v_head_dim,
                                     rows_.values(group.head, group.row + r), rows_.v_stride()},
                                    lines);
      }
    }
    if (asking == 0) return;
    copy_values(tile, group.head, begin, end);
    add_copies(group, asking, begin, end, lines);
  }

  void add_open(const Group& group, int begin, int end, Lines& lines) {
    add_copies(group, ~RowMask{0}, begin, end, lines);
  }

  // Each row only what it sees: what it does not may be no number.
  void add_copies(const Group& group, RowMask rows, int begin, int end, Lines& lines) {
    const CopiedRows values(v_, dv_, begin, end);
    for (int r = 0; r < group.count; ++r) {
      const Range range = seen(group, r, begin, end);
      if ((rows >> r & 1) == 0) continue;
      rows_.for_runs(group, r, range.begin, range.end, [&](int first, int last) {
        FloatValues<S, float, FloatProduct<S>, kKeys>::template run<1>(
            scores_ + r * kKeys,
            {values.rows(), first, last, task_.v_head_dim, rows_.values(group.head, group.row + r),
             rows_.v_stride()},
            lines);
      });
    }
  }

  struct Range {
    int begin, end;
  };
  // What a row sees of the keys [begin, end); none where begin >= end.
  static Range seen(const Group& group, int r, int begin, int end) {
    if (group.whole) return {begin, end};
    return {begin > group.begin[r] ? begin : group.begin[r],
            end < group.end[r] ? end : group.end[r]};
  }

  // Copies of the keys [begin, end) of a tile; the others' places lead to some of them.
  class CopiedRows {
   public:
    CopiedRows(const float* copies, std::int64_t stride, int begin, int end) {
      for (int i = 0; i < kKeys; ++i) {
        const int key = i < begin ? begin : i < end ? i : end - 1;
        rows_[i] = reinterpret_cast<const std::byte*>(copies + key * stride);
      }
    }
    TileRows rows() const { return {rows_, 0}; }

   private:
    const std::byte* rows_[kKeys];
  };

  const AttentionTask& task_;
  const AttentionUnit& unit_;
  const PartRows<S> rows_;
  const std::int64_t d_, dv_, q_stride_;
  const float most_factor_;   // of the numbers of a row before a block
  float* const scores_;       // [kMostRows, kKeys]
  float* const open_scores_;  // [kKeys]
  float* const steps_;        // [kKeys]
  float* const middles_;      // [kKeys]
  float* const k_;            // [kKeys, d]: of open blocks, and where rows ask for them of sealed
  float* const v_;            // [kKeys, dv]
  std::uint64_t copied_keys_ = 0, copied_values_ = 0;  // of sealed blocks, a bit for each
  float* const grids_;                                 // of Int4Rows
  Int4Queries<S> queries_;
  ScaleCheck<S> value_check_;
  float* const q_;          // in the order of chunks
  float* const natural_q_;  // [.., d]
};

}  // namespace quire
