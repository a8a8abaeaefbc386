// Keys and values that tell whose they are: every element of a token's rows, in all layers, is a
// number made of the token, the layer, the head and the place. For pools of float32; and for those
// with open blocks, where two numbers of one magnitude stand for 0 and 1, and come back from any
// grid or scale with their sign.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kv/table/open_rows.h"
#include "quire/kv/pool/block_pool.h"
#include "quire/kv/table/block_table.h"

namespace quire::testing {

inline std::shared_ptr<BlockPool> new_pool(std::int64_t num_blocks, std::int64_t block_size,
                                           std::int64_t num_layers = 2) {
  return std::make_shared<BlockPool>(KvGeometry{.num_blocks = num_blocks,
                                                .block_size = block_size,
                                                .num_kv_heads = 2,
                                                .head_dim = 3,
                                                .v_head_dim = 2,
                                                .num_layers = num_layers,
                                                .dtype = DType::float32});
}

inline std::uint32_t element(std::uint32_t token, std::int64_t layer, std::int64_t head,
                             std::int64_t d, bool is_value) {
  return token * 2654435761u +
         static_cast<std::uint32_t>(layer * 1009 + head * 101 + d * 11 + is_value);
}

// Writes the rows of `token` into a slot of one cache, of one layer.
inline void write_rows(const ArrayView& cache, std::int64_t slot, std::uint32_t token,
                       std::int64_t layer, bool is_value) {
  const std::int64_t block_size = cache.shape[1];
  for (std::int64_t head = 0; head < cache.shape[2]; ++head) {
    for (std::int64_t d = 0; d < cache.shape[3]; ++d) {
      const std::uint32_t bits = element(token, layer, head, d, is_value);
      std::memcpy(cache.at(slot / block_size, slot % block_size, head, d), &bits, sizeof bits);
    }
  }
}

inline void write_token(const KvStorage& storage, std::int64_t slot, std::uint32_t token) {
  for (std::int64_t layer = 0; layer < storage.geometry().num_layers; ++layer) {
    write_rows(storage.k_cache(layer), slot, token, layer, false);
    write_rows(storage.v_cache(layer), slot, token, layer, true);
  }
}

// What stands for a token in a row of an open block.
inline float signed_element(std::uint32_t token, std::int64_t layer, std::int64_t head,
                            std::int64_t d, bool is_value) {
  std::uint32_t bits = element(token, layer, head, d, is_value);
  bits = (bits ^ bits >> 16) * 0x45d9f3bu;
  return (bits >> 16 & 1) != 0 ? -12.0f : 12.0f;
}

// Extends the table and writes the rows of the tokens, in one step.
inline void append_tokens(BlockTable& table, const std::vector<std::uint32_t>& tokens) {
  std::vector<std::int64_t> slots(tokens.size());
  std::size_t next = 0;
  table.append(slots, [&](std::span<const std::int64_t> taken) {
    for (const std::int64_t slot : taken) {
      const std::uint32_t token = tokens[next++];
      if (!table.pool()->geometry().opens_blocks()) {
        write_token(table.pool()->storage(), slot, token);
        continue;
      }
      write_open_row(*table.pool(), slot,
                     [token](auto... place) { return signed_element(token, place...); });
    }
  });
}

// Whether a slot has the rows of `token`, in every layer.
inline bool slot_holds(const KvStorage& storage, std::int64_t slot, std::uint32_t token) {
  for (std::int64_t layer = 0; layer < storage.geometry().num_layers; ++layer) {
    for (const bool is_value : {false, true}) {
      const ArrayView cache = is_value ? storage.v_cache(layer) : storage.k_cache(layer);
      const std::int64_t block = slot / cache.shape[1], row = slot % cache.shape[1];
      for (std::int64_t head = 0; head < cache.shape[2]; ++head) {
        for (std::int64_t d = 0; d < cache.shape[3]; ++d) {
          std::uint32_t bits;
          std::memcpy(&bits, cache.at(block, row, head, d), sizeof bits);
          if (bits != element(token, layer, head, d, is_value)) return false;
        }
      }
    }
  }
  return true;
}

// Whether gather gives the rows of exactly these tokens, in every layer.
inline ::testing::AssertionResult holds_tokens(const BlockTable& table,
                                               const std::vector<std::uint32_t>& tokens) {
  const KvGeometry& geometry = table.pool()->geometry();
  const bool is_open = table.pool()->geometry().opens_blocks();
  const auto room = static_cast<std::int64_t>(tokens.size()) + 1;
  std::vector<std::uint32_t> k(room * geometry.num_kv_heads * geometry.head_dim);
  std::vector<std::uint32_t> v(room * geometry.num_kv_heads * geometry.v_head_dim);
  const auto is_at = [&](std::uint32_t bits, auto... place) {
    if (!is_open) return bits == element(place...);
    const float number = std::bit_cast<float>(bits), expected = signed_element(place...);
    return std::abs(number - expected) < 0.1f;
  };
  for (std::int64_t layer = 0; layer < geometry.num_layers; ++layer) {
    const std::int64_t count = table.gather(layer, room, k.data(), v.data());
    if (count != room - 1) {
      return ::testing::AssertionFailure() << count << " tokens, expected " << room - 1;
    }
    std::size_t k_index = 0;
    std::size_t v_index = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      for (std::int64_t head = 0; head < geometry.num_kv_heads; ++head) {
        for (std::int64_t d = 0; d < geometry.head_dim; ++d) {
          if (!is_at(k[k_index++], tokens[t], layer, head, d, false)) {
            return ::testing::AssertionFailure() << "wrong key of token " << t;
          }
        }
        for (std::int64_t d = 0; d < geometry.v_head_dim; ++d) {
          if (!is_at(v[v_index++], tokens[t], layer, head, d, true)) {
            return ::testing::AssertionFailure() << "wrong value of token " << t;
          }
        }
      }
    }
  }
  return ::testing::AssertionSuccess();
}

// What `action` throws as an E, or a note that it did not.
template <class E, class Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("of another class: ") + error.what();
  }
  return "nothing thrown";
}

}  // namespace quire::testing
