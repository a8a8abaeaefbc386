// A feed-forward layer of many experts, of which each token takes a few: the sum of what they give,
// weighted by the softmax of a router (Shazeer et al., arXiv:1701.06538).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quire/model/architectures/gated_mlp.h"
#include "quire/model/forward_pass.h"

namespace quire {

class MixtureOfExperts {
 public:
  struct Shape {
    std::int64_t hidden_size, intermediate_size;  // of an expert
    std::int64_t num_experts, top_k;
    bool renormalise;  // whether the weights of a token's experts are made to sum to 1
    Activation activation;
  };

  // Of the tensors "gate" [num_experts, hidden_size], and "experts.N.gate_proj", "up_proj" and
  // "down_proj", at `name`, a prefix that ends in a dot.
  static MixtureOfExperts load(ModelWeights& weights, const std::string& name, const Shape& shape);

  // x [T, C] in rows; float32 [T, C]. An expert's tokens are multiplied together; a token's results
  // are added in the order of experts, whatever other tokens there are.
  ArrayView operator()(ForwardPass& pass, const ArrayView& x) const;

 private:
  Shape shape_{};
  Linear router_;
  std::vector<GatedMlp> experts_;
};

}  // namespace quire
