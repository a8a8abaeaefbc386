// Llama 2 and 3 (Touvron et al., arXiv:2302.13971; Grattafiori et al., arXiv:2407.21783), and those
// that differ from it by a window (Mistral, arXiv:2310.06825) or by biases (Qwen2,
// arXiv:2407.10671).
#include "quire/model/architectures/architectures.h"
#include "quire/model/architectures/gated_mlp.h"

namespace quire {
namespace {

struct Layer {
  Norm input_norm;
  Linear qkv;
  Linear output;
  Norm mlp_norm;
  GatedMlp mlp;
  std::optional<std::int64_t> window;
};

class Llama final : public LoadedModel {
 public:
  Llama(const ModelConfig& config, ModelWeights& weights)
      : LoadedModel(config), rotary_(read_rotary(config, shape_)) {
    const auto [vocab, hidden, intermediate, layers, heads, kv_heads, size, positions, eps, tied] =
        shape_;
    const std::int64_t q_rows = heads * size, kv_rows = kv_heads * size;
    const bool is_qwen2 = config.architecture() == "Qwen2ForCausalLM";
    const bool qkv_bias = config.flag("attention_bias", is_qwen2);
    const bool output_bias = config.flag("attention_bias", false);
    if (weights.has("rope_freqs.weight")) {  // Llama 3's scaling, as GGUF files have it
      const std::int64_t pairs[] = {std::ssize(rotary_.inv_freq)};
      const std::vector<float> factors = weights.floats("rope_freqs.weight", pairs);
      for (std::size_t i = 0; i < factors.size(); ++i) rotary_.inv_freq[i] /= factors[i];
    }
    const bool mlp_bias = config.flag("mlp_bias", false);
    const Activation activation = read_activation(config, "hidden_act");
    for (std::int64_t i = 0; i < layers; ++i) {
      const std::string at = concat("layers.", i, ".");
      const ModelWeights::Part qkv[] = {{at + "self_attn.q_proj", q_rows},
                                        {at + "self_attn.k_proj", kv_rows},
                                        {at + "self_attn.v_proj", kv_rows}};
      layers_.push_back({
          .input_norm = weights.norm(at + "input_layernorm", hidden, eps),
          .qkv = weights.linear(qkv, hidden, qkv_bias),
          .output = weights.linear({at + "self_attn.o_proj", hidden}, q_rows, output_bias),
          .mlp_norm = weights.norm(at + "post_attention_layernorm", hidden, eps),
          .mlp = GatedMlp::load(weights, at + "mlp.", hidden, intermediate, activation, mlp_bias),
          .window = layer_window(config, i, !is_qwen2),
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
      pass.rotate(pass.heads(qkv, 0, heads + kv_heads, size), rotary_);  // queries and keys
      const ArrayView attended = pass.attend({
          .q = pass.heads(qkv, 0, heads, size),
          .k = pass.heads(qkv, heads * size, kv_heads, size),
          .v = pass.heads(qkv, (heads + kv_heads) * size, kv_heads, size),
          .layer = i,
          .sliding_window = layer.window,
      });
      delta = pass.linear_float(attended, layer.output);
      delta = layer.mlp(pass, pass.norm(h, delta, layer.mlp_norm));
    }
    pass.logits(h, *delta, norm_, ends_.output);
  }

  Rotary rotary_;
  std::vector<Layer> layers_;
  Norm norm_;
  Ends ends_;
};

}  // namespace

std::shared_ptr<LoadedModel> load_llama(const ModelConfig& config, ModelWeights& weights) {
  return std::make_shared<Llama>(config, weights);
}

}  // namespace quire
