// Few query rows for a KV head: keys and values are read where they lie, and go through registers
// once.
#pragma once

#include "quire/cpu/attention/integer_tile.h"
#include "quire/cpu/attention/scale_check.h"
#include "quire/cpu/attention/score_tile.h"
#include "quire/cpu/attention/tile_walk.h"

namespace quire {

// kKeys: keys that are taken at a time.
template <class S, int kKeys>
class DirectAttention {
 public:
  using Rows = AttentionRows<S>;
  static constexpr int kMostRows = 4;  // rows that go through a tile together

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    const std::int64_t query_rows = multiplies_integers(task) ? 2 * rows + 1 : rows + 1;
    return query_rows * Rows::padded(task.head_dim) + 2 * (kMostRows + 1) * kDirectKeys;
  }

  DirectAttention(const AttentionTask& task, const AttentionUnit& unit, float* scratch,
                  StateView state)
      : task_(task),
        unit_(unit),
        rows_(task, unit, state),
        q_stride_(Rows::padded(task.head_dim)),
        scores_(scratch),
        weights_(scores_ + kMostRows * kDirectKeys),
        scales_(weights_ + kMostRows * kDirectKeys),
        q_(scales_ + 2 * kDirectKeys) {
    choose_functions();
  }

  void run(const AttentionPart& part, const AttentionPart* upcoming) {
    rows_.begin(part);
    for_weights(part, upcoming,
                [&](const Tile& tile, const Group& group, const float*, Lines& lines) {
                  add_values(tile, group, lines);
                });
    rows_.end(part);
    if (part.has_bad_scale != nullptr && check_.found_bad()) {
      __atomic_store_n(part.has_bad_scale, true, __ATOMIC_RELAXED);
    }
  }

  // Takes the keys into the states' maxima and sums, and calls take(tile, group, weights [count,
  // kDirectKeys], lines) for the rows of a group and the tiles that some of them see; the weights
  // of keys that a row does not see are 0, or none where it sees no key.
  template <class Take>
  void for_weights(const AttentionPart& part, const AttentionPart* upcoming, Take take) {
    TileWalk<S, kKeys>::run_rows(
        task_, rows_, part, upcoming, [&] { prepare_queries(); },
        [&](int) { return work_of_tile(); },
        [&](const Tile& tile, std::int64_t head, Lines& lines) {
          weigh_tile(tile, head, lines, take);
        });
  }

 private:
  static_assert(kKeys <= kDirectKeys);

  using Tile = KeyTile<S, kKeys>;
  using Group = RowGroup<kMostRows>;
  using Lines = LineQueue<S>;
  using Score = void (*)(const void*, std::int64_t, std::int64_t, TileRows, int, int, float*,
                         Lines&);
  using Value = void (*)(const float*, const ValueSpan&, Lines&);
  using Weigh = void (*)(const PartRows<S>&, const Group&, float*, float*, const KeyScales&,
                         Lines&);
  using IntegerValue = void (*)(const IntegerWeights<S>&, const ValueSpan&, Lines&);

  // Query rows in the order of lanes that the keys load in.
  void prepare_queries() {
    const std::int64_t heads = unit_.kv_head_end - unit_.kv_head_begin;
    const std::int64_t rows = heads * rows_.count();
    const bool are_integers = multiplies_integers(task_);
    float* const buffer = q_ + (are_integers ? 2 : 1) * rows * q_stride_;
    if (are_integers) float_q_ = q_ + rows * q_stride_;
    rows_.for_queries(buffer, [&](const float* row, std::int64_t head, std::int64_t r) {
      const std::int64_t index = head * rows_.count() + r;
      if (!are_integers) return arrange_query(row, q_row(index));
      round_query(row, q_row(index));
      arrange_floats(row, float_row(index));
    });
  }

  // To whole numbers, their factor, and the largest scale of keys with which those will do.
  void round_query(const float* row, void* to) {
    if constexpr (S::kDotsInt16) {
      auto* const numbers = static_cast<std::int16_t*>(to);
      const float factor = IntegerRow<S>::round(row, q_stride_, numbers);
      __builtin_memcpy(numbers + q_stride_, &factor, sizeof factor);
      float most = IntegerRow<S>::tolerance(task_) / (factor * kSpreadNumber);
      if (factor < IntegerRow<S>::kSmallest) most = factor > 0 ? 0.0f : __builtin_inff();
      __builtin_memcpy(numbers + q_stride_ + 2, &most, sizeof most);
      least_most_scale_ = most < least_most_scale_ ? most : least_most_scale_;
    }
  }
  static constexpr float kSpreadNumber = 73.0f;  // the root mean square of -127 to 127

