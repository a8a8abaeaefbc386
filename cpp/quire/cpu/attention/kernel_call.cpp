#include "quire/cpu/attention/kernel_call.h"

#include <cmath>
#include <limits>

#include "quire/format/cache_format.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

// Work, in bytes read, that pays for one more thread.
constexpr double kCostPerThread = 256 * 1024;

constexpr double kLargestSoftcap = 1e30;

std::vector<float> per_head_floats(const std::optional<ArrayView>& view) {
  if (!view) return {};
  std::vector<float> values(static_cast<std::size_t>(view->shape[0]));
  visit_dtype(view->dtype, [&](auto type) {
    const auto* p = reinterpret_cast<const decltype(type)*>(view->data);
    std::transform(p, p + values.size(), values.begin(), [](auto x) { return to_float(x); });
  });
  return values;
}

RowsView rows_view(const ArrayView& view) {
  return {view.data, {view.strides[0], view.strides[1]}, view.dtype};
}

// As a sequence sees them.
ScaleView scale_view(const std::optional<ArrayView>& scales, DType dtype, bool of_keys,
                     std::int64_t seq) {
  if (!scales) return {};
  const ScaleKind kind = format_of(dtype).scales;
  const ArrayView scale = scale_of_sequence(*scales, seq);
  const auto& strides = scale.strides;
  if (kind == ScaleKind::grids) {  // cache_scales.h
    return {scale.data, strides[0], of_keys ? 0 : strides[1], strides[of_keys ? 1 : 2], kind};
  }
  if (is_dynamic(scale)) return {scale.data, strides[0], strides[1], strides[2], kind};
  return {scale.data, 0, 0, head_stride_of(scale), kind};
}

CacheView cache_view(const ArrayView& cache, Layout layout, const ScaleView& scale) {
  const int token_axis = layout == Layout::NHD ? 1 : 2;
  return {cache.data,
          cache.strides[0],
          cache.strides[token_axis],
          cache.strides[3 - token_axis],
          cache.dtype,
          scale};
}

}  // namespace

KernelCall::KernelCall(const PagedAttentionArgs& args, const AttentionChoice& kernels)
    : args_(args),
      kernels_(kernels),
      slopes_(per_head_floats(args.alibi_slopes)),
      sinks_(per_head_floats(args.sinks)),
      trees_(trees_of(args)) {
  const PagedAttentionSizes sizes = sizes_of(args);
  task_.q = rows_view(args.q);
  task_.out = rows_view(args.out);
  task_.lse = args.lse;
  const auto set_caches = [&](AttentionTask& task, std::int64_t seq) {
    task.k = cache_view(args.k_cache, args.layout,
                        scale_view(args.k_scale, args.k_cache.dtype, true, seq));
    task.v = cache_view(args.v_cache, args.layout,
                        scale_view(args.v_scale, args.v_cache.dtype, false, seq));
  };
  set_caches(task_, 0);
  task_.first_open = std::numeric_limits<std::int64_t>::max();
  if (args.k_open && args.v_open) {
    task_.k_open = cache_view(*args.k_open, args.layout, {});
    task_.v_open = cache_view(*args.v_open, args.layout, {});
    task_.first_open = sizes.num_blocks;
  }
  if (args.k_tail) {
    task_.k_tail = cache_view(*args.k_tail, args.layout, {});
    task_.tail_dim = args.k_tail->shape[3];
  }
  task_.alibi_slopes = args.alibi_slopes ? slopes_.data() : nullptr;
  task_.sinks = args.sinks ? sinks_.data() : nullptr;
  task_.head_dim = sizes.head_dim;
  task_.v_head_dim = sizes.v_head_dim;
  task_.num_heads = sizes.num_heads;
  task_.group = sizes.group;
  task_.block_size = sizes.block_size;
  task_.scale = args.scale.value_or(1.0 / std::sqrt(static_cast<double>(sizes.head_dim)));
  // a cap that no float32 score can feel is none
  task_.softcap = args.softcap && *args.softcap < kLargestSoftcap ? *args.softcap : 0.0;
  if (!has_scales_of_each(args)) return;
  task_of_each_.assign(static_cast<std::size_t>(sizes.num_seqs), task_);
  for (std::int64_t seq = 0; seq < sizes.num_seqs; ++seq) set_caches(task_of_each_[seq], seq);
}

AttentionUnit KernelCall::unit(const WorkUnit& work, bool windowed) const {
  const IndexView& tables = args_.block_tables;
  const QueryRows rows = query_rows(args_, work.seq);
  AttentionUnit unit{};
  unit.blocks = {tables.data + work.seq * tables.strides[0], tables.strides[1]};
  unit.num_tokens = unit.tokens_of_one_seq = work.num_tokens();
  unit.first_token = {work.token_begin, rows.key(work.token_begin - rows.begin)};
  unit.seq_len = rows.seq_len;
  if (args_.key_positions && rows.seq_len > 0) {
    // Of a snapshot. As they grow from 0 or more, only 0, 1, 2, ... can end at seq_len - 1.
    const IndexView& positions = *args_.key_positions;
    const auto* const row =
        reinterpret_cast<const std::int64_t*>(positions.data + work.seq * positions.strides[0]);
    if (row[rows.seq_len - 1] != rows.seq_len - 1) unit.positions = row;
  }
  static_assert(Reach::kAll == kAllKeys);
  const Reach reach = windowed ? window_of(args_) : Reach{};
  unit.causal = is_causal(args_, work.seq);
  unit.left = reach.left;
  unit.right = unit.causal ? 0 : reach.right;
  if (!trees_.empty()) {
    const std::int64_t n = rows.end - rows.begin;
    unit.tree = {trees_[work.seq] + (work.token_begin - rows.begin) * n, n, rows.key(0)};
  }
  if (part_grid() != 0) unit.sink_tokens = work.keys.sink_tokens.end;
  unit.kv_head_begin = work.kv_head_begin;
  unit.kv_head_end = work.kv_head_end;
  unit.head_rows = padded_rows(work.num_tokens() * task_.group);
  return unit;
}

bool KernelCall::has_open(const WorkUnit& work, const KeyRange& keys) const {
  if (task_.k_open.data == nullptr || keys.begin >= keys.end) return false;
  const std::int64_t last = (keys.end - 1) / task_.block_size;
  for (std::int64_t column = keys.begin / task_.block_size; column <= last; ++column) {
    if (args_.block_tables.at(work.seq, column) >= task_.first_open) return true;
  }
  return false;
}

Crew attention_crew(double cost, std::int64_t items, int num_threads) {
  return crew_for(cost, kCostPerThread, items, num_threads);
}

}  // namespace quire
