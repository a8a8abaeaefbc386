// Gemma 3, text alone (Gemma Team, arXiv:2503.19786): norms before and after each part of a layer,
// whose weights are stored less 1; five of six layers see a window, with frequencies of their own.
#include <cmath>

#include "quire/model/architectures/architectures.h"
#include "quire/model/architectures/gated_mlp.h"

namespace quire {
namespace {

struct Layer {
  Norm input_norm;
  Linear qkv;
  Norm q_norm, k_norm;
  Linear output;
  Norm output_norm;
  Norm mlp_norm;
  GatedMlp mlp;
  Norm mlp_output_norm;
  std::optional<std::int64_t> window;
};

class Gemma3 final : public LoadedModel {
 public:
  Gemma3(const ModelConfig& config, ModelWeights& weights)
      : LoadedModel(config),
        scale_(read_scale(config)),
        far_(read_far_rotary(config)),
        near_(read_near_rotary(config)) {
    for (const char* const key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
      if (config.has(key)) config.refuse(key, "a number", "null, as Gemma 3 has it");
    }
    if (config.flag("use_bidirectional_attention", false)) {
      config.refuse("use_bidirectional_attention", "true", "false");
    }
    const std::int64_t hidden = shape_.hidden_size, size = shape_.head_dim;
    const std::int64_t q_rows = shape_.num_heads * size, kv_rows = shape_.num_kv_heads * size;
    const Activation activation = read_activation(config, "hidden_activation");
    const bool bias = config.flag("attention_bias", false);
    // files of GGUF have it added already
    const double offset = config.flag("norms_have_offset", false) ? 0 : 1;
    const auto norm = [&](const std::string& name, std::int64_t length) {
      return weights.norm(name, length, shape_.norm_eps, offset);
    };
    for (std::int64_t i = 0; i < shape_.num_layers; ++i) {
      const std::string at = concat("layers.", i, ".");
      const ModelWeights::Part qkv[] = {{at + "self_attn.q_proj", q_rows},
                                        {at + "self_attn.k_proj", kv_rows},
                                        {at + "self_attn.v_proj", kv_rows}};
      layers_.push_back({
          .input_norm = norm(at + "input_layernorm", hidden),
          .qkv = weights.linear(qkv, hidden, bias),
          .q_norm = norm(at + "self_attn.q_norm", size),
          .k_norm = norm(at + "self_attn.k_norm", size),
          .output = weights.linear({at + "self_attn.o_proj", hidden}, q_rows, bias),
          .output_norm = norm(at + "post_attention_layernorm", hidden),
          .mlp_norm = norm(at + "pre_feedforward_layernorm", hidden),
          .mlp = GatedMlp::load(weights, at + "mlp.", hidden, shape_.intermediate_size, activation),
          .mlp_output_norm = norm(at + "post_feedforward_layernorm", hidden),
          .window = window_of(config, i),
      });
    }
    norm_ = norm("norm", hidden);
    ends_ = weights.ends(shape_);
  }

 private:
  void run(ForwardPass& pass) const override {
    const std::int64_t heads = shape_.num_heads, kv_heads = shape_.num_kv_heads;
    const std::int64_t size = shape_.head_dim;
    const ArrayView h =
        pass.embed(ends_.embedding, std::sqrt(static_cast<float>(shape_.hidden_size)));
    std::optional<ArrayView> delta;
    for (std::int64_t i = 0; i < shape_.num_layers; ++i) {
      const Layer& layer = layers_[static_cast<std::size_t>(i)];
      pass.next_layer();
      const ArrayView qkv = pass.linear(pass.norm(h, delta, layer.input_norm), layer.qkv);
      const ArrayView q = pass.heads(qkv, 0, heads, size);
      const ArrayView k = pass.heads(qkv, heads * size, kv_heads, size);
      const ArrayView v = pass.heads(qkv, (heads + kv_heads) * size, kv_heads, size);
      pass.norm_in_place(q, layer.q_norm);
      pass.norm_in_place(k, layer.k_norm);
      pass.rotate(pass.heads(qkv, 0, heads + kv_heads, size), layer.window ? near_ : far_);
      const ArrayView attended = pass.attend(
          {.q = q, .k = k, .v = v, .layer = i, .scale = scale_, .sliding_window = layer.window});
      delta = pass.linear_float(attended, layer.output);
      pass.norm_in_place(*delta, layer.output_norm);
      delta = layer.mlp(pass, pass.norm(h, delta, layer.mlp_norm));
      pass.norm_in_place(*delta, layer.mlp_output_norm);
    }
    pass.logits(h, delta, norm_, ends_.output);
  }

  static double read_scale(const ModelConfig& config) {
    const double scalar = config.real("query_pre_attn_scalar", 256);
    if (!(scalar > 0)) {
      config.refuse("query_pre_attn_scalar", concat(scalar), "a number above 0");
    }
    return 1 / std::sqrt(scalar);
  }

  // Which layers see a window is listed, or each sixth one sees all.
  static std::optional<std::int64_t> window_of(const ModelConfig& config, std::int64_t layer) {
    if (!config.texts("layer_types").empty()) return layer_window(config, layer, true);
    const bool sees_all = (layer + 1) % config.size("sliding_window_pattern", 6) == 0;
    return sees_all ? std::nullopt : std::optional(config.size("sliding_window", 4096));
  }

  // Frequencies of layers that see all: in rope_parameters under "full_attention", or as models of
  // transformers before 5 have them.
  Rotary read_far_rotary(const ModelConfig& config) const {
    const auto all = config.part("rope_parameters");
    const auto own = all ? all->part("full_attention") : std::nullopt;
    return own ? read_rotary(*own, config, shape_, 1e6) : read_rotary(config, shape_, 1e6);
  }
  Rotary read_near_rotary(const ModelConfig& config) const {
    const auto all = config.part("rope_parameters");
    const auto own = all ? all->part("sliding_attention") : std::nullopt;
    if (own) return read_rotary(*own, *own, shape_, 1e4);
    return plain_rotary(config, "rope_local_base_freq", 1e4, shape_.head_dim);
  }

  const double scale_;
  const Rotary far_, near_;
  std::vector<Layer> layers_;
  Norm norm_;
  Ends ends_;
};

}  // namespace

std::shared_ptr<LoadedModel> load_gemma3(const ModelConfig& config, ModelWeights& weights) {
  return std::make_shared<Gemma3>(config, weights);
}

}  // namespace quire
