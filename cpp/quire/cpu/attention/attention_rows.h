// What the attention kernels know of a unit: its rows, what each may see, its queries in float32
// and where its results go.
#pragma once

#include <cstdint>

#include "quire/base/dtype.h"
#include "quire/task/attention_task.h"

namespace quire {

template <class S>
struct AttentionRows {
  using Vec = typename S::Vec;
  using Pair = typename S::Pair;
  static constexpr int kChunk = 2 * S::kWidth;
  static constexpr double kLog2E = 1.4426950408889634;
  static constexpr double kLn2 = 0.6931471805599453;

  // The nearest finite float.
  static float finite(double x) {
    constexpr double kLargest = 3.4028234663852886e38;
    return static_cast<float>(x > kLargest ? kLargest : x < -kLargest ? -kLargest : x);
  }

  // Queries are taken times query_factor, and their products times score_scale: together the scale.
  // A power of two goes from one to the other, which changes no bit of a result, but without which
  // the products of large queries, above all with the whole numbers of quantised keys, would leave
  // the range of float32 where scores do not.
  static float query_factor(const AttentionTask& task) {
    return (task.scale < 0 ? -1.0f : 1.0f) / headroom(task);
  }
  static double score_scale(const AttentionTask& task) {
    return (task.scale < 0 ? -task.scale : task.scale) * headroom(task);
  }

  static std::int64_t padded(std::int64_t n) { return (n + kChunk - 1) / kChunk * kChunk; }
  static std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
  static std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

  // Of a row of so many numbers; size_of and numbers_of, for code that is compiled once.
  static std::int64_t row_bytes(DType dtype, std::int64_t count) {
    if (dtype == DType::int4) return count / 2;
    if (dtype == DType::float32) return 4 * count;
    return dtype == DType::float16 || dtype == DType::bfloat16 ? 2 * count : count;
  }

  // Of a key's row in the cache `k`.
  static std::int64_t key_bytes(const AttentionTask& task) {
    return row_bytes(task.k.dtype, task.head_dim - task.tail_dim);
  }

  static std::int64_t block_id(const BlockRow& row, std::int64_t i) {
    return *reinterpret_cast<const std::int64_t*>(row.data + i * row.stride);
  }

  static QueryToken token_of(const AttentionUnit& unit, std::int64_t token) {
    if (unit.tokens != nullptr) return unit.tokens[token];
    return {unit.first_token.q_row + token, unit.first_token.own_key + token};
  }

  static std::int64_t position_of(const AttentionUnit& unit, std::int64_t key) {
    if (unit.positions == nullptr) return key;
    return key < 0 ? unit.positions[0] + key : unit.positions[key];
  }

  // The keys [first_key, end_key) that the query of key `own` sees in a part (visible_keys.h); none
  // where they are not in this order.
  static std::int64_t first_key(const AttentionUnit& unit, std::int64_t own) {
    const std::int64_t position = position_of(unit, own);
    if (unit.left >= position) return 0;
    if (unit.positions == nullptr) return position - unit.left;
    return key_from(unit, position - unit.left, 0, own);
  }
  static std::int64_t end_key(const AttentionUnit& unit, std::int64_t own) {
    if (unit.positions == nullptr || unit.right == 0) {
      return unit.right < unit.seq_len - 1 - own ? own + 1 + unit.right : unit.seq_len;
    }
    if (unit.right == kAllKeys) return unit.seq_len;
    return key_from(unit, position_of(unit, own) + unit.right + 1, larger(own, 0), unit.seq_len);
  }

  // Whether a token's row may see a key that is in its reach.
  static bool shows(const TreeView& tree, std::int64_t token, std::int64_t key) {
    if (tree.rows == nullptr || key < tree.first) return true;
    return tree.rows[token * tree.num_keys + key - tree.first];
  }

  // Whether a token's rows see any key, of those of its reach and the unit's sink tokens.
  static bool sees_any(const AttentionUnit& unit, std::int64_t token) {
    const std::int64_t own = token_of(unit, token).own_key;
    const std::int64_t last = unit.causal ? own + 1 : unit.seq_len;
    return shows_any(unit, token, 0, smaller(unit.sink_tokens, last)) ||
           shows_any(unit, token, first_key(unit, own), end_key(unit, own));
  }

