// What of some blocks a query with a window needs, token by token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "quire/kv/ledger/block_ledger.h"
#include "quire/kv/prefix/prefix_window.h"

namespace quire::testing {

struct PlainCut {
  std::int64_t tokens = 0;
  std::vector<std::int32_t> columns;  // of whole blocks, and holes
};

// The longest beginning of these columns, and of `rows` of a block after them, that the next query
// can go on from: it looks at every length, and at every token of each.
inline PlainCut plain_cut(const PrefixWindow& window, std::int64_t block_size, std::int64_t rows,
                          const std::vector<std::int32_t>& columns) {
  const auto whole = std::ssize(columns) * block_size;
  const auto is_seen = [&](std::int64_t token, std::int64_t length) {
    return token > length - window.size || token < window.num_sink_tokens;
  };
  const auto is_there = [&](std::int64_t token) {
    return token >= whole || columns[token / block_size] != kHole;
  };
  for (std::int64_t length = whole + rows; length > 0; --length) {
    bool is_hit = true;
    for (std::int64_t token = 0; token < length; ++token) {
      is_hit = is_hit && (!is_seen(token, length) || is_there(token));
    }
    if (!is_hit) continue;
    PlainCut cut{length, std::vector<std::int32_t>(std::min(length, whole) / block_size, kHole)};
    for (std::int64_t token = 0; token < std::min(length, whole); ++token) {
      if (is_seen(token, length)) cut.columns[token / block_size] = columns[token / block_size];
    }
    return cut;
  }
  return {};
}

}  // namespace quire::testing
