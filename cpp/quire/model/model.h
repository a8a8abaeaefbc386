// A language model: tokens of many sequences in, logits out. What an engine needs to know of one,
// whatever its architecture.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "quire/base/array_view.h"
#include "quire/cpu/execution.h"
#include "quire/kv/pool/block_pool.h"
#include "quire/model/recurrent_states.h"
#include "quire/paged/step.h"

namespace quire {

// Of the pool that a model attends over. Layers that keep a state instead of keys and values, as
// those of hybrid models do, are not counted: layer i of the pool is that of the i-th layer that
// attends.
struct KvShape {
  std::int64_t num_layers = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;   // of keys
  std::int64_t value_dim = 0;  // of values

  // A pool's, whose blocks and dtype are still to be said.
  KvGeometry geometry() const {
    KvGeometry geometry;
    geometry.num_kv_heads = num_kv_heads;
    geometry.head_dim = head_dim;
    geometry.v_head_dim = value_dim;
    geometry.num_layers = num_layers;
    return geometry;
  }
};

struct ForwardArgs {
  Step& step;                               // T new tokens of B sequences, of a pool of kv_shape()
  std::span<const std::int64_t> token_ids;  // [T], 0 to vocab_size - 1
  RecurrentStates* states = nullptr;        // of a recurrent model, as make_states made them
  std::span<const std::int64_t> state_slots;  // [B], each sequence's slot, different ones
  std::span<const std::int64_t>
      logit_rows;      // [L], rising: of which of the T tokens logits are asked
  ArrayView logits{};  // [L, vocab_size], float32, written
};

// One that has been loaded does not change, so that threads may share it; what forward works in is
// lent by the thread that calls.
class Model {
 public:
  virtual ~Model() = default;

  virtual std::int64_t vocab_size() const = 0;
  // Tokens that a sequence can have.
  virtual std::int64_t max_positions() const = 0;
  virtual KvShape kv_shape() const = 0;
  // States of so many sequences, all clear; null where the model keeps none.
  virtual std::shared_ptr<RecurrentStates> make_states(std::int64_t num_slots) const = 0;
  // Tokens that end an answer.
  virtual std::span<const std::int64_t> stop_token_ids() const = 0;

  // Takes the step's tokens through all layers: writes their keys and values into the step's
  // tables, brings their sequences' states up to date, and writes the logits that are asked for. A
  // row of logits has the same bits whatever other sequences are in the step, and on any number of
  // threads. Throws ValueError, IndexError or TypeError, under the name of "forward", before
  // anything is written. What is thrown later (an interruption, or no memory) leaves the step's
  // rows and the states undefined: the caller takes the step back, and the states from a copy.
  virtual void forward(const ForwardArgs& args, const Execution& how) const = 0;
};

}  // namespace quire
