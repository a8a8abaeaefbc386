// Attention over keys and values copied together first: the plain way, kept as a second opinion on
// the fused kernel and as the baseline that it has to beat. Two passes over the scores of a row
// (largest, then weights), values last; it shares no algorithm with fused_paths.h.
#pragma once

#include "quire/base/is_interrupted.h"
#include "quire/cpu/cache/int4_rows.h"
#include "quire/cpu/simd_math.h"

namespace quire {

template <class S>
class GatherAttention {
 public:
  using Rows = AttentionRows<S>;
  using Vec = typename S::Vec;

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t num_keys) {
    const std::int64_t d = Rows::padded(task.head_dim);
    const std::int64_t dv = Rows::padded(task.v_head_dim);
    return num_keys * (d + dv) + kRows * (num_keys + d + 3 * dv) + Int4Rows<S>::grid_floats(d) +
           (task.tail_dim > 0 ? d : 0);
  }

  static void run(const AttentionTask& task, const AttentionUnit& unit, std::int64_t key_begin,
                  std::int64_t key_end, float* scratch) {
    GatherAttention gather(task, unit, key_begin, key_end, scratch);
    gather.copy_keys();
    const std::int64_t rows = unit.num_tokens * task.group;
    for (std::int64_t r = 0; r < rows && !is_interrupted(); r += kRows) {
      gather.attend(r, static_cast<int>(Rows::smaller(kRows, rows - r)));
    }
  }

 private:
  static constexpr int kRows = 4;  // query rows that share a pass over the copies

  // Between two looks for an interruption, which ends all loops early.
  static constexpr std::int64_t kKeysPerLook = 1024;
  static bool is_time_to_look(std::int64_t key) { return (key + 1) % kKeysPerLook == 0; }

  GatherAttention(const AttentionTask& task, const AttentionUnit& unit, std::int64_t key_begin,
                  std::int64_t key_end, float* scratch)
      : task_(task),
        unit_(unit),
        sink_tokens_(unit.sink_tokens),
        skipped_(key_begin - sink_tokens_),
        num_keys_(sink_tokens_ + key_end - key_begin),
        d_(Rows::padded(task.head_dim)),
        dv_(Rows::padded(task.v_head_dim)),
        is_long_(num_keys_ > kSumKeys),
        totals_(reinterpret_cast<double*>(scratch)),
        k_(scratch + 2 * kRows * dv_),
        v_(k_ + num_keys_ * d_),
        q_(v_ + num_keys_ * dv_),
        out_(q_ + kRows * d_),
        scores_(out_ + kRows * dv_),
        grids_(scores_ + kRows * num_keys_),
        joined_(reinterpret_cast<std::byte*>(grids_ + Int4Rows<S>::grid_floats(d_))) {}

  void copy_keys() {
    const std::int64_t head = unit_.kv_head_begin;
    Int4Rows<S> int4(grids_);
    for (std::int64_t i = 0; i < num_keys_; ++i) {
      if (is_time_to_look(i) && is_interrupted()) return;
      const std::int64_t key = key_at(i);
      const std::int64_t id = Rows::block_id(unit_.blocks, key / task_.block_size);
      const std::int64_t offset = key % task_.block_size;
      const bool open = id >= task_.first_open;
      const std::int64_t block = open ? id - task_.first_open : id;
      const CacheView& k = open ? task_.k_open : task_.k;
      const CacheView& v = open ? task_.v_open : task_.v;
      if (k.scale.kind == ScaleKind::grids) {
        int4.load_key(row(k, block, offset, head), grid(k.scale, block, offset, head),
                      task_.head_dim, k_ + i * d_);
        int4.load_value(row(v, block, offset, head), grid(v.scale, block, offset, head),
                        task_.v_head_dim, v_ + i * dv_);
        continue;
      }
      Rows::load_floats(key_row(k, block, offset, head), k.dtype, task_.head_dim,
                        scale(k.scale, block, offset, head), k_ + i * d_);
      Rows::load_floats(row(v, block, offset, head), v.dtype, task_.v_head_dim,
                        scale(v.scale, block, offset, head), v_ + i * dv_);
    }
  }

