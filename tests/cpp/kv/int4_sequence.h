// What a table of int4 must hold, worked out from its own history alone: tokens one by one, with
// the numbers that each stands for by now. No blocks, no sharing.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quire/base/int4_grid.h"
#include "quire/kv/block_table.h"

namespace quire::testing {

inline const KvGeometry kInt4Pool{.num_blocks = 0,
                                  .block_size = 4,
                                  .num_kv_heads = 2,
                                  .head_dim = 4,
                                  .v_head_dim = 2,
                                  .num_layers = 2,
                                  .dtype = DType::int4};

inline std::shared_ptr<BlockPool> new_int4_pool(std::int64_t num_blocks,
                                                std::int64_t block_size = 4) {
  KvGeometry geometry = kInt4Pool;
  geometry.num_blocks = num_blocks;
  geometry.block_size = block_size;
  return std::make_shared<BlockPool>(geometry);
}

// The same in a file, with memory for `slots` open blocks, or fewer and what is sealed.
inline std::shared_ptr<BlockPool> new_backed_int4_pool(const std::string& path,
                                                       std::int64_t num_blocks, std::int64_t slots,
                                                       std::int64_t block_size = 4) {
  KvGeometry geometry = kInt4Pool;
  geometry.num_blocks = num_blocks;
  geometry.block_size = block_size;
  const KvStorage storage(geometry, path);
  const std::int64_t bytes = slots * OpenBlocks(storage).slot_bytes();
  return std::make_shared<BlockPool>(geometry,
                                     BackingFile{path, Residency::least_bytes(storage) + bytes});
}

// Numbers that have no short form, so that rounding shows, and differ for every place.
inline float number_of(std::uint32_t token, std::int64_t layer, std::int64_t head, std::int64_t d,
                       bool is_value) {
  const std::uint32_t mixed =
      (token + 1) * 2654435761u +
      static_cast<std::uint32_t>(layer * 40503 + head * 9176 + d * 131 + is_value * 77);
  return static_cast<float>(static_cast<std::int32_t>(mixed ^ mixed >> 15) % 1000) / 77.0f;
}

inline float rounded(float value) { return to_float(from_float<BFloat16>(value)); }

// Writes the rows of a token into the slot of an open block, in every layer.
inline void write_open(const BlockPool& pool, std::int64_t slot, std::uint32_t token) {
  const KvGeometry& geometry = pool.geometry();
  const std::int64_t place = slot - geometry.num_blocks * geometry.block_size;
  ASSERT_GE(place, 0);
  for (std::int64_t layer = 0; layer < geometry.num_layers; ++layer) {
    for (const bool is_value : {false, true}) {
      const ArrayView open =
          is_value ? pool.open_blocks()->v_open(layer) : pool.open_blocks()->k_open(layer);
      for (std::int64_t head = 0; head < geometry.num_kv_heads; ++head) {
        for (std::int64_t d = 0; d < open.shape[3]; ++d) {
          const BFloat16 number = from_float<BFloat16>(number_of(token, layer, head, d, is_value));
          std::memcpy(open.at(place / geometry.block_size, place % geometry.block_size, head, d),
                      &number, sizeof number);
        }
      }
    }
  }
}

inline void append_open(BlockTable& table, const std::vector<std::uint32_t>& tokens) {
  std::vector<std::int64_t> slots(tokens.size());
  std::size_t next = 0;
  table.append(slots, [&](std::span<const std::int64_t> part) {
    for (const std::int64_t slot : part) write_open(*table.pool(), slot, tokens[next++]);
  });
  ASSERT_EQ(next, tokens.size());
}

using Tokens = std::vector<std::uint32_t>;

inline Tokens tokens_from(std::uint32_t first, std::int64_t count) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// extend, and the rows written.
inline void extend_open(BlockTable& table, const Tokens& tokens) {
  const std::vector<std::int64_t> slots = table.extend(std::ssize(tokens));
  for (std::size_t i = 0; i < slots.size(); ++i) write_open(*table.pool(), slots[i], tokens[i]);
}

// The ids of a table's columns as attention knows them.
inline std::vector<std::int32_t> packed(const BlockTable& table) {
  const BlockTable* const list[] = {&table};
  const HeldTables held("pack", list);
  std::vector<std::int32_t> ids(held.max_blocks());
  std::int32_t length = 0;
  held.pack(-1, ids.data(), &length);
  return ids;
}

class Int4Sequence {
 public:
  explicit Int4Sequence(const KvGeometry& geometry) : geometry_(geometry) {}

  std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }
  std::int64_t num_columns() const {
    return (size() + geometry_.block_size - 1) / geometry_.block_size;
  }
  bool is_open(std::int64_t column) const { return open_.contains(column); }
  bool is_hole(std::int64_t column) const { return holes_.contains(column); }

  void append(const std::vector<std::uint32_t>& tokens) {
    if (tokens.empty()) return;
    add(tokens);
    seal_before(num_columns() - 2);
  }
  // extend, then the rows are written.
  void extend(const std::vector<std::uint32_t>& tokens) {
    if (tokens.empty()) return;
    seal_before(num_columns() - 2);
    add(tokens);
  }
  void truncate(std::int64_t length) {
    tokens_.resize(length);
    std::erase_if(open_, [&](std::int64_t column) { return column >= num_columns(); });
    std::erase_if(holes_, [&](std::int64_t column) { return column >= num_columns(); });
  }
  void drop_before(std::int64_t token) {
    for (std::int64_t column = 0; (column + 1) * geometry_.block_size <= token; ++column) {
      holes_.insert(column);
    }
  }
  // Tokens, by index; positions are not of interest here.
  void keep(const std::vector<std::int64_t>& indices) {
    if (static_cast<std::int64_t>(indices.size()) == size()) return;
    std::int64_t same = 0;
    while (same < std::ssize(indices) && indices[same] == same) ++same;
    std::vector<Token> kept;
    for (const std::int64_t index : indices) kept.push_back(tokens_[index]);
    const std::int64_t first_written = same / geometry_.block_size;
    tokens_ = std::move(kept);
    holes_.clear();  // those of columns that stay have no token that is kept
    if (same == size()) {
      std::erase_if(open_, [&](std::int64_t column) { return column >= num_columns(); });
    } else {
      for (std::int64_t column = first_written; column < num_columns(); ++column) open(column);
      std::erase_if(open_, [&](std::int64_t column) { return column >= num_columns(); });
    }
    seal_before(num_columns() - 2);
  }

