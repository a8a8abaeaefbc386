// Sequences whose rows tell all that stands before them: a row of one prefix is no other's.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kv/table/token_rows.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire::testing {

using Ids = std::vector<std::int64_t>;

// What stands in the row of each token: made of the namespace and of all tokens up to it.
inline std::vector<std::uint32_t> tags(const std::string& space, const Ids& ids) {
  std::uint64_t sum = std::hash<std::string>()(space) | 1;
  std::vector<std::uint32_t> result;
  for (const std::int64_t id : ids) {
    sum = (sum ^ static_cast<std::uint64_t>(id)) * 0x9e3779b97f4a7c15u + 1;
    sum ^= sum >> 29;
    result.push_back(static_cast<std::uint32_t>(sum >> 16));
  }
  return result;
}

inline Ids operator+(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// first, first + 1, ...
inline Ids count_from(std::int64_t first, std::size_t size) {
  Ids ids(size);
  for (std::size_t i = 0; i < size; ++i) ids[i] = first + static_cast<std::int64_t>(i);
  return ids;
}

inline std::size_t common_prefix(const Ids& a, const Ids& b) {
  std::size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  return i;
}

// Whether the table holds the rows of exactly these ids.
inline ::testing::AssertionResult holds_ids(const BlockTable& table, const Ids& ids,
                                            const std::string& space = "") {
  return holds_tokens(table, tags(space, ids));
}

// The same of a table with holes, in a pool of float32: of the tokens that are there.
inline ::testing::AssertionResult holds_ids_but_holes(const BlockTable& table, const Ids& ids,
                                                      const std::string& space = "") {
  const std::vector<std::uint32_t> expected = tags(space, ids);
  const std::vector<std::int32_t> blocks = table.blocks();
  const std::int64_t block_size = table.pool()->geometry().block_size;
  if (table.num_tokens() != std::ssize(ids)) {
    return ::testing::AssertionFailure() << table.num_tokens() << " tokens";
  }
  for (std::int64_t token = 0; token < std::ssize(ids); ++token) {
    const std::int64_t block = blocks[token / block_size];
    const std::int64_t slot = block * block_size + token % block_size;
    if (block != kHole && !slot_holds(table.pool()->storage(), slot, expected[token])) {
      return ::testing::AssertionFailure() << "other rows at token " << token;
    }
  }
  return ::testing::AssertionSuccess();
}

// Appends to a table that holds the first ids the rows of those that follow.
inline void append_rest(BlockTable& table, const Ids& ids, const std::string& space = "") {
  const std::vector<std::uint32_t> all = tags(space, ids);
  append_tokens(table, {all.begin() + table.num_tokens(), all.end()});
}

// What an engine does with a prompt: takes what is cached, computes the rest, and inserts.
inline std::shared_ptr<BlockTable> serve(PrefixCache& cache, const Ids& ids,
                                         const std::string& space = "") {
  auto table = cache.match(ids, space);
  append_rest(*table, ids, space);
  cache.insert(ids, *table, space);
  return table;
}

}  // namespace quire::testing