  void arrange_query(const float* row, void* to) const {
    if constexpr (S::kDotsBFloat16) {
      if (multiplies_float8()) {
        using Dot = KeyDot<S, Float8Product>;
        auto* const numbers = static_cast<BFloat16*>(to);
        for (std::int64_t d = 0; d < 2 * q_stride_; d += S::kWidth)
          S::store(numbers + d, S::zero());
        BFloat16 natural[2 * S::kWidth];
        for (std::int64_t d = 0; d < q_stride_; d += 2 * S::kWidth) {
          // exact, as queries are bfloat16
          S::store(natural, S::load(row + d));
          S::store(natural + S::kWidth, S::load(row + d + S::kWidth));
          for (int i = 0; i < 2 * S::kWidth; i += Dot::kRun) {
            __builtin_memcpy(numbers + Dot::place_of_query(d + i), natural + i,
                             Dot::kRun * sizeof(BFloat16));
          }
        }
        return;
      }
    }
    if (multiplies_bfloat16()) {
      for (std::int64_t d = 0; d < q_stride_; d += S::kWidth) {
        S::store(static_cast<BFloat16*>(to) + d, S::load(row + d));
      }
      return;
    }
    arrange_floats(row, static_cast<float*>(to));
  }

  void arrange_floats(const float* row, float* out) const {
    Rows::visit_cache(task_.k.dtype, [&](auto type) {
      for (std::int64_t d = 0; d < q_stride_; d += Rows::kChunk) {
        const auto pair = S::template from_natural<decltype(type)>(
            {S::load(row + d), S::load(row + d + S::kWidth)});
        S::store(out + d, pair.lo);
        S::store(out + d + S::kWidth, pair.hi);
      }
    });
  }

  // Row r of the prepared queries; they are bfloat16 or float, with the same stride in elements, or
  // as query_stride() says.
  void* q_row(std::int64_t r) const {
    if (multiplies_bfloat16()) return reinterpret_cast<BFloat16*>(q_) + r * q_stride_;
    return q_ + r * q_stride_;
  }
  // The same row as floats, where the others are whole numbers.
  float* float_row(std::int64_t r) const { return float_q_ + r * q_stride_; }

  // In elements of 2 bytes for whole numbers and float8 keys.
  std::int64_t query_stride() const {
    return multiplies_integers(task_) || multiplies_float8() ? 2 * q_stride_ : q_stride_;
  }

  bool multiplies_float8() const {
    return S::kDotsBFloat16 && task_.q.dtype == DType::bfloat16 &&
           task_.k.dtype == DType::float8_e4m3fn;
  }

  static bool multiplies_integers(const AttentionTask& task) {
    return S::kDotsInt16 && task.k.dtype == DType::int8 &&
           task.head_dim <= IntegerRow<S>::kMostHeadDim;
  }

  bool multiplies_bfloat16() const {
    return S::kDotsBFloat16 && task_.q.dtype == DType::bfloat16 && task_.k.dtype == DType::bfloat16;
  }

  // Keys of an entry of values.
  int v_elements() const { return value_pairs_ ? 2 : 1; }

  std::int64_t work_of_tile() const {
    const std::int64_t chunks = Rows::padded(task_.head_dim) / Rows::kChunk;
    const std::int64_t v_chunks = Rows::padded(task_.v_head_dim) / Rows::kChunk;
    return rows_.count() * (kKeys * (chunks * kScoreWork + v_chunks * kValueWork / v_elements() +
                                     kDirectWeighWork));
  }

