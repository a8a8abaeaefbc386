// What a table with open blocks must hold, worked out from its own history alone: tokens one by
// one, with the numbers that each stands for by now. No blocks, no sharing. What it was is kept in
// whole: tokens that are taken back are taken back by going there, and appending the fewer anew.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "kv/table/open_rows.h"
#include "quire/format/int4_grid.h"

namespace quire::testing {

class OpenSequence {
 public:
  explicit OpenSequence(const KvGeometry& geometry) : geometry_(geometry) {}

  std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }
  std::int64_t num_columns() const {
    return (size() + geometry_.block_size - 1) / geometry_.block_size;
  }
  bool ends_within_block() const { return size() % geometry_.block_size != 0; }
  // The least length that it can return to.
  std::int64_t horizon() const { return horizon_; }
  bool is_open(std::int64_t column) const { return open_.contains(column); }
  bool is_hole(std::int64_t column) const { return holes_.contains(column); }

  void append(const std::vector<std::uint32_t>& tokens) { grow({now(), tokens, false}); }
  // extend, then the rows are written.
  void extend(const std::vector<std::uint32_t>& tokens) { grow({now(), tokens, true}); }
  void truncate(std::int64_t length) {
    if (length >= size()) return;
    return_to(std::max(length, horizon_));
    cut(length);
    horizon_ = std::min(horizon_, length);
  }
  // As one that was matched: what it has of blocks that are full is sealed.
  void seal_full_blocks() {
    seal_before(size() / geometry_.block_size);
    forget_past();
  }
  // As one that was loaded: it was nothing else before.
  void forget_past() {
    horizon_ = size();
    past_.clear();
  }
  void drop(std::int64_t column) { holes_.insert(column); }
  // Tokens, by index; positions are not of interest here.
  void keep(const std::vector<std::int64_t>& indices) {
    if (static_cast<std::int64_t>(indices.size()) == size()) return;
    std::int64_t same = 0;
    while (same < std::ssize(indices) && indices[same] == same) ++same;
    if (same == std::ssize(indices)) {
      truncate(same);
      seal_before(num_columns() - geometry_.num_open());
      return forget_past();
    }
    if (same >= horizon_) reopen();
    std::vector<Token> kept;
    for (const std::int64_t index : indices) kept.push_back(tokens_[index]);
    const std::int64_t first_written = same / geometry_.block_size;
    tokens_ = std::move(kept);
    holes_.clear();  // those of columns that stay have no token that is kept
    for (std::int64_t column = first_written; column < num_columns(); ++column) open(column);
    std::erase_if(open_, [&](std::int64_t column) { return column >= num_columns(); });
    seal_before(num_columns() - geometry_.num_open());
    forget_past();
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
    const std::vector<std::int32_t> ids = packed(table);
    for (std::int64_t layer = 0; layer < geometry_.num_layers; ++layer) {
      std::vector<float> k(size() * key_size()), v(size() * value_size());
      table.gather(layer, there, k.data(), v.data());
      for (std::int64_t t = 0; t < size(); ++t) {
        const std::int64_t column = t / geometry_.block_size;
        if (is_hole(column)) continue;
        if (t >= there) {  // past the first hole, where gather does not go
          const RowPlace place = {ids[column], t % geometry_.block_size};
          read_row(*table.pool(), layer, place, &k[t * key_size()], &v[t * value_size()]);
        }
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
    std::vector<std::vector<float>> k, v;                      // [num_layers][heads * size]
    std::vector<std::vector<float>> open_k = {}, open_v = {};  // what they were in an open block
  };
  struct State {
    std::vector<Token> tokens;
    std::set<std::int64_t> open;
  };
  // What it was before tokens were appended, or were there room for.
  struct Growth {
    State before;
    std::vector<std::uint32_t> tokens;
    bool extends;
  };

  State now() const { return {tokens_, open_}; }

  void grow(Growth growth) {
    if (growth.tokens.empty()) return;
    if (growth.extends) seal_before(num_columns() - geometry_.num_open());
    add(growth.tokens);
    if (!growth.extends) seal_before(num_columns() - geometry_.num_open());
    horizon_ = std::max(horizon_, size() - 64);
    past_.push_back(std::move(growth));
    while (past_.size() > 1 && std::ssize(past_[1].before.tokens) <= horizon_) {
      past_.erase(past_.begin());
    }
  }
  // To a length that is not before the horizon.
  void return_to(std::int64_t length) {
    if (length == size()) return;
    while (std::ssize(past_.back().before.tokens) > length) past_.pop_back();
    Growth growth = std::move(past_.back());
    past_.pop_back();
    tokens_ = growth.before.tokens;
    open_ = growth.before.open;
    growth.tokens.resize(length - size());
    const std::int64_t horizon = horizon_;
    grow(std::move(growth));
    std::erase_if(holes_, [&](std::int64_t column) { return column >= num_columns(); });
    horizon_ = horizon;
  }
  // And nothing else.
  void cut(std::int64_t length) {
    tokens_.resize(length);
    std::erase_if(open_, [&](std::int64_t column) { return column >= num_columns(); });
    std::erase_if(holes_, [&](std::int64_t column) { return column >= num_columns(); });
    std::erase_if(past_,
                  [&](const Growth& growth) { return std::ssize(growth.before.tokens) >= length; });
  }
  // Opens all columns that were open at the horizon, or that have been written since.
  void reopen() {
    OpenSequence then = *this;
    then.return_to(horizon_);
    for (std::int64_t column = 0; column < num_columns(); ++column) {
      const std::int64_t end = std::min((column + 1) * geometry_.block_size, size());
      if (end <= horizon_ && !then.is_open(column)) continue;
      for (Token& token : tokens_of(column)) {
        if (!is_hole(column)) token.k = token.open_k, token.v = token.open_v;
      }
      open_.insert(column);
    }
  }

  std::int64_t key_size() const { return geometry_.num_kv_heads * geometry_.head_dim; }
  std::int64_t value_size() const { return geometry_.num_kv_heads * geometry_.v_head_dim; }

  void read_row(const BlockPool& pool, std::int64_t layer, RowPlace place, float* k,
                float* v) const {
    for (std::int64_t head = 0; head < geometry_.num_kv_heads; ++head) {
      pool.open_blocks().read_key(layer, place, head, k + head * geometry_.head_dim);
      pool.open_blocks().read_value(layer, place, head, v + head * geometry_.v_head_dim);
    }
  }

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
      added.open_k = added.k;
      added.open_v = added.v;
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
      token.open_k = token.k;
      token.open_v = token.v;
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
    if (geometry_.dtype == DType::int4) return seal_int4(tokens);
    for (Token& token : tokens) {
      for (std::int64_t layer = 0; layer < geometry_.num_layers; ++layer) {
        for (std::int64_t head = 0; head < geometry_.num_kv_heads; ++head) {
          const std::int64_t dim = geometry_.head_dim, v_dim = geometry_.v_head_dim;
          seal_row(std::span(token.k[layer]).subspan(head * dim, dim));
          seal_row(std::span(token.v[layer]).subspan(head * v_dim, v_dim));
        }
      }
    }
  }

  // Numbers of int8 or float8, with a scale that makes the largest of the row theirs.
  void seal_row(std::span<float> row) const {
    float largest = 0;
    for (const float x : row) largest = std::max(largest, std::abs(x));
    const float scale =
        std::max(largest / largest_of(geometry_.dtype), std::numeric_limits<float>::min());
    visit_cache_dtype(geometry_.dtype, [&](auto type) {
      for (float& x : row) x = to_float(from_float<decltype(type)>(x / scale)) * scale;
    });
  }

  void seal_int4(std::span<Token> tokens) const {
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
  std::int64_t horizon_ = 0;
  std::vector<Growth> past_;  // since then
};

}  // namespace quire::testing
