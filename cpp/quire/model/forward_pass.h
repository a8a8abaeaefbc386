// One forward pass: the words in which an architecture's file says what it computes.
//
// The sum over the layers, h, is float32. What products read are rows of `rows` dtype: bfloat16
// where weights are bfloat16, int8 or int4, else float32. What a product adds onto h is float32
// again, so that nothing is rounded to bfloat16 but what is multiplied.
//
// T: tokens of all sequences in the step. Arrays are views of memory that the pass lends: they are
// there until the layer after the next one begins.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "quire/model/model.h"
#include "quire/model/model_config.h"
#include "quire/model/model_weights.h"
#include "quire/model/scratch.h"
#include "quire/ops/activation/swiglu.h"

namespace quire {

class ForwardPass {
 public:
  // Of checked arguments.
  ForwardPass(const ForwardArgs& args, const Execution& how, DType rows, Scratch& scratch);

  std::int64_t num_tokens() const { return args_.step.num_tokens(); }
  DType rows() const { return rows_; }
  RecurrentStates& states() const { return *args_.states; }

  int num_threads() const { return how_.num_threads; }

  void next_layer() { scratch_.next_layer(); }

  // Gives back the memory of all arrays that were made while it lived.
  class Lending {
   public:
    explicit Lending(ForwardPass& pass) : scratch_(pass.scratch_), mark_(scratch_.mark()) {}
    ~Lending() { scratch_.go_back(mark_); }
    Lending(const Lending&) = delete;
    Lending& operator=(const Lending&) = delete;

   private:
    Scratch& scratch_;
    const std::size_t mark_;
  };

  // h [T, C], the tokens' rows times `scale`; it is there until the pass ends.
  ArrayView embed(const Embedding& embedding, float scale = 1);

  // The norm of h, in rows. With `delta`, float32 like h, h becomes h + delta first.
  ArrayView norm(const ArrayView& h, const std::optional<ArrayView>& delta, const Norm& norm);
  // The norm of each last axis, in place.
  void norm_in_place(const ArrayView& x, const Norm& norm);
  // The norm of each last axis times silu(gate), in rows: [T, N] of x and gate [T, ...] with N
  // numbers of each token.
  ArrayView gated_norm(const ArrayView& x, const ArrayView& gate, const Norm& norm);

  // [T, N], in rows; or in float32, as what is added onto h.
  ArrayView linear(const ArrayView& x, const Linear& weight) { return linear(x, weight, rows_); }
  ArrayView linear_float(const ArrayView& x, const Linear& weight) {
    return linear(x, weight, DType::float32);
  }

  // [T, count, size]: heads of `size` numbers each that stand in x [T, ...] from column `first` on,
  // `step` apart; 0: one after the other.
  static ArrayView heads(const ArrayView& x, std::int64_t first, std::int64_t count,
                         std::int64_t size, std::int64_t step = 0);
  // [T, count]: columns of x from `first` on.
  static ArrayView columns(const ArrayView& x, std::int64_t first, std::int64_t count);

  // Turns each head of x [T, H, D] by its token's position, in place.
  void rotate(const ArrayView& x, const Rotary& rotary);

  // Writes keys and values [T, Hkv, D] into a layer of the pool, and attends: [T, Hq * D].
  struct Attention {
    ArrayView q, k, v;
    std::int64_t layer;
    std::optional<double> scale = std::nullopt;
    std::optional<std::int64_t> sliding_window = std::nullopt;
  };
  ArrayView attend(const Attention& attention);

  // activation(gate) * up, [T, N] of gate and up [T, ...] with N numbers of each token.
  ArrayView gated(const ArrayView& gate, const ArrayView& up, Activation activation);

  // Of each sequence's states, layer `layer` of those that have some. x [T, C] and weight [C, K]
  // give silu of the convolution, [T, C]; the delta rule [T, Hv, Dv].
  ArrayView convolve(const ArrayView& x, const ArrayView& weight, std::int64_t layer);
  ArrayView delta_rule(const ArrayView& q, const ArrayView& k, const ArrayView& v,
                       const ArrayView& g, const ArrayView& beta, std::int64_t layer);

  // Writes the logits that are asked for, of norm(h + delta).
  void logits(const ArrayView& h, const ArrayView& delta, const Norm& norm, const Linear& output);

  // Memory for an architecture's own arrays.
  ArrayView array(DType dtype, std::initializer_list<std::int64_t> shape) {
    return scratch_.array(dtype, std::span(shape.begin(), shape.size()));
  }

 private:
  ArrayView array_like(const ArrayView& other, DType dtype) {
    return scratch_.array(dtype,
                          std::span(other.shape.data(), static_cast<std::size_t>(other.ndim)));
  }
  ArrayView linear(const ArrayView& x, const Linear& weight, DType dtype);
  void linear_into(const ArrayView& x, const Linear& weight, const ArrayView& out);

  const ForwardArgs& args_;
  const Execution how_;
  const DType rows_;
  Scratch& scratch_;
};

}  // namespace quire
