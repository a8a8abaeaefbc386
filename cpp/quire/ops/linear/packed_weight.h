// How a weight is packed: panel by panel, on several threads.
#pragma once

#include <cstdint>
#include <memory>

#include "quire/base/thread_pool.h"
#include "quire/ops/argument_checker.h"
#include "quire/ops/linear/weight.h"

namespace quire {

// A weight whose panels pack_one(weight, panel, worker) packs; workers are below max(num_threads,
// 1).
template <class PackOne>
std::shared_ptr<const Weight> packed_weight(const PackedLayout& layout, int num_threads,
                                            const PackOne& pack_one) {
  const auto weight = std::make_shared<Weight>(layout);
  // elements that one thread packs in about 50 us
  constexpr std::int64_t kWorkOfOne = 1 << 16;
  const Crew crew =
      crew_for(layout.num_rows * layout.num_columns, kWorkOfOne, layout.panels(), num_threads);
  deal(crew, layout.panels(),
       [&](std::int64_t panel, int worker) { pack_one(*weight, panel, worker); });
  return weight;
}

// That whoever gives rows has some.
inline void check_source(const ArgumentChecker& check, std::int64_t num_rows,
                         std::int64_t num_columns) {
  if (num_rows < 1 || num_columns < 1) {
    check.fail<ValueError>("source", "got [", num_rows, ", ", num_columns,
                           "], expected one row and one column or more");
  }
}

}  // namespace quire