  // A key's row in one piece.
  const std::byte* key_row(const CacheView& k, std::int64_t block, std::int64_t offset,
                           std::int64_t head) const {
    const std::byte* const front = row(k, block, offset, head);
    if (task_.tail_dim == 0) return front;
    const auto front_bytes = static_cast<std::size_t>(Rows::key_bytes(task_));
    __builtin_memcpy(joined_, front, front_bytes);
    __builtin_memcpy(joined_ + front_bytes, row(task_.k_tail, block, offset, head),
                     static_cast<std::size_t>(Rows::row_bytes(k.dtype, task_.tail_dim)));
    return joined_;
  }

  static const std::byte* row(const CacheView& cache, std::int64_t block, std::int64_t offset,
                              std::int64_t head) {
    return Rows::row_at(cache, block, offset) + head * cache.head_stride;
  }

  static const Int4Grid* grid(const ScaleView& scale, std::int64_t block, std::int64_t offset,
                              std::int64_t head) {
    const std::byte* const first = Rows::scale_at(scale, block, offset);
    return reinterpret_cast<const Int4Grid*>(first + head * scale.head_stride);
  }

  static float scale(const ScaleView& scale, std::int64_t block, std::int64_t offset,
                     std::int64_t head) {
    if (scale.data == nullptr) return 1.0f;
    return Rows::load_scale(Rows::scale_at(scale, block, offset) + head * scale.head_stride);
  }

  // The place in the sequence of copy i: the sink tokens come first, then the window.
  std::int64_t key_at(std::int64_t i) const { return i < sink_tokens_ ? i : i + skipped_; }

  struct Row {
    std::int64_t token, head;
    std::int64_t position;    // of its token
    std::int64_t sink_end;    // sink tokens that it sees
    std::int64_t begin, end;  // keys of the window that it sees, counted as they are copied
    bool sees;                // any of them
    float largest = -__builtin_inff();  // of its scores
    double sum = 0;                     // of its weights
  };

  Row row_at(std::int64_t r) const {
    const std::int64_t token = r / task_.group;
    Row row;
    row.token = unit_.first_token.q_row + token;
    row.head = unit_.kv_head_begin * task_.group + r % task_.group;
    const std::int64_t own = unit_.first_token.own_key + token;
    row.position = Rows::position_of(unit_, own);
    const std::int64_t end = Rows::end_key(unit_, own);
    // which a window's right edge does not hide
    row.sink_end = unit_.causal ? Rows::smaller(sink_tokens_, end) : sink_tokens_;
    row.begin = Rows::larger(sink_tokens_, Rows::first_key(unit_, own) - skipped_);
    row.end = Rows::larger(row.begin, end - skipped_);
    row.sees = Rows::sees_any(unit_, token);
    return row;
  }

  void attend(std::int64_t r, int count) {
    Row rows[kRows];
    std::int64_t first = num_keys_, last = 0;                // keys that some row sees
    std::int64_t shared_first = 0, shared_last = num_keys_;  // keys that every row sees
    for (int i = 0; i < kRows; ++i) {
      rows[i] = row_at(r + (i < count ? i : count - 1));
      first = Rows::smaller(first, rows[i].begin);
      last = Rows::larger(last, rows[i].end);
      shared_first = Rows::larger(shared_first, rows[i].begin);
      shared_last = Rows::smaller(shared_last, Rows::smaller(rows[i].end, tree_begin()));
      Rows::load_floats(Rows::at(task_.q, rows[i].token, rows[i].head), task_.q.dtype,
                        task_.head_dim, Rows::query_factor(task_), q_ + i * d_);
    }
    score(sink_tokens_ > 0 ? 0 : first, Rows::larger(last, sink_tokens_));
    for (int i = 0; i < kRows; ++i) weigh(rows[i], scores_ + i * num_keys_);

    for (std::int64_t d = 0; d < kRows * dv_; d += S::kWidth) S::store(out_ + d, S::zero());
    for (std::int64_t d = 0; is_long_ && d < kRows * dv_; ++d) totals_[d] = 0;
    if (shared_first >= shared_last) shared_first = shared_last = last;
    add_values<kRows>(0, shared_first, shared_last);
    for (int i = 0; i < count; ++i) {
      const auto add = [&](std::int64_t begin, std::int64_t end) { add_values<1>(i, begin, end); };
      for_runs(rows[i], 0, rows[i].sink_end, add);
      for_runs(rows[i], rows[i].begin, Rows::smaller(shared_first, rows[i].end), add);
      for_runs(rows[i], Rows::larger(shared_last, rows[i].begin), rows[i].end, add);
      for (std::int64_t d = i * dv_; is_long_ && d < (i + 1) * dv_; ++d) {
        out_[d] = static_cast<float>(totals_[d]);
      }
      write(rows[i], out_ + i * dv_);
    }
  }

