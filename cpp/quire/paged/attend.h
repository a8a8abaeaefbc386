// Attention over the sequences of block tables.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "quire/cpu/execution.h"
#include "quire/cpu/operations.h"
#include "quire/kv/table/block_table.h"
#include "quire/ops/attention/attention_query.h"
#include "quire/ops/attention/block_mass_result.h"

namespace quire {

// The last tokens of each table as queries. `block_mass` is made; null: not wanted.
//
// `tables` are of one pool, in use, and at least one; nobody can change them meanwhile. Blocks that
// are not in memory are streamed. Throws, under the name of `function`, ValueError for a freed
// table, tables of two pools or a wrong shape or value, TypeError for a wrong dtype, IndexError for
// an unknown layer or a hole that a query sees, FileError where blocks cannot be read. No result
// has been written then.
void attend(const AttentionQuery& query, std::span<const BlockTable* const> tables,
            std::int64_t layer = 0, Implementation implementation = Implementation::fused,
            const Execution& how = default_execution(), BlockMassResult* block_mass = nullptr,
            std::string_view function = "attend");
// Of one table.
inline void attend(const AttentionQuery& query, const BlockTable& table, std::int64_t layer = 0,
                   Implementation implementation = Implementation::fused,
                   const Execution& how = default_execution()) {
  const BlockTable* const tables[] = {&table};
  attend(query, tables, layer, implementation, how);
}

}  // namespace quire
