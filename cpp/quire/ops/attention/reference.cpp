#include "quire/ops/attention/reference.h"

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "quire/base/interruption.h"
#include "quire/format/cache_format.h"
#include "quire/ops/attention/visible_keys.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

// Between two looks for an interruption.
constexpr std::size_t kKeysPerLook = 64;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The first numbers of a row.
void load(const std::byte* row, DType dtype, std::span<double> numbers) {
  visit_cache_dtype(dtype, [&](auto type) {
    const auto* const stored = reinterpret_cast<const decltype(type)*>(row);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = to_float(stored[i]);
  });
}

double load_one(const std::byte* number, DType dtype) {
  double loaded = 0;
  load(number, dtype, {&loaded, 1});
  return loaded;
}

void store(std::byte* row, DType dtype, std::int64_t i, double value) {
  visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    reinterpret_cast<T*>(row)[i] = from_float<T>(static_cast<float>(value));
  });
}

// A row of a cache, for one head, and what its elements are multiples of; or grids. Its elements
// from tail_begin on lie elsewhere.
struct CacheRow {
  const std::byte* data;
  DType dtype;
  double scale;
  const Int4Grid* grids;
  std::int64_t grid_step;  // 0: all share the first
  std::int64_t tail_begin = std::numeric_limits<std::int64_t>::max();
  const std::byte* tail = nullptr;

  // Without the scale.
  void read(std::span<double> numbers) const {
    if (grids == nullptr) {
      const std::size_t here = std::min(numbers.size(), static_cast<std::size_t>(tail_begin));
      load(data, dtype, numbers.first(here));
      if (here < numbers.size()) load(tail, dtype, numbers.subspan(here));
      return;
    }
    for (std::int64_t d = 0; d < std::ssize(numbers); ++d) {
      const Int4Grid grid = grids[d * grid_step];
      numbers[d] = to_float(grid.middle) + (int4_at(data, d) - 8.0) * to_float(grid.step);
    }
  }
};

// Key `key` of sequence `seq`, or its value.
CacheRow cache_row(const PagedAttentionArgs& args, bool of_keys, std::int64_t seq, std::int64_t key,
                   std::int64_t kv_head) {
  const PagedAttentionSizes sizes = sizes_of(args);
  const std::int64_t block = args.block_tables.at(seq, key / sizes.block_size);
  const std::int64_t offset = key % sizes.block_size;
  const ArrayView* const open_cache = get_if(of_keys ? args.k_open : args.v_open);
  const bool open = open_cache != nullptr && block >= sizes.num_blocks;
  const ArrayView& cache = open ? *open_cache : of_keys ? args.k_cache : args.v_cache;
  const std::int64_t place = open ? block - sizes.num_blocks : block;
  const auto at = [&](const ArrayView& array) {
    return args.layout == Layout::NHD ? array.at(place, offset, kv_head)
                                      : array.at(place, kv_head, offset);
  };
  CacheRow row{at(cache), cache.dtype, 1.0, nullptr, of_keys};
  if (of_keys && args.k_tail) {
    row.tail_begin = cache.shape[3];
    row.tail = at(*args.k_tail);
  }
  const ArrayView* const scale = get_if(of_keys ? args.k_scale : args.v_scale);
  if (!is_quantised(cache.dtype) || scale == nullptr) return row;
  if (format_of(cache.dtype).scales == ScaleKind::rows) {
    row.scale = *scale_at(scale_of_sequence(*scale, seq), block, offset, kv_head);
  } else {
    row.grids = of_keys ? key_grids_at(*scale, block, kv_head)
                        : value_grid_at(*scale, block, offset, kv_head);
  }
  return row;
}

// `k`: room for the key's numbers.
double score_of(const PagedAttentionArgs& args, std::span<const double> q, const CacheRow& k_row,
                std::span<double> k, std::int64_t head, std::int64_t distance) {
  k_row.read(k);
  double dot = 0;
  for (std::size_t d = 0; d < q.size(); ++d) dot += q[d] * k[d];
  dot *= k_row.scale;
  double score = dot * args.scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size())));
  if (args.softcap) score = *args.softcap * std::tanh(score / *args.softcap);
  if (args.alibi_slopes) {
    score += load_one(args.alibi_slopes->at(head), args.alibi_slopes->dtype) *
             static_cast<double>(distance);
  }
  return score;
}

