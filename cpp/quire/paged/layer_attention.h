// One layer's attention over tables that are held: what a call over tables and a layer of a step
// have in common.
#pragma once

#include <cstdint>
#include <string_view>

#include "quire/cpu/plan/attention_plan.h"
#include "quire/paged/attend.h"
#include "quire/paged/packed_tables.h"

namespace quire {

// The arguments of a call but for its tables. Throws IndexError for an unknown layer, ValueError
// for a v_scale where values are the beginnings of keys: they have the scales of keys, given or
// not.
PagedAttentionArgs layer_args(const BlockPool& pool, std::int64_t layer,
                              const AttentionQuery& query, std::string_view function);

// Runs a call that validate has passed, over the tables that `packed` was made of and which are
// held. Blocks that are not in memory are streamed for the fused kernels, and for block mass after
// them; the other implementations have the system read what they touch, and it is given back when
// they are done or have refused. `plan` as run_attention takes it.
void attend_layer(const BlockPool& pool, std::int64_t layer, PagedAttentionArgs& args,
                  const PackedTables& packed, BlockMassResult* block_mass,
                  Implementation implementation, const Execution& how, std::string_view function,
                  AttentionPlan* plan = nullptr);

}  // namespace quire