  ::testing::AssertionResult is_what(const BlockTable& table) const {
    if (table.num_tokens() != size()) return ::testing::AssertionFailure() << "length";
    const std::vector<ExplainedBlock> columns = table.explain();
    for (std::int64_t column = 0; column < num_columns(); ++column) {
      if (is_hole(column) != (columns[column].id == kHole)) {
        return ::testing::AssertionFailure() << "hole at " << column;
      }
      if (!is_hole(column) && columns[column].is_open != is_open(column)) {
        return ::testing::AssertionFailure() << "column " << column << " of " << num_columns()
                                             << " is " << (is_open(column) ? "sealed" : "open");
      }
    }
    const std::int64_t there = holes_.empty() ? size() : *holes_.begin() * geometry_.block_size;
    for (std::int64_t layer = 0; layer < geometry_.num_layers; ++layer) {
      std::vector<float> k(there * key_size()), v(there * value_size());
      table.gather(layer, there, k.data(), v.data());
      for (std::int64_t t = 0; t < there; ++t) {
        const Token& token = tokens_[t];
        if (!std::equal(token.k[layer].begin(), token.k[layer].end(), &k[t * key_size()]) ||
            !std::equal(token.v[layer].begin(), token.v[layer].end(), &v[t * value_size()])) {
          return ::testing::AssertionFailure() << "numbers of token " << t << ", layer " << layer;
        }
      }
    }
    return ::testing::AssertionSuccess();
  }

 private:
  struct Token {
    std::vector<std::vector<float>> k, v;  // [num_layers][heads * size]
  };
  std::int64_t key_size() const { return geometry_.num_kv_heads * geometry_.head_dim; }
  std::int64_t value_size() const { return geometry_.num_kv_heads * geometry_.v_head_dim; }

  void add(const std::vector<std::uint32_t>& tokens) {
    if (size() % geometry_.block_size != 0) open(num_columns() - 1);
    for (const std::uint32_t token : tokens) {
      Token& added = tokens_.emplace_back();
      for (std::int64_t layer = 0; layer < geometry_.num_layers; ++layer) {
        auto& k = added.k.emplace_back();
        auto& v = added.v.emplace_back();
        for (std::int64_t head = 0; head < geometry_.num_kv_heads; ++head) {
          for (std::int64_t d = 0; d < geometry_.head_dim; ++d) {
            k.push_back(rounded(number_of(token, layer, head, d, false)));
          }
          for (std::int64_t d = 0; d < geometry_.v_head_dim; ++d) {
            v.push_back(rounded(number_of(token, layer, head, d, true)));
          }
        }
      }
      open_.insert(num_columns() - 1);
    }
  }

  std::span<Token> tokens_of(std::int64_t column) {
    const std::int64_t begin = column * geometry_.block_size;
    return std::span(tokens_).subspan(begin, std::min(geometry_.block_size, size() - begin));
  }

  void open(std::int64_t column) {
    for (Token& token : tokens_of(column)) {
      for (auto* all : {&token.k, &token.v}) {
        for (auto& numbers : *all) {
          for (float& number : numbers) number = rounded(number);
        }
      }
    }
    open_.insert(column);
  }

  void seal_before(std::int64_t end) {
    while (!open_.empty() && *open_.begin() < end) {
      if (!is_hole(*open_.begin())) seal(*open_.begin());
      open_.erase(open_.begin());
    }
  }

  void seal(std::int64_t column) {
    const std::span<Token> tokens = tokens_of(column);
    ASSERT_EQ(std::ssize(tokens), geometry_.block_size);
    const std::int64_t dim = geometry_.head_dim, v_dim = geometry_.v_head_dim;
    for (std::int64_t layer = 0; layer < geometry_.num_layers; ++layer) {
      for (std::int64_t head = 0; head < geometry_.num_kv_heads; ++head) {
        for (std::int64_t d = 0; d < dim; ++d) {  // keys: a grid for each channel
          float lowest = 1e30f, highest = -1e30f;
          for (const Token& token : tokens) {
            lowest = std::min(lowest, token.k[layer][head * dim + d]);
            highest = std::max(highest, token.k[layer][head * dim + d]);
          }
          const Int4Grid grid = grid_between(lowest, highest);
          for (Token& token : tokens) {
            float& number = token.k[layer][head * dim + d];
            number = from_int4(to_int4(number, grid), grid);
          }
        }
        for (Token& token : tokens) {
          float* const value = &token.v[layer][head * v_dim];
          const Int4Grid grid = grid_between(*std::min_element(value, value + v_dim),
                                             *std::max_element(value, value + v_dim));
          for (std::int64_t d = 0; d < v_dim; ++d) {
            value[d] = from_int4(to_int4(value[d], grid), grid);
          }
        }
      }
    }
  }

  KvGeometry geometry_;
  std::vector<Token> tokens_;
  std::set<std::int64_t> open_, holes_;  // columns
};

}  // namespace quire::testing
