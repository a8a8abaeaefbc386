// New keys and values of one layer on their way into the blocks of a pool, whatever those are:
// plain floats, quantised ones with a scale for each row, or open blocks that are sealed later; in
// memory or in a file.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "quire/base/array_view.h"
#include "quire/cpu/execution.h"
#include "quire/kv/pool/block_pool.h"

namespace quire {

// Rows that lie as their arrays say, in float32, float16 or bfloat16.
struct LayerRows {
  ArrayView k;                 // [n, Hkv, D]
  std::optional<ArrayView> v;  // [n, Hkv, Dv]; none, of a pool whose values are within its keys

  std::int64_t count() const { return k.shape[0]; }
  // Rows [first, first + count).
  LayerRows some(std::int64_t first, std::int64_t count) const;
};

// Throws, under the name of `function`, TypeError for no values where the pool wants some, and
// ValueError for values where they are the beginnings of keys.
void check_has_values(const BlockPool& pool, bool has_values, std::string_view function);

// Throws ValueError or TypeError, under the name of `function`, for everything that write_rows
// would refuse: the memory of the rows, and of a quantised pool numbers that it cannot hold.
// `where` stands before the place of such a number.
void check_rows(const BlockPool& pool, std::int64_t layer, const LayerRows& rows,
                std::string_view where, const Execution& how, std::string_view function);

// Writes rows that have been checked into the slots that a table gave for them, of which none is
// skipped.
void write_rows(const BlockPool& pool, std::int64_t layer, const LayerRows& rows,
                std::span<const std::int64_t> slots, const Execution& how,
                std::string_view function);

// Writes rows that have been checked straight into whole sealed blocks, which they fill, of a pool
// with open blocks. The bits are those of rows that were written open and sealed later.
void write_sealed_rows(const BlockPool& pool, std::int64_t layer, const LayerRows& rows,
                       std::span<const std::int32_t> blocks, const Execution& how);

}  // namespace quire
