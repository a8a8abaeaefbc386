// Qwen3.5, text alone: three of four layers are Gated DeltaNet (Yang, Kautz and Hatamizadeh,
// arXiv:2412.06464), with a convolution before and a gated norm after it, the fourth is attention
// with a gate on what it gives. The formulas are those of transformers (modeling_qwen3_5.py).
//
// A recurrent layer computes in float32 from its first product to its norm: what its state is made
// of stays there, and so would each rounding.
#include <algorithm>
#include <cmath>
#include <variant>

#include "quire/model/architectures/architectures.h"
#include "quire/model/architectures/gated_mlp.h"

namespace quire {
namespace {

struct DeltaNet {
  Linear input;  // queries, keys and values; gates of the norm; betas; decays
  std::vector<float> convolution;
  std::vector<float> decay_bias, decay_scale;  // dt_bias, -exp(A_log)
  Norm norm;
  Linear output;
};

struct Attention {
  Linear qkv;  // of each query head its gate, too
  Norm q_norm, k_norm;
  Linear output;
};

struct Layer {
  Norm input_norm;
  std::variant<DeltaNet, Attention> mixer;
  Norm mlp_norm;
  GatedMlp mlp;
};

class Qwen3_5 final : public LoadedModel {
 public:
  Qwen3_5(const ModelConfig& config, ModelWeights& weights)
      : LoadedModel(config),
        rotary_(read_rotary(config, shape_)),
        key_heads_(config.size("linear_num_key_heads")),
        value_heads_(config.size("linear_num_value_heads")),
        key_dim_(config.size("linear_key_head_dim")),
        value_dim_(config.size("linear_value_head_dim")),
        taps_(config.size("linear_conv_kernel_dim")) {
    const std::int64_t hidden = shape_.hidden_size;
    const Activation activation = read_activation(config, "hidden_act");
    unit_norm_.eps = 1e-6 / static_cast<double>(key_dim_);
    unit_norm_.weight.assign(static_cast<std::size_t>(key_dim_),
                             static_cast<float>(1 / std::sqrt(static_cast<double>(key_dim_))));
    if (value_heads_ % key_heads_ != 0) {
      config.refuse("linear_num_value_heads", std::to_string(value_heads_),
                    concat("a multiple of ", key_heads_, ", linear_num_key_heads"));
    }
    const std::vector<std::string> types = read_layer_types(config, "linear_attention");
    const std::int64_t interval = config.size("full_attention_interval", 4);
    const bool some_attend = types.empty()
                                 ? interval <= shape_.num_layers
                                 : std::ranges::find(types, "full_attention") != types.end();
    if (!some_attend) {  // a pool has one layer at least
      config.refuse("layer_types", "no full_attention", "it for one layer at least");
    }
    const auto attends = [&](std::int64_t i) {
      if (types.empty()) return (i + 1) % interval == 0;
      return types[static_cast<std::size_t>(i)] == "full_attention";
    };
    for (std::int64_t i = 0; i < shape_.num_layers; ++i) {
      const std::string at = concat("layers.", i, ".");
      Layer layer;
      layer.input_norm = weights.norm(at + "input_layernorm", hidden, shape_.norm_eps, 1);
      if (attends(i)) {
        layer.mixer = load_attention(weights, at + "self_attn.", config);
        ++num_attending_;
      } else {
        layer.mixer = load_delta_net(weights, at + "linear_attn.");
      }
      layer.mlp_norm = weights.norm(at + "post_attention_layernorm", hidden, shape_.norm_eps, 1);
      layer.mlp =
          GatedMlp::load(weights, at + "mlp.", hidden, shape_.intermediate_size, activation);
      layers_.push_back(std::move(layer));
    }
    norm_ = weights.norm("norm", hidden, shape_.norm_eps, 1);
    ends_ = weights.ends(shape_);
  }

  KvShape kv_shape() const override {
    return {num_attending_, shape_.num_kv_heads, shape_.head_dim, shape_.head_dim};
  }

 private:
  void run(ForwardPass& pass) const override {
    const ArrayView h = pass.embed(ends_.embedding);
    std::optional<ArrayView> delta;
    std::int64_t recurrent = 0, attending = 0;
    for (const Layer& layer : layers_) {
      pass.next_layer();
      const ArrayView x = pass.norm(h, delta, layer.input_norm);
      if (const auto* const attention = std::get_if<Attention>(&layer.mixer)) {
        delta = attend(pass, *attention, x, attending++);
      } else {
        delta = mix(pass, std::get<DeltaNet>(layer.mixer), x, recurrent++);
      }
      delta = layer.mlp(pass, pass.norm(h, delta, layer.mlp_norm));
    }
    pass.logits(h, delta, norm_, ends_.output);
  }

  ArrayView attend(ForwardPass& pass, const Attention& layer, const ArrayView& x,
                   std::int64_t index) const {
    const std::int64_t heads = shape_.num_heads, kv_heads = shape_.num_kv_heads;
    const std::int64_t size = shape_.head_dim;
    const ArrayView qkv = pass.linear(x, layer.qkv);
    const ArrayView q = pass.heads(qkv, 0, heads, size, 2 * size);
    const ArrayView gate = pass.heads(qkv, size, heads, size, 2 * size);
    const ArrayView k = pass.heads(qkv, 2 * heads * size, kv_heads, size);
    const ArrayView v = pass.heads(qkv, (2 * heads + kv_heads) * size, kv_heads, size);
    pass.norm_in_place(q, layer.q_norm);
    pass.norm_in_place(k, layer.k_norm);
    pass.rotate(q, rotary_);
    pass.rotate(k, rotary_);
    const ArrayView attended = pass.attend({.q = q, .k = k, .v = v, .layer = index});
    return pass.linear_float(
        pass.gated(gate, pass.heads(attended, 0, heads, size), Activation::sigmoid), layer.output);
  }

