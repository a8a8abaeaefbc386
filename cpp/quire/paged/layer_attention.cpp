#include "quire/paged/layer_attention.h"

#include <optional>
#include <vector>

#include "quire/base/check.h"
#include "quire/cpu/attention/attention_run.h"
#include "quire/paged/streamed_keys.h"

namespace quire {

PagedAttentionArgs layer_args(const BlockPool& pool, std::int64_t layer,
                              const AttentionQuery& query, std::string_view function) {
  const KvGeometry& geometry = pool.geometry();
  if (layer < 0 || layer >= geometry.num_layers) {
    raise<IndexError>(place(function, "layer"), "got ", layer, ", expected 0 to ",
                      geometry.num_layers - 1);
  }
  PagedAttentionArgs call;
  static_cast<AttentionQuery&>(call) = query;
  if (geometry.shared && query.v_scale) {
    raise<ValueError>(place(function, "v_scale"), "got one, expected None: the pool's values are ",
                      "the beginnings of its keys (shared), and have their scales");
  }
  call.names = kNamesOfPool;
  if (query.k_scale) call.names.k_scale = "k_scale";
  if (query.v_scale) call.names.v_scale = "v_scale";
  const KvStorage& storage = pool.storage();
  call.k_cache = storage.k_cache(layer);
  call.v_cache = storage.v_cache(layer);
  if (is_quantised(geometry.dtype)) {
    if (!call.k_scale) call.k_scale = storage.k_scale(layer);
    if (!call.v_scale) call.v_scale = geometry.shared ? call.k_scale : storage.v_scale(layer);
  }
  if (geometry.opens_blocks()) {
    call.k_open = pool.open_blocks().k_open(layer);
    call.v_open = pool.open_blocks().v_open(layer);
  }
  return call;
}

void attend_layer(const BlockPool& pool, std::int64_t layer, PagedAttentionArgs& args,
                  const PackedTables& packed, BlockMassResult* block_mass,
                  Implementation implementation, const Execution& how, std::string_view function,
                  AttentionPlan* plan) {
  if (block_mass != nullptr) make_block_mass(args, *block_mass);
  Residency& residency = pool.residency();
  if (!residency.is_limited()) return run_attention(args, implementation, how, function, plan);
  pool.storage().memory().require_written(function);
  std::optional<StreamedKeys> keys;
  if (implementation == Implementation::fused) {
    args.pager = &keys.emplace(residency, layer);
  }
  const std::vector<std::int32_t> blocks(packed.block_tables().begin(),
                                         packed.block_tables().end());
  const std::vector<std::int64_t> slabs = residency.slabs(layer, blocks);
  try {
    run_attention(args, implementation, how, function, plan);
  } catch (...) {
    residency.settle(slabs);
    throw;
  }
  if (!keys) residency.settle(slabs);
}

}  // namespace quire