  // All rows of one KV head through one tile, in groups of 4, 2 and 1.
  template <class Take>
  void weigh_tile(const Tile& tile, std::int64_t head, Lines& lines, Take& take) {
    const KeyScales scales = tile.load_scales(task_, head, scales_);
    check(scales.k);
    check(scales.v);
    largest_k_scale_ = multiplies_integers(task_) ? largest(scales.k, tile.num_keys()) : 0.0f;
    for (std::int64_t r = 0; r < rows_.count();) {
      const std::int64_t left = rows_.count() - r;
      const int log2_rows = left >= 4 ? 2 : left >= 2 ? 1 : 0;
      Group group;
      rows_.find_group(head, r, 1 << log2_rows, tile, group);
      if (group.first < group.last) {
        weigh_group(tile, group, scales, log2_rows, lines);
        take(tile, group, scores_, lines);
      }
      r += group.count;
    }
  }

  void check(const float* scales) {
    if (scales == nullptr) return;
#pragma GCC unroll 8
    for (int i = 0; i < kKeys; i += S::kWidth) check_.add(S::load(scales + i));
  }

  // Of the first scales of a tile; without scales 1.
  static float largest(const float* scales, int count) {
    if (scales == nullptr) return 1.0f;
    auto most = S::zero();
    for (int i = 0; i < count; i += S::kWidth) {
      most = S::max(S::select(S::lanes(0, count - i), S::load(scales + i), S::zero()), most);
    }
    return S::reduce_max(most);
  }

  void weigh_group(const Tile& tile, const Group& group, const KeyScales& scales, int log2_rows,
                   Lines& lines) {
    const std::int64_t row = (group.head - unit_.kv_head_begin) * rows_.count() + group.row;
    const TileRows k = tile.k(task_, group.head);
    const RowMask asking = asking_for_floats(row, group.count);
    if (asking != all_of(group.count)) {
      score_[log2_rows](q_row(row), query_stride(), task_.head_dim, k, group.first, group.last,
                        scores_, lines);
    }
    for_rows(asking, log2_rows, [&](int i, int log2) {
      float_score_[log2](float_row(row + i), q_stride_, task_.head_dim, k, group.first, group.last,
                         scores_ + i * kDirectKeys, lines);
    });
    weigh_(rows_, group, scores_, weights_, scales, lines);
  }

  static RowMask all_of(int rows) { return (RowMask{1} << rows) - 1; }

  // Calls visit(row of a group, log2 of the rows from there on) for some rows: for all together, or
  // one after the other.
  template <class Visit>
  static void for_rows(RowMask rows, int log2_rows, Visit visit) {
    const int count = 1 << log2_rows;
    if (rows == all_of(count)) return visit(0, log2_rows);
    for (int i = 0; rows != 0; ++i, rows >>= 1) {
      if ((rows & 1) != 0) visit(i, 0);
    }
  }

  // Rows from `row` on whose scores, as whole numbers, would be too far off in this tile.
  RowMask asking_for_floats(std::int64_t row, int count) const {
    if (!(largest_k_scale_ > least_most_scale_)) return 0;
    RowMask asking = 0;
    for (int i = 0; i < count; ++i) {
      float most;
      __builtin_memcpy(&most, static_cast<const std::int16_t*>(q_row(row + i)) + q_stride_ + 2,
                       sizeof most);
      asking |= RowMask{largest_k_scale_ > most} << i;
    }
    return asking;
  }

  void add_values(const Tile& tile, const Group& group, Lines& lines) {
    const int log2_rows = group.count / 2;  // of 1, 2 and 4
    float* const values = rows_.values(group.head, group.row);
    const TileRows v = tile.v(task_, group.head);
    // pairs of keys begin at an even one
    const int first = (group.shared_first + v_elements() - 1) / v_elements();
    const int last = group.shared_last / v_elements();
    const ValueSpan shared{v, first, last, task_.v_head_dim, values, rows_.v_stride()};
    if (first < last && value_integers_) {
      add_integers(group, log2_rows, shared, lines);
    } else if (first < last) {
      value_[log2_rows](value_pairs_ ? weights_ : scores_, shared, lines);
    }
    rows_.for_unshared(
        group, first * v_elements(), last * v_elements(), [&](int i, int begin, int end) {
          add_values_(
              scores_ + i * kDirectKeys,
              {v, begin, end, task_.v_head_dim, values + i * rows_.v_stride(), rows_.v_stride()},
              lines);
        });
  }

