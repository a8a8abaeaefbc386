// Attention that reads the scattered blocks where they lie, one pass over keys and values.
//
// A unit's queries go through its keys a tile at a time: the tile's row pointers are looked up once
// in the block table, then each KV head scores it (ScoreTile), takes it into the softmax
// (OnlineSoftmax) and adds its values (ValueTile), for all query rows of that head. Tiles are the
// outer loop, as a block's heads lie together in memory.
#pragma once

#include "quire/cpu/attention_rows.h"
#include "quire/cpu/fused_tile.h"

namespace quire {

template <class S>
class FusedAttention {
 public:
  using Rows = AttentionRows<S>;

  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    return (rows + 1) * Rows::padded(task.head_dim) + kMostRows * kTileKeys;
  }

  static void part(const AttentionTask& task, const AttentionUnit& unit, std::int64_t key_begin,
                   std::int64_t key_end, float* scratch, StateView state) {
    FusedAttention(task, unit, scratch, state).run(key_begin, key_end);
  }

 private:
  static constexpr int kMostRows = 4;  // rows that go through a tile together

  using ScoreFunction = void (*)(const void*, std::int64_t, std::int64_t, TileRows, TileRows, int,
                                 int, float*);
  using ValueFunction = void (*)(const float*, TileRows, TileRows, int, int, std::int64_t, float*,
                                 std::int64_t);
  struct Functions {  // for 1, 2 and 4 rows; [1]: with prefetch
    ScoreFunction score[3][2];
    ValueFunction value[3][2];
  };

  // The pointers of a tile's key and value rows, for KV head 0.
  struct Tile {
    const std::byte* k[kTileKeys];
    const std::byte* v[kTileKeys];
  };

  FusedAttention(const AttentionTask& task, const AttentionUnit& unit, float* scratch,
                 StateView state)
      : task_(task),
        unit_(unit),
        state_(state),
        head_rows_((unit.token_end - unit.token_begin) * task.group),
        q_stride_(Rows::padded(task.head_dim)),
        v_stride_(Rows::padded(task.v_head_dim)),
        scores_(scratch),
        q_(scratch + kMostRows * kTileKeys) {
    const double scale = task.scale < 0 ? -task.scale : task.scale;
    softmax_.has_softcap = task.softcap != 0;
    softmax_.cap_scale = softmax_.has_softcap ? Rows::finite(scale / task.softcap) : 0.0f;
    softmax_.exponent_scale =
        Rows::finite((softmax_.has_softcap ? task.softcap : scale) * Rows::kLog2E);
    choose_functions();
  }

  void run(std::int64_t key_begin, std::int64_t key_end) {
    clear_state();
    if (key_begin >= key_end) return;
    prepare_queries();
    Tile tiles[2];
    int current = 0;
    find_rows(key_begin, key_end, tiles[current]);
    for (std::int64_t key = key_begin; key < key_end; key += kTileKeys) {
      const bool last = key + kTileKeys >= key_end;
      const Tile& tile = tiles[current];
      const Tile& next = last ? tile : tiles[current ^ 1];
      if (!last) find_rows(key + kTileKeys, key_end, tiles[current ^ 1]);
      const int num_keys = static_cast<int>(Rows::smaller(kTileKeys, key_end - key));
      for (std::int64_t head = unit_.kv_head_begin; head < unit_.kv_head_end; ++head) {
        const bool next_head = head + 1 < unit_.kv_head_end;
        attend_tile(tile, next_head ? tile : next, head, next_head ? head + 1 : unit_.kv_head_begin,
                    key, num_keys);
      }
      current ^= 1;
    }
  }

  void clear_state() {
    const std::int64_t rows = head_rows_ * (unit_.kv_head_end - unit_.kv_head_begin);
    for (std::int64_t r = 0; r < rows; ++r) state_.maximum[r] = -__builtin_inff();
    for (std::int64_t i = 0; i < rows * S::kWidth; i += S::kWidth)
      S::store(state_.sums + i, S::zero());
    for (std::int64_t i = 0; i < rows * v_stride_; i += S::kWidth) {
      S::store(state_.values + i, S::zero());
    }
  }

