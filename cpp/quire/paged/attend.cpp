#include "quire/paged/attend.h"

#include <vector>

#include "quire/base/check.h"
#include "quire/ops/attention/validate.h"
#include "quire/paged/layer_attention.h"
#include "quire/paged/packed_tables.h"

namespace quire {

void attend(const AttentionQuery& query, std::span<const BlockTable* const> tables,
            std::int64_t layer, Implementation implementation, const Execution& how,
            BlockMassResult* block_mass, std::string_view function) {
  if (tables.empty()) {
    raise<ValueError>(place(function, "tables"), "got none, expected at least one");
  }
  BlockPool& pool = *tables[0]->pool();
  PagedAttentionArgs call = layer_args(pool, layer, query, function);
  const BlockPool::Delivery delivery(pool);
  const HeldTables held(function, tables);
  const PackedTables packed(held);
  packed.describe(call);
  std::vector<std::int64_t> cu_seqlens_q;  // whose owner may be changing it
  if (query.cu_seqlens_q && query.cu_seqlens_q->ndim == 1) {
    const IndexView& given = *query.cu_seqlens_q;
    for (std::int64_t i = 0; i < given.shape[0]; ++i) cu_seqlens_q.push_back(given.at(i));
    call.cu_seqlens_q = contiguous_index_view(cu_seqlens_q.data(), {given.shape[0]});
  }
  validate(call, function);
  attend_layer(pool, layer, call, packed, block_mass, implementation, how, function);
}

}  // namespace quire
