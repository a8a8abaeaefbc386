// Random problems of paged attention, and an oracle that computes them another way: whole matrices
// in float64, with Eigen.
#pragma once

#include <Eigen/Dense>
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "quire/ops/attention/paged_attention.h"

namespace quire::testing {

using Matrix = Eigen::MatrixXd;
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// An owned array of any dtype.
struct Array {
  Array() = default;
  Array(DType type, std::vector<std::int64_t> lengths) : dtype(type), shape(std::move(lengths)) {
    std::int64_t count = 1;
    for (const std::int64_t length : shape) count *= length;
    bytes.resize(static_cast<std::size_t>(count) * size_of(dtype));
  }

  std::int64_t size() const { return static_cast<std::int64_t>(bytes.size() / size_of(dtype)); }

  void set(std::int64_t i, float value) {
    visit_dtype(dtype, [&](auto type) {
      using T = decltype(type);
      reinterpret_cast<T*>(bytes.data())[i] = from_float<T>(value);
    });
  }
  void fill(float value) {
    visit_dtype(dtype, [&](auto type) {
      using T = decltype(type);
      std::fill_n(reinterpret_cast<T*>(bytes.data()), size(), from_float<T>(value));
    });
  }
  double get(std::int64_t i) const {
    return visit_dtype(dtype, [&](auto type) -> double {
      return to_float(reinterpret_cast<const decltype(type)*>(bytes.data())[i]);
    });
  }

  ArrayView view() {
    ArrayView result;
    result.data = bytes.data();
    result.dtype = dtype;
    result.ndim = static_cast<int>(shape.size());
    std::int64_t stride = static_cast<std::int64_t>(size_of(dtype));
    for (int axis = result.ndim - 1; axis >= 0; --axis) {
      result.shape[axis] = shape[axis];
      result.strides[axis] = stride;
      stride *= shape[axis];
    }
    return result;
  }

  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

// The sizes of a problem; sequence i has seq_lens[i] keys and the last q_lens[i] of them as
// queries.
struct ProblemSizes {
  std::vector<std::int64_t> seq_lens{17};
  std::vector<std::int64_t> q_lens;  // empty: one each
  std::int64_t num_kv_heads = 2;
  std::int64_t group = 4;
  std::int64_t head_dim = 64;
  std::int64_t v_head_dim = 64;
  std::int64_t block_size = 16;
  DType q_dtype = DType::float32;
  DType k_dtype = DType::float32;
  DType v_dtype = DType::float32;
  Layout layout = Layout::NHD;
  float q_magnitude = 1.0f;
};

// Blocks are dealt at random; every slot that holds no token, and every table entry past the last
// block, is poison.
class Problem {
 public:
  Problem(ProblemSizes wanted, unsigned seed) : sizes(std::move(wanted)), random_(seed) {
    if (sizes.q_lens.empty()) sizes.q_lens.assign(sizes.seq_lens.size(), 1);
    const auto num_seqs = static_cast<std::int64_t>(sizes.seq_lens.size());
    std::int64_t max_blocks = 1, used = 0;
    cu_seqlens.push_back(0);
    for (std::int64_t seq = 0; seq < num_seqs; ++seq) {
      const std::int64_t blocks = (sizes.seq_lens[seq] + sizes.block_size - 1) / sizes.block_size;
      max_blocks = std::max(max_blocks, blocks + 1);
      used += blocks;
      cu_seqlens.push_back(cu_seqlens.back() + static_cast<std::int32_t>(sizes.q_lens[seq]));
    }
    num_blocks = used + 3;
    const std::int64_t tokens = cu_seqlens.back();
    const std::int64_t num_heads = sizes.num_kv_heads * sizes.group;
    q = filled(sizes.q_dtype, {tokens, num_heads, sizes.head_dim}, sizes.q_magnitude);
    out = Array(DType::float32, {tokens, num_heads, sizes.v_head_dim});
    lse.assign(static_cast<std::size_t>(tokens * num_heads), kNaN);
    k_cache = cache(sizes.k_dtype, sizes.head_dim);
    v_cache = cache(sizes.v_dtype, sizes.v_head_dim);
    deal_blocks(num_seqs, max_blocks);
    lengths.assign(sizes.seq_lens.begin(), sizes.seq_lens.end());
  }

  PagedAttentionArgs args() {
    PagedAttentionArgs args;
    args.q = q.view();
    args.k_cache = k_cache.view();
    args.v_cache = v_cache.view();
    const auto num_seqs = static_cast<std::int64_t>(lengths.size());
    args.block_tables = contiguous_index_view(
        tables.data(), {num_seqs, static_cast<std::int64_t>(tables.size()) / num_seqs});
    args.seq_lens = contiguous_index_view(lengths.data(), {num_seqs});
    args.cu_seqlens_q = contiguous_index_view(cu_seqlens.data(), {num_seqs + 1});
    args.out = out.view();
    args.lse = lse.data();
    args.layout = sizes.layout;
    return args;
  }

