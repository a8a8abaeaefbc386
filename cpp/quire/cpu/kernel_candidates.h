// The instruction sets that operators choose their kernels from, on this processor.
#pragma once

#include <span>

#include "quire/base/dtype.h"
#include "quire/cpu/kernel_set.h"

namespace quire {

struct KernelCandidates {
  std::span<const KernelSet* const> sets;  // the richest first; all run here, the last anywhere
  const KernelSet* wanted = nullptr;       // one that was asked for by name
  bool has_fast_pairs = false;             // kernel_list.h

  // table_of(set) of the first that offers such a table and is worth it for such a cache; null
  // where nobody does.
  template <class TableOf>
  auto first(TableOf table_of, DType cache) const -> decltype(&table_of(*wanted)) {
    for (const KernelSet* const set : sets) {
      const auto& table = table_of(*set);
      if (table.instruction_set != nullptr && pays(*set, cache)) return &table;
    }
    return nullptr;
  }

  // Where pairs are slow AVX-512 without them is faster. But whole numbers are multiplied in one
  // instruction, and float8s widened by two tables: of quantised caches it is the faster one.
  bool pays(const KernelSet& set, DType cache) const {
    return &set == wanted || has_fast_pairs || !set.multiplies_pairs || is_quantised(cache);
  }
};

}  // namespace quire
