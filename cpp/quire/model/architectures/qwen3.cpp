// Qwen3 (Yang et al., arXiv:2505.09388): Llama with a norm of each query and key head, and, as
// Qwen3-MoE, with layers whose feed-forward part is a mixture of experts.
#include <algorithm>
#include <variant>

#include "quire/model/architectures/architectures.h"
#include "quire/model/architectures/gated_mlp.h"
#include "quire/model/architectures/mixture_of_experts.h"

namespace quire {
namespace {

struct Layer {
  Norm input_norm;
  Linear qkv;
  Norm q_norm, k_norm;
  Linear output;
  Norm mlp_norm;
  std::variant<GatedMlp, MixtureOfExperts> mlp;
  std::optional<std::int64_t> window;
};

class Qwen3 final : public LoadedModel {
 public:
  Qwen3(const ModelConfig& config, ModelWeights& weights)
      : LoadedModel(config), rotary_(read_rotary(config, shape_)) {
    const std::int64_t hidden = shape_.hidden_size, size = shape_.head_dim;
    const std::int64_t q_rows = shape_.num_heads * size, kv_rows = shape_.num_kv_heads * size;
    const double eps = shape_.norm_eps;
    const bool bias = config.flag("attention_bias", false);
    for (std::int64_t i = 0; i < shape_.num_layers; ++i) {
      const std::string at = concat("layers.", i, ".");
      const ModelWeights::Part qkv[] = {{at + "self_attn.q_proj", q_rows},
                                        {at + "self_attn.k_proj", kv_rows},
                                        {at + "self_attn.v_proj", kv_rows}};
      layers_.push_back({
          .input_norm = weights.norm(at + "input_layernorm", hidden, eps),
          .qkv = weights.linear(qkv, hidden, bias),
          .q_norm = weights.norm(at + "self_attn.q_norm", size, eps),
          .k_norm = weights.norm(at + "self_attn.k_norm", size, eps),
          .output = weights.linear({at + "self_attn.o_proj", hidden}, q_rows, bias),
          .mlp_norm = weights.norm(at + "post_attention_layernorm", hidden, eps),
          .mlp = load_mlp(config, weights, i, at + "mlp."),
          .window = layer_window(config, i, false),
      });
    }
    norm_ = weights.norm("norm", hidden, eps);
    ends_ = weights.ends(shape_);
  }

 private:
  void run(ForwardPass& pass) const override {
    const std::int64_t heads = shape_.num_heads, kv_heads = shape_.num_kv_heads;
    const std::int64_t size = shape_.head_dim;
    const ArrayView h = pass.embed(ends_.embedding);
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
      pass.rotate(pass.heads(qkv, 0, heads + kv_heads, size), rotary_);  // queries and keys
      const ArrayView attended =
          pass.attend({.q = q, .k = k, .v = v, .layer = i, .sliding_window = layer.window});
      delta = pass.linear_float(attended, layer.output);
      const ArrayView x = pass.norm(h, delta, layer.mlp_norm);
      delta = std::visit([&](const auto& mlp) { return mlp(pass, x); }, layer.mlp);
    }
    pass.logits(h, delta, norm_, ends_.output);
  }

  std::variant<GatedMlp, MixtureOfExperts> load_mlp(const ModelConfig& config,
                                                    ModelWeights& weights, std::int64_t layer,
                                                    const std::string& name) const {
    const Activation activation = read_activation(config, "hidden_act");
    const std::vector<std::int64_t> dense = config.wholes("mlp_only_layers");
    const bool has_experts = config.architecture() == "Qwen3MoeForCausalLM" &&
                             std::ranges::find(dense, layer) == dense.end() &&
                             (layer + 1) % config.size("decoder_sparse_step", 1) == 0;
    if (!has_experts) {
      return GatedMlp::load(weights, name, shape_.hidden_size, shape_.intermediate_size,
                            activation);
    }
    // transformers 5 has another name for it
    const char* const experts = config.has("num_experts") ? "num_experts" : "num_local_experts";
    const std::int64_t num_experts = config.size(experts);
    const std::int64_t top_k = config.size("num_experts_per_tok");
    if (top_k > num_experts) {
      config.refuse("num_experts_per_tok", std::to_string(top_k),
                    concat("1 to ", num_experts, ", ", experts));
    }
    return MixtureOfExperts::load(weights, name,
                                  {.hidden_size = shape_.hidden_size,
                                   .intermediate_size = config.size("moe_intermediate_size"),
                                   .num_experts = num_experts,
                                   .top_k = top_k,
                                   .renormalise = config.flag("norm_topk_prob", false),
                                   .activation = activation});
  }

  const Rotary rotary_;
  std::vector<Layer> layers_;
  Norm norm_;
  Ends ends_;
};

}  // namespace

std::shared_ptr<LoadedModel> load_qwen3(const ModelConfig& config, ModelWeights& weights) {
  return std::make_shared<Qwen3>(config, weights);
}

}  // namespace quire