  Array filled(DType dtype, std::vector<std::int64_t> shape, float magnitude) {
    Array array(dtype, std::move(shape));
    std::normal_distribution<float> normal(0, magnitude);
    for (std::int64_t i = 0; i < array.size(); ++i) array.set(i, normal(random_));
    return array;
  }

  // Index of the first element of a cache row.
  std::int64_t row(std::int64_t seq, std::int64_t position, std::int64_t head,
                   std::int64_t dim) const {
    const std::int64_t max_blocks = static_cast<std::int64_t>(tables.size() / lengths.size());
    const std::int64_t block = tables[seq * max_blocks + position / sizes.block_size];
    return cache_row(block, position % sizes.block_size, head) * dim;
  }

  std::int64_t cache_row(std::int64_t block, std::int64_t offset, std::int64_t head) const {
    return sizes.layout == Layout::NHD
               ? (block * sizes.block_size + offset) * sizes.num_kv_heads + head
               : (block * sizes.num_kv_heads + head) * sizes.block_size + offset;
  }

  ProblemSizes sizes;
  std::int64_t num_blocks = 0;
  Array q, k_cache, v_cache, out;
  std::vector<float> lse;
  std::vector<std::int32_t> tables, lengths, cu_seqlens;

 private:
  Array cache(DType dtype, std::int64_t dim) {
    std::vector<std::int64_t> shape =
        sizes.layout == Layout::NHD
            ? std::vector<std::int64_t>{num_blocks, sizes.block_size, sizes.num_kv_heads, dim}
            : std::vector<std::int64_t>{num_blocks, sizes.num_kv_heads, sizes.block_size, dim};
    Array array(dtype, std::move(shape));
    array.fill(kNaN);
    return array;
  }

  void deal_blocks(std::int64_t num_seqs, std::int64_t max_blocks) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(num_blocks));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i);
    std::shuffle(ids.begin(), ids.end(), random_);
    tables.assign(static_cast<std::size_t>(num_seqs * max_blocks), -123456);
    lengths.assign(static_cast<std::size_t>(num_seqs), 0);
    std::normal_distribution<float> normal;
    std::size_t next = 0;
    for (std::int64_t seq = 0; seq < num_seqs; ++seq) {
      for (std::int64_t position = 0; position < sizes.seq_lens[seq]; ++position) {
        const std::int64_t column = position / sizes.block_size;
        if (position % sizes.block_size == 0) tables[seq * max_blocks + column] = ids[next++];
        for (std::int64_t head = 0; head < sizes.num_kv_heads; ++head) {
          const std::int64_t k = row(seq, position, head, sizes.head_dim);
          const std::int64_t v = row(seq, position, head, sizes.v_head_dim);
          for (std::int64_t d = 0; d < sizes.head_dim; ++d) k_cache.set(k + d, normal(random_));
          for (std::int64_t d = 0; d < sizes.v_head_dim; ++d) v_cache.set(v + d, normal(random_));
        }
      }
    }
  }

  std::mt19937 random_;
};

template <class T>
T one_of(std::mt19937& random, std::initializer_list<T> choices) {
  return choices.begin()[random() % choices.size()];
}

// Options of a problem by chance, and the arrays that they name.
struct RandomOptions {
  // `factor` is a third scale beside 0 and -0.3.
  RandomOptions(Problem& problem, std::mt19937& random, double factor) : args(problem.args()) {
    const std::int64_t num_heads = problem.sizes.num_kv_heads * problem.sizes.group;
    slopes = problem.filled(DType::float32, {num_heads}, 0.1f);
    sinks = problem.filled(DType::float32, {num_heads}, 2.0f);
    args.causal = random() % 4 != 0;
    if (random() % 4 == 0) args.sliding_window = one_of<std::int64_t>(random, {1, 7, 33, 64, 5000});
    if (random() % 4 == 0) {
      const auto side = [&] { return one_of<std::int64_t>(random, {-1, 0, 1, 7, 40, 5000}); };
      args.window_sides = WindowSides{side(), side()};
      args.sliding_window = std::nullopt;
    }
    if (random() % 3 == 0) {
      const std::size_t num_seqs = problem.sizes.seq_lens.size();
      causal_of_each.reset(new bool[num_seqs]);
      for (std::size_t seq = 0; seq < num_seqs; ++seq) causal_of_each[seq] = random() % 2 == 0;
      args.causal_of_each = std::span<const bool>(causal_of_each.get(), num_seqs);
    }
    if (random() % 4 == 0) {
      std::int64_t count = 0;
      for (const std::int64_t n : problem.sizes.q_lens) count += n * n;
      tree.reset(new bool[static_cast<std::size_t>(count)]);
      const unsigned out_of_8 = one_of(random, {1, 4, 7});
      for (std::int64_t i = 0; i < count; ++i) tree[i] = random() % 8 < out_of_8;
      args.tree_mask = std::span<const bool>(tree.get(), static_cast<std::size_t>(count));
    }
    if (random() % 2 == 0) args.num_sink_tokens = one_of<std::int64_t>(random, {1, 4, 20, 70});
    if (random() % 4 == 0) args.softcap = one_of(random, {0.5, 30.0});
    if (random() % 4 == 0) args.scale = one_of(random, {0.0, -0.3, factor});
    if (random() % 4 == 0) args.alibi_slopes = slopes.view();
    if (random() % 4 == 0) args.sinks = sinks.view();
  }