  ArrayView mix(ForwardPass& pass, const DeltaNet& layer, const ArrayView& x,
                std::int64_t index) const {
    const std::int64_t keys = key_heads_ * key_dim_, values = value_heads_ * value_dim_;
    const ArrayView input = pass.linear_float(x, layer.input);
    const ArrayView mixed = pass.convolve(pass.columns(input, 0, channels()),
                                          view_of(layer.convolution, {channels(), taps_}), index);
    const ArrayView q = pass.heads(mixed, 0, key_heads_, key_dim_);
    const ArrayView k = pass.heads(mixed, keys, key_heads_, key_dim_);
    const ArrayView v = pass.heads(mixed, 2 * keys, value_heads_, value_dim_);
    const ArrayView z = pass.heads(input, channels(), value_heads_, value_dim_);
    pass.norm_in_place(q, unit_norm_);
    pass.norm_in_place(k, unit_norm_);
    const ArrayView beta = pass.columns(input, channels() + values, value_heads_);
    const ArrayView g = pass.columns(input, channels() + values + value_heads_, value_heads_);
    for (std::int64_t t = 0; t < pass.num_tokens(); ++t) {
      auto* const of_beta = reinterpret_cast<float*>(beta.at(t));
      auto* const of_g = reinterpret_cast<float*>(g.at(t));
      for (std::size_t i = 0; i < layer.decay_bias.size(); ++i) {
        const double step = static_cast<double>(of_g[i]) + layer.decay_bias[i];
        const double softplus = step > 20 ? step : std::log1p(std::exp(step));
        of_g[i] = static_cast<float>(layer.decay_scale[i] * softplus);
        of_beta[i] = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(of_beta[i]))));
      }
    }
    const ArrayView out = pass.delta_rule(q, k, v, g, beta, index);
    return pass.linear_float(pass.gated_norm(out, z, layer.norm), layer.output);
  }

  std::optional<RecurrentShape> recurrent_shape() const override {
    if (num_attending_ == shape_.num_layers) return std::nullopt;
    return RecurrentShape{shape_.num_layers - num_attending_,
                          channels(),
                          taps_ - 1,
                          value_heads_,
                          key_dim_,
                          value_dim_};
  }

  std::int64_t channels() const { return 2 * key_heads_ * key_dim_ + value_heads_ * value_dim_; }

  Attention load_attention(ModelWeights& weights, const std::string& at,
                           const ModelConfig& config) const {
    const std::int64_t size = shape_.head_dim;
    const bool bias = config.flag("attention_bias", false);
    const ModelWeights::Part qkv[] = {{at + "q_proj", 2 * shape_.num_heads * size},
                                      {at + "k_proj", shape_.num_kv_heads * size},
                                      {at + "v_proj", shape_.num_kv_heads * size}};
    return {weights.linear(qkv, shape_.hidden_size, bias),
            weights.norm(at + "q_norm", size, shape_.norm_eps, 1),
            weights.norm(at + "k_norm", size, shape_.norm_eps, 1),
            weights.linear({at + "o_proj", shape_.hidden_size}, shape_.num_heads * size, bias)};
  }

  DeltaNet load_delta_net(ModelWeights& weights, const std::string& at) const {
    const std::int64_t values = value_heads_ * value_dim_;
    const ModelWeights::Part input[] = {{at + "in_proj_qkv", channels()},
                                        {at + "in_proj_z", values},
                                        {at + "in_proj_b", value_heads_},
                                        {at + "in_proj_a", value_heads_}};
    const std::int64_t convolution[] = {channels(), 1, taps_}, of_heads[] = {value_heads_};
    DeltaNet layer{
        .input = weights.linear(input, shape_.hidden_size),
        .convolution = weights.floats(at + "conv1d.weight", convolution),
        .decay_bias = weights.floats(at + "dt_bias", of_heads),
        .decay_scale = weights.floats(at + "A_log", of_heads),
        .norm = weights.norm(at + "norm", value_dim_, shape_.norm_eps),
        .output = weights.linear({at + "out_proj", shape_.hidden_size}, values),
    };
    for (float& scale : layer.decay_scale) scale = -std::exp(scale);
    return layer;
  }

  const Rotary rotary_;
  const std::int64_t key_heads_, value_heads_, key_dim_, value_dim_, taps_;
  std::int64_t num_attending_ = 0;
  Norm unit_norm_;  // x / sqrt(sum(x^2) + 1e-6), as a norm
  std::vector<Layer> layers_;
  Norm norm_;
  Ends ends_;
};

}  // namespace

std::shared_ptr<LoadedModel> load_qwen3_5(const ModelConfig& config, ModelWeights& weights) {
  return std::make_shared<Qwen3_5>(config, weights);
}

}  // namespace quire
