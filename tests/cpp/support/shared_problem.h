// Sequences that have their first blocks in common.
#pragma once

#include "support/attention_problem.h"

namespace quire::testing {

// The blocks of sequence `to` that hold its first `tokens` tokens become those of `from`; of the
// last, all of it does.
inline void share_blocks(Problem& problem, std::int64_t from, std::int64_t to,
                         std::int64_t tokens) {
  const auto columns =
      static_cast<std::int64_t>(problem.tables.size() / problem.sizes.seq_lens.size());
  for (std::int64_t column = 0; column * problem.sizes.block_size < tokens; ++column) {
    problem.tables[to * columns + column] = problem.tables[from * columns + column];
  }
}

}  // namespace quire::testing