// Those that row j of a sequence sees.
std::vector<std::int64_t> keys_of(const PagedAttentionArgs& args, const QueryRows& rows,
                                  const bool* tree, std::int64_t j) {
  const VisibleKeys visible = visible_keys(args, rows, j);
  std::vector<std::int64_t> keys;
  for (const KeyRange& range : {visible.sink_tokens, visible.window}) {
    for (std::int64_t key = range.begin; key < range.end; ++key) {
      if (shows(tree, rows, j, key)) keys.push_back(key);
    }
  }
  return keys;
}

void attend_row(const PagedAttentionArgs& args, const PagedAttentionSizes& sizes, std::int64_t seq,
                const QueryRows& rows, const bool* tree, std::int64_t row, std::int64_t head) {
  const std::int64_t position =
      rows.seq_len == 0 ? 0 : position_of(args, seq, rows.key(row - rows.begin));
  const std::int64_t kv_head = head / sizes.group;

  const std::vector<std::int64_t> keys = keys_of(args, rows, tree, row - rows.begin);
  std::vector<double> q(static_cast<std::size_t>(sizes.head_dim)), k(q.size());
  load(args.q.at(row, head), args.q.dtype, q);
  std::vector<double> scores;
  double largest = -kInfinity;
  for (const std::int64_t key : keys) {
    if (scores.size() % kKeysPerLook == 0) check_interruption();
    scores.push_back(score_of(args, q, cache_row(args, true, seq, key, kv_head), k, head,
                              position_of(args, seq, key) - position));
    largest = std::max(largest, scores.back());
  }
  double sum = 0;
  if (args.sinks && !scores.empty()) {
    const double sink = load_one(args.sinks->at(head), args.sinks->dtype);
    largest = std::max(largest, sink);
    sum = std::exp(sink - largest);
  }
  std::vector<double> out(static_cast<std::size_t>(sizes.v_head_dim), 0.0), v(out.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (i % kKeysPerLook == 0) check_interruption();
    const double weight = std::exp(scores[i] - largest);
    const CacheRow v_row = cache_row(args, false, seq, keys[i], kv_head);
    sum += weight;
    v_row.read(v);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += weight * v_row.scale * v[d];
  }
  for (std::int64_t d = 0; d < sizes.v_head_dim; ++d) {
    store(args.out.at(row, head), args.out.dtype, d, scores.empty() ? 0.0 : out[d] / sum);
  }
  if (args.block_mass != nullptr) {
    float* const columns =
        args.block_mass + (row * sizes.num_heads + head) * args.block_tables.shape[1];
    double mass = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      mass += std::exp(scores[i] - largest) / sum;
      const std::int64_t column = keys[i] / sizes.block_size;
      if (i + 1 < keys.size() && keys[i + 1] / sizes.block_size == column) continue;
      columns[column] = static_cast<float>(mass);
      mass = 0;
    }
  }
  if (args.lse != nullptr) {
    args.lse[row * sizes.num_heads + head] = scores.empty()
                                                 ? -std::numeric_limits<float>::infinity()
                                                 : static_cast<float>(largest + std::log(sum));
  }
}

}  // namespace

void reference_attention(const PagedAttentionArgs& args) {
  const PagedAttentionSizes sizes = sizes_of(args);
  const std::vector<const bool*> trees = trees_of(args);
  for (std::int64_t seq = 0; seq < sizes.num_seqs; ++seq) {
    const QueryRows rows = query_rows(args, seq);
    const bool* const tree = trees.empty() ? nullptr : trees[seq];
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      for (std::int64_t head = 0; head < sizes.num_heads; ++head) {
        attend_row(args, sizes, seq, rows, tree, row, head);
      }
    }
  }
}

}  // namespace quire
