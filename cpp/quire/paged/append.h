// New tokens at the end of a table, with their keys and values.
#pragma once

#include <optional>

#include "quire/base/array_view.h"
#include "quire/cpu/execution.h"
#include "quire/kv/table/block_table.h"

namespace quire {

// Extends the table and writes the rows of the new tokens, as one step: nobody sees or copies rows
// that are not written yet.
//
//   k   [n, Hkv, D], of a pool with several layers [num_layers, n, Hkv, D]; float32, float16 or
//       bfloat16, rounded to the pool's dtype
//   v   likewise with Dv; none where the pool's values are the beginnings of its keys
//
// Blocks of a long prompt that would not stay open are sealed as they are written.
//
// Throws ValueError for a freed table, a wrong shape, or a number that a quantised pool cannot
// hold, TypeError for a wrong dtype or no v where there are to be values, OutOfBlocks where the
// pool has too little room. The table is then what it was.
void append(BlockTable& table, const ArrayView& k, const std::optional<ArrayView>& v = std::nullopt,
            const Execution& how = default_execution());

}  // namespace quire