  // The values of the keys that all rows see.
  void add_integers(const Group& group, int log2_rows, const ValueSpan& shared, Lines& lines) {
    if constexpr (S::kDotsInt16) {
      IntegerWeights<S> weights;
      const RowMask asking = weights.round(scores_, group.count, shared.begin, shared.end);
      if (asking != all_of(group.count)) integer_value_[log2_rows](weights, shared, lines);
      for_rows(asking, log2_rows, [&](int i, int log2) {
        ValueSpan span = shared;
        span.values += i * span.values_stride;
        value_[log2](scores_ + i * kDirectKeys, span, lines);
      });
    }
  }

  template <class Weight>
  static void weigh(const PartRows<S>& rows, const Group& group, float* scores, float* weights,
                    const KeyScales& scales, Lines& lines) {
    rows.template weigh<kKeys, kDirectKeys>(group, scores, reinterpret_cast<Weight*>(weights),
                                            scales,
                                            [&] { lines.advance(kKeys * kDirectWeighWork); });
  }

  template <class T>
  void use_scores() {
    use_scores<T>(score_);
  }
  template <class T>
  static void use_scores(Score (&score)[3]) {
    score[0] = &KeyScores<S, T>::template run<1>;
    score[1] = &KeyScores<S, T>::template run<2>;
    score[2] = &KeyScores<S, T>::template run<4>;
  }

  template <class T, class Product, class Weight>
  void use_values() {
    using Values = FloatValues<S, T, Product, kDirectKeys>;
    value_[0] = &Values::template run<1>;
    value_[1] = &Values::template run<2>;
    value_[2] = &Values::template run<4>;
    add_values_ = &FloatValues<S, T, FloatProduct<S>, kDirectKeys>::template run<1>;
    weigh_ = &weigh<Weight>;
  }

  void choose_functions() {
    Rows::visit_cache(task_.v.dtype,
                      [&](auto type) { use_values<decltype(type), FloatProduct<S>, float>(); });
    if constexpr (S::kDotsInt16) {
      value_integers_ = task_.v.dtype == DType::int8;
      integer_value_[0] = &Int8Values<S>::template run<1>;
      integer_value_[1] = &Int8Values<S>::template run<2>;
      integer_value_[2] = &Int8Values<S>::template run<4>;
      use_scores<Int8>(float_score_);
      if (multiplies_integers(task_)) return use_scores<Int16Product>();
    }
    if constexpr (S::kDotsBFloat16) {
      constexpr DType kType = DType::bfloat16;
      value_pairs_ = multiplies_bfloat16() && task_.v.dtype == kType && task_.out.dtype == kType;
      if (value_pairs_) use_values<BFloat16, BFloat16PairProduct<S>, BFloat16>();
      if (task_.q.dtype == kType && task_.v.dtype == DType::float8_e4m3fn &&
          task_.out.dtype == kType) {
        value_pairs_ = true;
        use_values<Float8E4M3, BFloat16PairProduct<S>, BFloat16>();
      }
      if (multiplies_float8()) return use_scores<Float8Product>();
      if (multiplies_bfloat16()) return use_scores<BFloat16Product>();
    }
    Rows::visit_cache(task_.k.dtype, [&](auto type) { use_scores<decltype(type)>(); });
  }

  const AttentionTask& task_;
  const AttentionUnit& unit_;
  const PartRows<S> rows_;
  const std::int64_t q_stride_;
  float* const scores_;   // [kMostRows, kDirectKeys]
  float* const weights_;  // likewise; bfloat16, where pairs are multiplied
  float* const scales_;   // [2, kDirectKeys]
  float* const q_;
  float* float_q_ = nullptr;  // beside whole numbers
  // The smallest of the scales of keys beyond which a row asks for floats, and the tile's largest.
  float least_most_scale_ = __builtin_inff();
  float largest_k_scale_ = 0;
  ScaleCheck<S> check_;
  Score score_[3];        // of 1, 2 and 4 rows
  Score float_score_[3];  // of rows that ask for floats
  Value value_[3];
  Value add_values_;  // of one row
  Weigh weigh_;
  bool value_pairs_ = false;
  bool value_integers_ = false;  // where the vocabulary has whole numbers
  IntegerValue integer_value_[3];
};

}  // namespace quire
