// What layers with a recurrence keep of each sequence, in place of keys and values.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "quire/base/array_view.h"
#include "quire/kv/residency/block_memory.h"

namespace quire {

// Of each of the layers, which are alike.
struct RecurrentShape {
  std::int64_t num_layers = 0;
  std::int64_t channels = 0;  // of the convolution
  std::int64_t past = 0;      // tokens that the convolution looks back at, its taps - 1
  std::int64_t num_heads = 0, key_dim = 0, value_dim = 0;  // of the delta rule

  bool operator==(const RecurrentShape&) const = default;
};

// The states of up to num_slots sequences. A slot is one piece of memory, with all layers in it, so
// that to copy a sequence's state is one copy. For one thread at a time.
class RecurrentStates {
 public:
  // All clear; memory is taken by slots that are written, and by none before. Throws ValueError for
  // a size below 1 (past may be 0), OutOfMemory where there are not even addresses.
  RecurrentStates(const RecurrentShape& shape, std::int64_t num_slots);

  const RecurrentShape& shape() const { return shape_; }
  std::int64_t num_slots() const { return num_slots_; }
  std::int64_t bytes_per_slot() const;

  // The state of a sequence without tokens. Throws IndexError for an unknown slot.
  void clear(std::int64_t slot);
  // Throws IndexError for an unknown slot; from may be to.
  void copy(std::int64_t from, std::int64_t to);

  // Of one layer: what its convolution looks back at, float32 [num_slots, channels, past], and the
  // matrices of its delta rule, float32 [num_slots, num_heads, key_dim, value_dim]. Throw
  // IndexError for an unknown layer.
  ArrayView convolution(std::int64_t layer) const;
  ArrayView matrices(std::int64_t layer) const;

 private:
  std::byte* at(std::int64_t slot, std::string_view function, std::string_view argument) const;
  std::byte* layer_at(std::int64_t layer, std::string_view function) const;
  std::int64_t convolution_bytes() const;
  std::int64_t layer_bytes() const;

  RecurrentShape shape_;
  std::int64_t num_slots_;
  std::unique_ptr<BlockMemory> data_;
};

}  // namespace quire