  PagedAttentionArgs args;
  Array slopes, sinks;
  std::shared_ptr<bool[]> causal_of_each, tree;
};

struct Answer {
  Matrix out;           // [T * Hq, Dv]
  Eigen::VectorXd lse;  // [T * Hq]
  Matrix block_mass;    // [T * Hq, max_blocks]
};

// Whether a key so many positions after a query is outside of its window.
inline bool is_outside(const PagedAttentionArgs& args, std::int64_t distance) {
  if (args.sliding_window) return distance <= -*args.sliding_window;
  const WindowSides sides = args.window_sides.value_or(WindowSides{});
  return (sides.left >= 0 && distance < -sides.left) ||
         (sides.right >= 0 && distance > sides.right);
}

// The oracle: for each sequence and head the whole score matrix, masks, softmax, product.
inline Answer oracle(const Problem& problem, const PagedAttentionArgs& args) {
  const ProblemSizes& sizes = problem.sizes;
  const std::int64_t num_heads = sizes.num_kv_heads * sizes.group;
  const double infinity = std::numeric_limits<double>::infinity();
  Answer answer{Matrix::Zero(problem.q.shape[0] * num_heads, sizes.v_head_dim),
                Eigen::VectorXd::Constant(problem.q.shape[0] * num_heads, -infinity),
                Matrix::Zero(problem.q.shape[0] * num_heads, args.block_tables.shape[1])};
  const auto per_head = [](const std::optional<ArrayView>& view, std::int64_t head) {
    return static_cast<double>(reinterpret_cast<const float*>(view->data)[head]);
  };
  std::int64_t tree = 0;  // where that of a sequence begins
  for (std::size_t seq = 0; seq < sizes.seq_lens.size();
       tree += sizes.q_lens[seq] * sizes.q_lens[seq], ++seq) {
    const std::int64_t n = sizes.seq_lens[seq], m = sizes.q_lens[seq];
    if (n == 0) continue;
    Matrix q(m, sizes.head_dim), k(n, sizes.head_dim), v(n, sizes.v_head_dim);
    for (std::int64_t head = 0; head < num_heads; ++head) {
      const std::int64_t first = problem.cu_seqlens[seq];
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t d = 0; d < sizes.head_dim; ++d) {
          q(i, d) = problem.q.get(((first + i) * num_heads + head) * sizes.head_dim + d);
        }
      }
      for (std::int64_t j = 0; j < n && head % sizes.group == 0; ++j) {
        const std::int64_t kv_head = head / sizes.group;
        const auto s = static_cast<std::int64_t>(seq);
        const std::int64_t k_row = problem.row(s, j, kv_head, sizes.head_dim);
        const std::int64_t v_row = problem.row(s, j, kv_head, sizes.v_head_dim);
        for (std::int64_t d = 0; d < sizes.head_dim; ++d) k(j, d) = problem.k_cache.get(k_row + d);
        for (std::int64_t d = 0; d < sizes.v_head_dim; ++d) {
          v(j, d) = problem.v_cache.get(v_row + d);
        }
      }
      Matrix scores =
          (q * k.transpose()) * args.scale.value_or(1 / std::sqrt(double(sizes.head_dim)));
      if (args.softcap) scores = (scores.array() / *args.softcap).tanh() * *args.softcap;
      for (std::int64_t i = 0; i < m; ++i) {
        const std::int64_t position = n - m + i;
        for (std::int64_t j = 0; j < n; ++j) {
          if (args.alibi_slopes) {
            scores(i, j) += per_head(args.alibi_slopes, head) * static_cast<double>(j - position);
          }
          const bool causal = args.causal_of_each ? (*args.causal_of_each)[seq] : args.causal;
          const std::int64_t column = j - (n - m);
          if (args.tree_mask && column >= 0 &&
              !(*args.tree_mask)[static_cast<std::size_t>(tree + i * m + column)]) {
            scores(i, j) = -infinity;
          }
          if ((causal && !args.tree_mask && j > position) ||
              (j >= args.num_sink_tokens && is_outside(args, j - position))) {
            scores(i, j) = -infinity;
          }
        }
        const double top = scores.row(i).maxCoeff();
        if (top == -infinity) continue;
        const double sink = args.sinks ? per_head(args.sinks, head) : -infinity;
        const double largest = std::max(top, sink);
        const Eigen::RowVectorXd weights = (scores.row(i).array() - largest).exp();
        const double total = weights.sum() + std::exp(sink - largest);
        const std::int64_t at = (first + i) * num_heads + head;
        answer.out.row(at) = weights * v / total;
        answer.lse(at) = largest + std::log(total);
        for (std::int64_t j = 0; j < n; ++j) {
          answer.block_mass(at, j / sizes.block_size) += weights(j) / total;
        }
      }
    }
  }
  return answer;
}

}  // namespace quire::testing
