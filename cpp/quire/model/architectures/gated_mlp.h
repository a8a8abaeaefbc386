// The feed-forward layer that most architectures have: down(activation(gate(x)) * up(x)).
#pragma once

#include <cstdint>
#include <string>

#include "quire/model/forward_pass.h"

namespace quire {

class GatedMlp {
 public:
  // Of the tensors gate_proj, up_proj and down_proj at `name`, a prefix that ends in a dot.
  static GatedMlp load(ModelWeights& weights, const std::string& name, std::int64_t hidden_size,
                       std::int64_t intermediate_size, Activation activation, bool bias = false) {
    const ModelWeights::Part gate_up[] = {{name + "gate_proj", intermediate_size},
                                          {name + "up_proj", intermediate_size}};
    return {weights.linear(gate_up, hidden_size, bias),
            weights.linear({name + "down_proj", hidden_size}, intermediate_size, bias), activation};
  }

  // x [T, C] in rows; float32 [T, C], what is added onto the sum over the layers.
  ArrayView operator()(ForwardPass& pass, const ArrayView& x) const {
    const ArrayView both = pass.linear(x, gate_up);
    const std::int64_t size = both.shape[1] / 2;
    return pass.linear_float(
        pass.gated(pass.columns(both, 0, size), pass.columns(both, size, size), activation), down);
  }

  Linear gate_up, down;
  Activation activation = Activation::silu;
};

}  // namespace quire