  void score(std::int64_t first, std::int64_t last) {
    for (std::int64_t key = first; key < last; ++key) {
      if (is_time_to_look(key) && is_interrupted()) return;
      const float* k = k_ + key * d_;
      Vec sums[kRows][2];
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) sums[i][0] = sums[i][1] = S::zero();
      for (std::int64_t d = 0; d < d_; d += Rows::kChunk) {
        const Vec lo = S::load(k + d);
        const Vec hi = S::load(k + d + S::kWidth);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          sums[i][0] = S::fma(S::load(q_ + i * d_ + d), lo, sums[i][0]);
          sums[i][1] = S::fma(S::load(q_ + i * d_ + d + S::kWidth), hi, sums[i][1]);
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        scores_[i * num_keys_ + key] = S::reduce_add(S::add(sums[i][0], sums[i][1]));
      }
    }
  }

  // Scores become weights e^(score - largest). Dot products are scaled after the largest is taken
  // away, as scaling first would round large ones apart; a softcap or ALiBi needs the scale before.
  void weigh(Row& row, float* scores) const {
    const float scale = Rows::finite(Rows::score_scale(task_));
    const float slope = task_.alibi_slopes == nullptr ? 0.0f : task_.alibi_slopes[row.head];
    const bool bent = task_.softcap != 0 || task_.alibi_slopes != nullptr;
    const float cap = static_cast<float>(task_.softcap);
    Vec largest = S::set1(-__builtin_inff());
    for_keys(row, scores, [&](Vec x, std::int64_t key, int lanes) {
      if (bent) {
        x = S::mul(x, S::set1(scale));
        if (cap != 0) x = S::mul(S::set1(cap), SimdMath<S>::tanh(S::div(x, S::set1(cap))));
        x = S::fma(S::set1(slope), distances(row, key, lanes), x);
      }
      largest = S::max(largest, S::select(S::lanes(0, lanes), x, largest));
      return x;
    });
    row.largest = S::reduce_max(largest);
    const Vec factor = S::set1((bent ? 1.0f : scale) * static_cast<float>(Rows::kLog2E));
    Vec sum = S::zero();
    std::int64_t summed = 0;
    for_keys(row, scores, [&](Vec x, std::int64_t, int lanes) {
      x = SimdMath<S>::exp2(S::mul(S::sub(x, S::set1(row.largest)), factor));
      sum = S::add(sum, S::select(S::lanes(0, lanes), x, S::zero()));
      summed += S::kWidth;
      if (is_long_ && summed % kSumKeys == 0) {
        row.sum += S::reduce_add(sum);
        sum = S::zero();
      }
      return x;
    });
    row.sum += S::reduce_add(sum);
    if (!bent) row.largest *= scale;
  }

  // Of `lanes` keys' positions, from copy i on, from that of a row.
  Vec distances(const Row& row, std::int64_t i, int lanes) const {
    const std::int64_t key = key_at(i);
    if (unit_.positions == nullptr) {
      return S::add(S::iota(), S::set1(static_cast<float>(key - row.position)));
    }
    float each[S::kWidth] = {};
    for (int lane = 0; lane < lanes; ++lane) {
      each[lane] = static_cast<float>(unit_.positions[key + lane] - row.position);
    }
    return S::load(each);
  }

  // Replaces the scores of the keys that a row sees by change(scores, first key, number of keys).
  template <class Change>
  void for_keys(const Row& row, float* scores, Change change) const {
    const auto run = [&](std::int64_t begin, std::int64_t end) {
      for_range(begin, end, scores, change);
    };
    for_runs(row, 0, row.sink_end, run);
    for_runs(row, row.begin, row.end, run);
  }

  // Calls visit(begin, end) for the runs of copies in [begin, end) that a tree does not hide.
  template <class Visit>
  void for_runs(const Row& row, std::int64_t begin, std::int64_t end, Visit visit) const {
    const std::int64_t token = row.token - unit_.first_token.q_row;
    while (begin < end) {
      std::int64_t last = end;
      if (end > tree_begin() || begin < sink_tokens_) {
        while (begin < end && !Rows::shows(unit_.tree, token, key_at(begin))) ++begin;
        last = begin;
        while (last < end && Rows::shows(unit_.tree, token, key_at(last))) ++last;
      }
      if (begin < last) visit(begin, last);
      begin = last;
    }
  }

  // The first copy of the window that a tree may hide.
  std::int64_t tree_begin() const {
    if (unit_.tree.rows == nullptr) return num_keys_;
    return Rows::larger(unit_.tree.first - skipped_, 0);
  }

  template <class Change>
  static void for_range(std::int64_t begin, std::int64_t end, float* scores, Change& change) {
    for (std::int64_t key = begin; key < end; key += S::kWidth) {
      const int lanes = static_cast<int>(Rows::smaller(S::kWidth, end - key));
      S::store(scores + key, change(S::load(scores + key, lanes), key, lanes), lanes);
    }
  }

  // Adds the sum over keys of weight * value row up, for rows [i, i + R): in out_, or of many keys
  // kSumKeys at a time in totals_, as a long sum in float32 loses the last ones.
  template <int R>
  void add_values(int i, std::int64_t begin, std::int64_t end) {
    if (!is_long_) return add_some_values<R>(i, begin, end);
    for (std::int64_t key = begin; key < end; key += kSumKeys) {
      add_some_values<R>(i, key, Rows::smaller(key + kSumKeys, end));
      for (std::int64_t d = i * dv_; d < (i + R) * dv_; ++d) {
        totals_[d] += out_[d];
        out_[d] = 0;
      }
    }
  }

  // out[i] += the same.
  template <int R>
  void add_some_values(int i, std::int64_t begin, std::int64_t end) {
    if (begin >= end) return;
    for (std::int64_t d = 0; d < dv_; d += Rows::kChunk) {
      if (end - begin > kKeysPerLook && is_interrupted()) return;
      float* const out = out_ + i * dv_ + d;
      Vec sums[R][2];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        sums[r][0] = S::load(out + r * dv_);
        sums[r][1] = S::load(out + r * dv_ + S::kWidth);
      }
      for (std::int64_t key = begin; key < end; ++key) {
        const Vec lo = S::load(v_ + key * dv_ + d);
        const Vec hi = S::load(v_ + key * dv_ + d + S::kWidth);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const Vec weight = S::set1(scores_[(i + r) * num_keys_ + key]);
          sums[r][0] = S::fma(weight, lo, sums[r][0]);
          sums[r][1] = S::fma(weight, hi, sums[r][1]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        S::store(out + r * dv_, sums[r][0]);
        S::store(out + r * dv_ + S::kWidth, sums[r][1]);
      }
    }
  }

  void write(const Row& row, float* out) const {
    // a sink above every score shrinks the keys' part, one below is shrunk
    const double sink = task_.sinks == nullptr ? -__builtin_inf() : task_.sinks[row.head];
    const double above = sink - row.largest;
    const double keys = above > 0 ? __builtin_exp(-above) : 1.0;
    const double rest = above > 0 ? 1.0 : __builtin_exp(above);
    const double total = row.sum * keys + rest;
    const Vec factor = S::set1(row.sees ? static_cast<float>(keys / total) : 0.0f);
    for (std::int64_t d = 0; d < dv_; d += S::kWidth) {
      S::store(out + d, S::mul(S::load(out + d), factor));
    }
    Rows::store_floats(out, task_.v_head_dim, Rows::at(task_.out, row.token, row.head),
                       task_.out.dtype);
    if (task_.lse == nullptr) return;
    const double largest = above > 0 ? sink : row.largest;
    task_.lse[row.token * task_.num_heads + row.head] =
        row.sees ? static_cast<float>(largest + __builtin_log(total)) : -__builtin_inff();
  }

  const AttentionTask& task_;
  const AttentionUnit& unit_;
  const std::int64_t sink_tokens_;
  const std::int64_t skipped_;  // keys between the sink tokens and the window
  const std::int64_t num_keys_;
  const std::int64_t d_, dv_;  // padded
  const bool is_long_;         // more keys than are summed in float32
  double* const totals_;       // [kRows, dv]
  float* const k_;             // [num_keys, d]
  float* const v_;             // [num_keys, dv]
  float* const q_;             // [kRows, d]
  float* const out_;           // [kRows, dv]
  float* const scores_;        // [kRows, num_keys]
  float* const grids_;         // of Int4Rows
  std::byte* const joined_;    // a key's row, where it lies in two pieces
};

}  // namespace quire
