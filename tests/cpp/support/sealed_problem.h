// A problem's keys and values as quantised caches and open blocks, mixed at random.
#pragma once

#include "quire/format/int4_grid.h"
#include "support/attention_problem.h"

namespace quire::testing {

// What of a problem's blocks is open, and how.
struct OpenBlocksOf {
  double part = 0.5;  // of all blocks, at random
  DType dtype = DType::bfloat16;
  DType sealed = DType::int4;  // of the others
  std::int64_t last = 0;       // so many last blocks of each sequence are open besides
};

// Grids or scales, and codes, are drawn at random for the sealed blocks, and the numbers that they
// stand for become the problem's, so that its oracle answers for both. What holds no token is
// poison: NaN in scales, in grids of values and in open rows. So are sealed blocks that nobody has,
// grids of keys included.
class SealedProblem {
 public:
  SealedProblem(Problem& problem, const OpenBlocksOf& open, unsigned seed, float step = 0.2f)
      : problem_(problem),
        random_(seed),
        sealed_(open.sealed),
        step_(step),
        slot_of_(static_cast<std::size_t>(problem.num_blocks), kSealed),
        seen_(static_cast<std::size_t>(problem.num_blocks), false) {
    const ProblemSizes& sizes = problem.sizes;
    std::int64_t num_open = 2;
    for (std::int64_t& slot : slot_of_) {
      if (std::uniform_real_distribution()(random_) < open.part) slot = num_open++;
    }
    for (std::size_t seq = 0; seq < sizes.seq_lens.size(); ++seq) {
      const std::int64_t used = (sizes.seq_lens[seq] + sizes.block_size - 1) / sizes.block_size;
      for (std::int64_t i = std::max<std::int64_t>(0, used - open.last); i < used; ++i) {
        std::int64_t& slot = slot_of_[problem.tables[seq * columns() + i]];
        if (slot == kSealed) slot = num_open++;
      }
    }
    const int numbers = numbers_of(sealed_);
    k_codes_ = Array(sealed_, shape_of(problem.num_blocks, sizes.head_dim / numbers));
    v_codes_ = Array(sealed_, shape_of(problem.num_blocks, sizes.v_head_dim / numbers));
    const std::vector rows{problem.num_blocks, sizes.block_size, sizes.num_kv_heads};
    k_scales_ = poison(DType::float32, rows);
    v_scales_ = poison(DType::float32, rows);
    if (sealed_ == DType::int4) {
      k_scales_ =
          poison(DType::float16, {problem.num_blocks, sizes.num_kv_heads, sizes.head_dim, 2});
      v_scales_ =
          poison(DType::float16, {problem.num_blocks, sizes.block_size, sizes.num_kv_heads, 2});
    }
    k_open_ = poison(open.dtype, shape_of(num_open, sizes.head_dim));
    v_open_ = poison(open.dtype, shape_of(num_open, sizes.v_head_dim));
    for (std::size_t seq = 0; seq < sizes.seq_lens.size(); ++seq) {
      for (std::int64_t token = 0; token < sizes.seq_lens[seq]; ++token) {
        const std::int64_t block = problem.tables[seq * columns() + token / sizes.block_size];
        for (std::int64_t head = 0; head < sizes.num_kv_heads; ++head) {
          draw(block, token % sizes.block_size, head);
        }
        seen_[block] = true;
      }
    }
    for (const std::int32_t block : problem.tables) {
      const bool used = block >= 0 && slot_of_[block] != kSealed;
      tables_.push_back(used ? problem.num_blocks + slot_of_[block] : block);
    }
  }

  // `args`, of the problem, with these caches.
  PagedAttentionArgs args(PagedAttentionArgs args) {
    args.k_cache = k_codes_.view();
    args.v_cache = v_codes_.view();
    args.k_scale = k_scales_.view();
    args.v_scale = v_scales_.view();
    args.k_open = k_open_.view();
    args.v_open = v_open_.view();
    const auto num_seqs = static_cast<std::int64_t>(problem_.sizes.seq_lens.size());
    args.block_tables = contiguous_index_view(tables_.data(), {num_seqs, columns()});
    return args;
  }

  Array& k_open() { return k_open_; }
  Array& v_open() { return v_open_; }

  // The row of open keys or values of a sequence's key, whose block is open.
  std::int64_t open_row(std::int64_t seq, std::int64_t key, std::int64_t head) const {
    const std::int64_t column = key / problem_.sizes.block_size;
    const std::int64_t block = problem_.tables[seq * columns() + column];
    return problem_.cache_row(slot_of_[block], key % problem_.sizes.block_size, head);
  }