  // Query rows in the order of lanes that the keys load in. A negative scale turns their sign.
  void prepare_queries() {
    const float sign = task_.scale < 0 ? -1.0f : 1.0f;
    float* const row = q_ + head_rows_ * (unit_.kv_head_end - unit_.kv_head_begin) * q_stride_;
    std::int64_t r = 0;
    for (std::int64_t head = unit_.kv_head_begin; head < unit_.kv_head_end; ++head) {
      for (std::int64_t token = unit_.token_begin; token < unit_.token_end; ++token) {
        for (std::int64_t g = 0; g < task_.group; ++g, ++r) {
          Rows::load_floats(Rows::at(task_.q, token, head * task_.group + g), task_.q.dtype,
                            task_.head_dim, sign, row);
          arrange_query(row, q_row(r));
        }
      }
    }
  }

  void arrange_query(const float* row, void* to) {
    if (multiplies_bfloat16()) {
      for (std::int64_t d = 0; d < q_stride_; d += S::kWidth) {
        S::store(static_cast<BFloat16*>(to) + d, S::load(row + d));
      }
      return;
    }
    Rows::visit(task_.k.dtype, [&](auto type) {
      float* out = static_cast<float*>(to);
      for (std::int64_t d = 0; d < q_stride_; d += Rows::kChunk) {
        const auto pair = S::template from_natural<decltype(type)>(
            {S::load(row + d), S::load(row + d + S::kWidth)});
        S::store(out + d, pair.lo);
        S::store(out + d + S::kWidth, pair.hi);
      }
    });
  }

  // Row r of the prepared queries; they are bfloat16 or float, with the same stride in elements.
  void* q_row(std::int64_t r) const {
    if (multiplies_bfloat16()) return reinterpret_cast<BFloat16*>(q_) + r * q_stride_;
    return q_ + r * q_stride_;
  }

  bool multiplies_bfloat16() const {
    return S::kDotsBFloat16 && task_.q.dtype == DType::bfloat16 && task_.k.dtype == DType::bfloat16;
  }

  // Rows past the last key repeat it: they may be read, never counted.
  void find_rows(std::int64_t key, std::int64_t key_end, Tile& tile) const {
    std::int64_t column = key / task_.block_size;
    std::int64_t offset = key % task_.block_size;
    const int num_keys = static_cast<int>(Rows::smaller(kTileKeys, key_end - key));
    std::int64_t block = Rows::block_id(unit_.blocks, column);
    for (int i = 0; i < num_keys; ++i) {
      if (offset == task_.block_size) {
        offset = 0;
        block = Rows::block_id(unit_.blocks, ++column);
      }
      tile.k[i] = task_.k.data + block * task_.k.block_stride + offset * task_.k.token_stride;
      tile.v[i] = task_.v.data + block * task_.v.block_stride + offset * task_.v.token_stride;
      ++offset;
    }
    for (int i = num_keys; i < kTileKeys; ++i) {
      tile.k[i] = tile.k[num_keys - 1];
      tile.v[i] = tile.v[num_keys - 1];
    }
  }

  // All rows of one KV head through one tile, in groups of 4, 2 and 1.
  void attend_tile(const Tile& tile, const Tile& next, std::int64_t head, std::int64_t next_head,
                   std::int64_t key, int num_keys) {
    const Place at{{tile.k, head * task_.k.head_stride},
                   {tile.v, head * task_.v.head_stride},
                   {next.k, next_head * task_.k.head_stride},
                   {next.v, next_head * task_.v.head_stride},
                   head,
                   key,
                   num_keys};
    bool prefetch = true;
    for (std::int64_t r = 0; r < head_rows_;) {
      const std::int64_t left = head_rows_ - r;
      const int size = left >= 4 ? 2 : left >= 2 ? 1 : 0;
      if (attend_group(at, r, size, prefetch)) prefetch = false;
      r += std::int64_t{1} << size;
    }
  }

  struct Place {
    TileRows k, v, next_k, next_v;
    std::int64_t head, key;
    int num_keys;
  };

