#include "quire/model/architectures/mixture_of_experts.h"

#include <algorithm>
#include <cstring>

#include "quire/ops/sampling/route.h"

namespace quire {

MixtureOfExperts MixtureOfExperts::load(ModelWeights& weights, const std::string& name,
                                        const Shape& shape) {
  MixtureOfExperts layer;
  layer.shape_ = shape;
  layer.router_ = weights.linear({name + "gate", shape.num_experts}, shape.hidden_size);
  for (std::int64_t i = 0; i < shape.num_experts; ++i) {
    layer.experts_.push_back(GatedMlp::load(weights, concat(name, "experts.", i, "."),
                                            shape.hidden_size, shape.intermediate_size,
                                            shape.activation));
  }
  return layer;
}

ArrayView MixtureOfExperts::operator()(ForwardPass& pass, const ArrayView& x) const {
  const std::int64_t tokens = x.shape[0], size = x.shape[1];
  const auto top_k = static_cast<std::size_t>(shape_.top_k);
  std::vector<float> shares(static_cast<std::size_t>(tokens) * top_k);
  std::vector<std::int32_t> chosen(shares.size());
  RouteArgs call;
  call.logits = pass.linear_float(x, router_);
  call.top_k = shape_.top_k;
  call.renormalise = shape_.renormalise;
  call.weights = shares;
  call.experts = chosen;
  route(call, pass.num_threads(), "forward");

  const ArrayView out = pass.array(DType::float32, {tokens, size});
  std::memset(out.data, 0, static_cast<std::size_t>(tokens * size) * sizeof(float));
  const auto row_bytes = static_cast<std::size_t>(size) * size_of(x.dtype);
  std::vector<std::size_t> places;  // of one expert, among the chosen
  for (std::int64_t expert = 0; expert < shape_.num_experts; ++expert) {
    places.clear();
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      if (chosen[i] == expert) places.push_back(i);
    }
    if (places.empty()) continue;
    const ForwardPass::Lending lending(pass);  // memory of one expert's arrays serves the next
    const ArrayView some = pass.array(x.dtype, {std::ssize(places), size});
    for (std::size_t i = 0; i < places.size(); ++i) {
      std::memcpy(some.at(i), x.at(places[i] / top_k), row_bytes);
    }
    const ArrayView results = experts_[static_cast<std::size_t>(expert)](pass, some);
    for (std::size_t i = 0; i < places.size(); ++i) {
      const auto* const from = reinterpret_cast<const float*>(results.at(i));
      auto* const to = reinterpret_cast<float*>(out.at(places[i] / top_k));
      for (std::int64_t c = 0; c < size; ++c) to[c] += shares[places[i]] * from[c];
    }
  }
  return out;
}

}  // namespace quire