  std::int64_t columns() const {
    return static_cast<std::int64_t>(problem_.tables.size() / problem_.sizes.seq_lens.size());
  }

 private:
  static constexpr std::int64_t kSealed = -1;

  std::vector<std::int64_t> shape_of(std::int64_t blocks, std::int64_t row) const {
    const ProblemSizes& sizes = problem_.sizes;
    if (sizes.layout == Layout::NHD) return {blocks, sizes.block_size, sizes.num_kv_heads, row};
    return {blocks, sizes.num_kv_heads, sizes.block_size, row};
  }

  static Array poison(DType dtype, std::vector<std::int64_t> shape) {
    Array array(dtype, std::move(shape));
    for (std::int64_t i = 0; i < array.size(); ++i) array.set(i, kNaN);
    return array;
  }

  void draw(std::int64_t block, std::int64_t offset, std::int64_t head) {
    const ProblemSizes& sizes = problem_.sizes;
    const std::int64_t d = sizes.head_dim, dv = sizes.v_head_dim;
    const std::int64_t row = problem_.cache_row(block, offset, head);
    if (const std::int64_t slot = slot_of_[block]; slot != kSealed) {
      const std::int64_t open = problem_.cache_row(slot, offset, head);
      keep_open(problem_.k_cache, row * d, k_open_, open * d, d);
      keep_open(problem_.v_cache, row * dv, v_open_, open * dv, dv);
      return;
    }
    auto* const k_real = reinterpret_cast<float*>(problem_.k_cache.bytes.data()) + row * d;
    auto* const v_real = reinterpret_cast<float*>(problem_.v_cache.bytes.data()) + row * dv;
    if (sealed_ != DType::int4) {
      const std::int64_t scale = (block * sizes.block_size + offset) * sizes.num_kv_heads + head;
      draw_row(k_codes_, row * d, d, k_scales_, scale, k_real);
      draw_row(v_codes_, row * dv, dv, v_scales_, scale, v_real);
      return;
    }
    auto* const k_grids = reinterpret_cast<Int4Grid*>(k_scales_.bytes.data()) +
                          (block * sizes.num_kv_heads + head) * d;
    if (!seen_[block] && offset == 0) std::generate_n(k_grids, d, [this] { return draw_grid(); });
    auto* const v_grid = reinterpret_cast<Int4Grid*>(v_scales_.bytes.data()) +
                         (block * sizes.block_size + offset) * sizes.num_kv_heads + head;
    *v_grid = draw_grid();
    std::byte* const k = draw_codes(k_codes_, row, d);
    std::byte* const v = draw_codes(v_codes_, row, dv);
    open_key(k, k_grids, d, k_real);
    open_value(v, *v_grid, dv, v_real);
  }

  // A row of int8 or float8 and its scale, so that numbers are about 1.
  void draw_row(Array& codes, std::int64_t at, std::int64_t count, Array& scales,
                std::int64_t scale_at, float* real) {
    std::normal_distribution<float> normal;
    const float usual = largest_of(sealed_) / (sealed_ == DType::int8 ? 2 : 8);
    const float scale = std::exp(normal(random_) / 4) / usual;
    scales.set(scale_at, scale);
    visit_cache_dtype(sealed_, [&](auto type) {
      using T = decltype(type);
      auto* const numbers = reinterpret_cast<T*>(codes.bytes.data()) + at;
      for (std::int64_t i = 0; i < count; ++i) {
        numbers[i] = from_float<T>(usual * normal(random_));
        real[i] = static_cast<float>(to_float(numbers[i])) * scale;
      }
    });
  }

  static void keep_open(Array& real, std::int64_t from, Array& open, std::int64_t to,
                        std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      open.set(to + i, static_cast<float>(real.get(from + i)));
      real.set(from + i, static_cast<float>(open.get(to + i)));
    }
  }

  Int4Grid draw_grid() {
    std::normal_distribution<float> normal;
    const float step = step_ * std::exp(normal(random_) / 2);
    return {from_float<Float16>(step), from_float<Float16>(5 * step_ * normal(random_))};
  }

  std::byte* draw_codes(Array& codes, std::int64_t row, std::int64_t count) {
    std::byte* const begin = codes.bytes.data() + row * count / 2;
    std::generate_n(begin, count / 2, [this] { return static_cast<std::byte>(random_()); });
    return begin;
  }

  Problem& problem_;
  std::mt19937 random_;
  const DType sealed_;
  const float step_;
  std::vector<std::int64_t> slot_of_;  // of each block; kSealed
  std::vector<bool> seen_;
  std::vector<std::int64_t> tables_;
  Array k_codes_, v_codes_, k_scales_, v_scales_, k_open_, v_open_;
};

}  // namespace quire::testing