  // Rows [r, r + 2^size) of a head; false where none of them sees a key of the tile.
  bool attend_group(const Place& at, std::int64_t r, int size, bool prefetch) {
    const int num_rows = 1 << size;
    int begin[kMostRows], end[kMostRows];
    int first = kTileKeys, last = 0;                  // keys that some row sees
    int shared_first = 0, shared_last = at.num_keys;  // keys that every row sees
    std::int64_t token = r / task_.group;
    std::int64_t g = r % task_.group;
    std::int64_t distances[kMostRows];
    std::int64_t heads[kMostRows];
    for (int i = 0; i < num_rows; ++i) {
      const std::int64_t position = unit_.first_position + token;
      begin[i] = clamp(Rows::first_key(task_, position) - at.key, at.num_keys);
      end[i] = clamp(Rows::end_key(task_, unit_, position) - at.key, at.num_keys);
      distances[i] = at.key - position;
      heads[i] = at.head * task_.group + g;
      if (begin[i] < end[i]) {
        first = begin[i] < first ? begin[i] : first;
        last = end[i] > last ? end[i] : last;
      }
      shared_first = begin[i] > shared_first ? begin[i] : shared_first;
      shared_last = end[i] < shared_last ? end[i] : shared_last;
      if (++g == task_.group) {
        g = 0;
        ++token;
      }
    }
    if (first >= last) return false;

    const std::int64_t row = (at.head - unit_.kv_head_begin) * head_rows_ + r;
    functions_.score[size][prefetch](q_row(row), q_stride_, task_.head_dim, at.k, at.next_k, first,
                                     last, scores_);
    float* const values = state_.values + row * v_stride_;
    for (int i = 0; i < num_rows; ++i) {
      if (begin[i] >= end[i]) continue;
      const float slope = task_.alibi_slopes == nullptr
                              ? 0.0f
                              : Rows::finite(task_.alibi_slopes[heads[i]] * Rows::kLog2E);
      softmax_.update(scores_ + i * kTileKeys, begin[i], end[i], slope,
                      static_cast<float>(distances[i]), state_.maximum[row + i],
                      state_.sums + (row + i) * S::kWidth, values + i * v_stride_, v_stride_);
    }
    if (shared_first < shared_last) {
      functions_.value[size][prefetch](scores_, at.v, at.next_v, shared_first, shared_last,
                                       task_.v_head_dim, values, v_stride_);
    } else {
      shared_first = shared_last = 0;
    }
    // A weight of 0 would not do for a key that a row may not see: 0 * NaN is NaN.
    for (int i = 0; i < num_rows; ++i) {
      const bool split = shared_first < shared_last;
      add_values(at, i, begin[i], split ? shared_first : end[i], values);
      if (split) add_values(at, i, shared_last, end[i], values);
    }
    return true;
  }

  void add_values(const Place& at, int i, int begin, int end, float* values) {
    if (begin >= end) return;
    functions_.value[0][0](scores_ + i * kTileKeys, at.v, at.next_v, begin, end, task_.v_head_dim,
                           values + i * v_stride_, v_stride_);
  }

  static int clamp(std::int64_t key, int num_keys) {
    return static_cast<int>(key < 0 ? 0 : key > num_keys ? num_keys : key);
  }

  template <class T>
  void use_scores() {
    using Score = ScoreTile<S, T>;
    functions_.score[0][0] = &Score::template run<1, false>;
    functions_.score[0][1] = &Score::template run<1, true>;
    functions_.score[1][0] = &Score::template run<2, false>;
    functions_.score[1][1] = &Score::template run<2, true>;
    functions_.score[2][0] = &Score::template run<4, false>;
    functions_.score[2][1] = &Score::template run<4, true>;
  }

  template <class T>
  void use_values() {
    using Value = ValueTile<S, T>;
    functions_.value[0][0] = &Value::template run<1, false>;
    functions_.value[0][1] = &Value::template run<1, true>;
    functions_.value[1][0] = &Value::template run<2, false>;
    functions_.value[1][1] = &Value::template run<2, true>;
    functions_.value[2][0] = &Value::template run<4, false>;
    functions_.value[2][1] = &Value::template run<4, true>;
  }

  void choose_functions() {
    Rows::visit(task_.v.dtype, [&](auto type) { use_values<decltype(type)>(); });
    if constexpr (S::kDotsBFloat16) {
      if (multiplies_bfloat16()) return use_scores<BFloat16Product>();
    }
    Rows::visit(task_.k.dtype, [&](auto type) { use_scores<decltype(type)>(); });
  }

  const AttentionTask& task_;
  const AttentionUnit& unit_;
  const StateView state_;
  const std::int64_t head_rows_;  // rows of one KV head
  const std::int64_t q_stride_, v_stride_;
  float* const scores_;  // [kMostRows, kTileKeys]
  float* const q_;
  OnlineSoftmax<S> softmax_;
  Functions functions_;
};

}  // namespace quire