  // The row of `view` at (i, j).
  static std::byte* at(const RowsView& view, std::int64_t i, std::int64_t j) {
    return view.data + i * view.strides[0] + j * view.strides[1];
  }

  // Calls visitor(T{}) with the storage type of `dtype`, as visit_dtype does for code that is
  // compiled once.
  template <class Visitor>
  static void visit(DType dtype, Visitor visitor) {
    if (dtype == DType::float32) return visitor(float{});
    if (dtype == DType::float16) return visitor(Float16{});
    return visitor(BFloat16{});
  }

  // The same as visit_quantised_dtype does.
  template <class Visitor>
  static void visit_quantised(DType dtype, Visitor visitor) {
    if (dtype == DType::int8) return visitor(Int8{});
    if (dtype == DType::float8_e4m3fn) return visitor(Float8E4M3{});
    return visitor(Float8E5M2{});
  }

  // The same with any dtype of a cache; int4 rows are read as float32 (staged_tile.h).
  template <class Visitor>
  static void visit_cache(DType dtype, Visitor visitor) {
    if (dtype == DType::float32 || dtype == DType::int4) return visitor(float{});
    if (dtype == DType::float16 || dtype == DType::bfloat16) return visit(dtype, visitor);
    visit_quantised(dtype, visitor);
  }

  // Where the row of a slot lies, for KV head 0.
  static const std::byte* row_at(const CacheView& cache, std::int64_t block, std::int64_t offset) {
    return cache.data + block * cache.block_stride + offset * cache.token_stride;
  }
  // Where the scale of a slot lies, for KV head 0.
  static const std::byte* scale_at(const ScaleView& scale, std::int64_t block,
                                   std::int64_t offset) {
    return scale.data + block * scale.block_stride + offset * scale.token_stride;
  }
  static float load_scale(const std::byte* from) { return *reinterpret_cast<const float*>(from); }

  // `count` elements in natural order as floats times `times`, zeros up to the padded count.
  static void load_floats(const std::byte* from, DType dtype, std::int64_t count, float times,
                          float* to) {
    visit_cache(dtype, [&](auto type) {
      const auto* p = reinterpret_cast<const decltype(type)*>(from);
      const Vec factor = S::set1(times);
      std::int64_t d = 0;
      for (; d + S::kWidth <= count; d += S::kWidth) {
        S::store(to + d, S::mul(factor, S::load(p + d)));
      }
      for (; d < padded(count); d += S::kWidth) {
        const int rest = static_cast<int>(larger(0, count - d));
        S::store(to + d, rest > 0 ? S::mul(factor, S::load(p + d, rest)) : S::zero());
      }
    });
  }

  // `count` floats in natural order, rounded to `dtype`.
  static void store_floats(const float* from, std::int64_t count, std::byte* to, DType dtype) {
    visit(dtype, [&](auto type) {
      auto* p = reinterpret_cast<decltype(type)*>(to);
      std::int64_t d = 0;
      for (; d + S::kWidth <= count; d += S::kWidth) S::store(p + d, S::load(from + d));
      if (d < count) S::store(p + d, S::load(from + d), static_cast<int>(count - d));
    });
  }

 private:
  static bool shows_any(const AttentionUnit& unit, std::int64_t token, std::int64_t begin,
                        std::int64_t end) {
    while (begin < end && !shows(unit.tree, token, begin)) ++begin;
    return begin < end;
  }

  // The first of the keys [begin, end) that stands at `position` or later, or `end`.
  static std::int64_t key_from(const AttentionUnit& unit, std::int64_t position, std::int64_t begin,
                               std::int64_t end) {
    while (begin < end) {
      const std::int64_t middle = begin + (end - begin) / 2;
      if (unit.positions[middle] < position) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }

  // None for scales that make something of the small queries, which it would take from.
  static float headroom(const AttentionTask& task) {
    return task.scale <= 1024 && task.scale >= -1024 ? 0x1p24f : 1.0f;
  }
};

}  // namespace quire
