#include "quire/model/gguf_model.h"

#include <array>
#include <cmath>
#include <optional>

#include "quire/base/check.h"

namespace quire {
namespace {

// What the files of an architecture leave unsaid, as llama.cpp's converter (convert_hf_to_gguf.py)
// writes them.
struct GgufArchitecture {
  std::string_view name;       // general.architecture
  std::string_view of_config;  // as config.json calls it
  // Rows of queries and keys are in another order, so that pairs of the rotation are neighbours.
  bool interleaved;
  std::string_view activation;
};
constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "LlamaForCausalLM", true, "silu"},
    {"qwen2", "Qwen2ForCausalLM", false, "silu"},
    {"qwen3", "Qwen3ForCausalLM", false, "silu"},
    {"gemma3", "Gemma3ForCausalLM", false, "gelu_pytorch_tanh"},
};

// Reads values, and writes them as the text of a JSON object.
class Translation {
 public:
  Translation(std::string_view function, const std::string& path, const GgufHeader& header)
      : function_(function), path_(path), header_(header) {}

  [[noreturn]] void refuse(std::string_view key, std::string_view expected) const {
    const bool is_there = header_.find(key) != nullptr;
    raise<ValueError>(place(function_, "path"), "got ", path_,
                      is_there ? " with something else as " : " without ", key, ", expected ",
                      expected);
  }
  std::string text(std::string_view key) const {
    const GgufValue* const value = header_.find(key);
    const auto text = value == nullptr ? std::nullopt : value->text();
    if (!text) refuse(key, "a text");
    return std::string(*text);
  }
  // Nothing where there is none. What is there and is no whole number is refused, as a default in
  // its place would be another model: of values for each layer, for one.
  std::optional<std::int64_t> whole(std::string_view key) const {
    const GgufValue* const value = header_.find(key);
    if (value == nullptr) return std::nullopt;
    const auto number = value->whole();
    if (!number || *number < 0) refuse(key, kWhole);
    return number;
  }
  std::int64_t need_whole(std::string_view key) const {
    const auto number = whole(key);
    if (!number) refuse(key, kWhole);
    return *number;
  }
  // Likewise.
  std::optional<double> real(std::string_view key) const {
    const GgufValue* const value = header_.find(key);
    if (value == nullptr) return std::nullopt;
    const auto number = value->real();
    if (!number || !std::isfinite(*number)) refuse(key, "a finite number");
    return number;
  }
  std::int64_t array_size(std::string_view key) const {
    const GgufValue* const value = header_.find(key);
    if (value == nullptr || value->array() == nullptr) refuse(key, "an array");
    return value->array()->size;
  }

  // What has been written so far; names and texts are ours, and need no escapes.
  void put(std::string_view key, std::string_view json) {
    text_ += concat(text_.empty() ? "{" : ", ", "\"", key, "\": ", json);
  }
  void put_text(std::string_view key, std::string_view value) {
    put(key, concat("\"", value, "\""));
  }
  void put_whole(std::string_view key, std::optional<std::int64_t> value) {
    if (value) put(key, concat(*value));
  }
  void put_real(std::string_view key, std::optional<double> value) {
    if (value) put(key, concat(*value));
  }
  std::string take() { return std::move(text_) + "}"; }

 private:
  static constexpr std::string_view kWhole = "a whole number >= 0";

  const std::string_view function_;
  const std::string& path_;
  const GgufHeader& header_;
  std::string text_;
};

// Frequencies, scaled as "rope.scaling" says.
std::string rope_parameters(const Translation& file, const std::string& at, double theta) {
  std::string type = "default", more;
  const auto factor = file.real(at + "rope.scaling.factor");
  if (factor && *factor != 1) {
    type = file.text(at + "rope.scaling.type");
    if (type != "none" && type != "linear" && type != "yarn") {
      file.refuse(at + "rope.scaling.type", "none, linear or yarn");
    }
    more = concat(", \"factor\": ", *factor);
    if (const auto context = file.whole(at + "rope.scaling.original_context_length")) {
      more += concat(", \"original_max_position_embeddings\": ", *context);
    }
  }
  return concat("{\"rope_type\": \"", type == "none" ? "default" : type,
                "\", \"rope_theta\": ", file.real(at + "rope.freq_base").value_or(theta), more,
                "}");
}

}  // namespace

ModelConfig read_gguf_config(std::string_view function, const std::string& path,
                             const GgufHeader& header) {
  Translation file(function, path, header);
  const std::string name = file.text("general.architecture");
  const GgufArchitecture* found = nullptr;
  std::string known;
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (architecture.name == name) found = &architecture;
    known += concat(known.empty() ? "" : ", ", architecture.name);
  }
  if (found == nullptr) {
    raise<ValueError>(place(function, "path"), "got ", name, " as general.architecture in ", path,
                      ", expected one of ", known);
  }
  const std::string at = name + ".";
  const std::int64_t hidden = file.need_whole(at + "embedding_length");
  const std::int64_t heads = file.need_whole(at + "attention.head_count");
  const std::int64_t layers = file.need_whole(at + "block_count");
  if (heads < 1) file.refuse(at + "attention.head_count", "a number >= 1");
  const std::int64_t head_dim = file.whole(at + "attention.key_length").value_or(hidden / heads);
  if (file.whole(at + "rope.dimension_count").value_or(head_dim) != head_dim) {
    file.refuse(at + "rope.dimension_count", concat(head_dim, ", the numbers of a head"));
  }
  file.put("architectures", concat("[\"", found->of_config, "\"]"));
  file.put_whole("vocab_size", file.array_size("tokenizer.ggml.tokens"));
  file.put_whole("hidden_size", hidden);
  file.put_whole("num_hidden_layers", layers);
  file.put_whole("num_attention_heads", heads);
  file.put_whole("num_key_value_heads", file.whole(at + "attention.head_count_kv").value_or(heads));
  file.put_whole("head_dim", head_dim);
  file.put_whole("intermediate_size", file.need_whole(at + "feed_forward_length"));
  file.put_whole("max_position_embeddings", file.need_whole(at + "context_length"));
  file.put_real("rms_norm_eps", file.real(at + "attention.layer_norm_rms_epsilon"));
  const auto window = file.whole(at + "attention.sliding_window");
  if (window != 0) file.put_whole("sliding_window", window);  // 0: there is none
  file.put_whole("bos_token_id", file.whole("tokenizer.ggml.bos_token_id"));
  // Chat models end a turn, and a call of a tool, with other tokens than a text (llama.cpp,
  // src/llama-vocab.cpp, where all three end an answer).
  std::string ends;
  for (const std::string_view end : {"eos", "eot", "eom"}) {
    const auto id = file.whole(concat("tokenizer.ggml.", end, "_token_id"));
    if (id) ends += concat(ends.empty() ? "" : ", ", *id);
  }
  if (!ends.empty()) file.put("eos_token_id", concat("[", ends, "]"));
  file.put_text("hidden_act", found->activation);
  file.put("rope_interleaved", found->interleaved ? "true" : "false");
  if (name == "gemma3") {
    // the largest one scales by its width instead of its heads' (llama.cpp, src/models/gemma3.cpp)
    constexpr std::int64_t kLayersOfLargest = 62;
    file.put_text("hidden_activation", found->activation);
    file.put_whole("query_pre_attn_scalar", layers == kLayersOfLargest ? hidden / heads : head_dim);
    file.put("norms_have_offset", "true");
    file.put("rope_parameters",
             concat("{\"full_attention\": ", rope_parameters(file, at, 1e6), "}"));
  } else {
    file.put("rope_parameters", rope_parameters(file, at, 1e4));
  }
  const std::string text = file.take();
  return ModelConfig(function, path, read_json({function, path, std::as_bytes(std::span(text))}));
}

std::string gguf_tensor_name(std::string_view name, bool has_late_norms) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 15> kNames = {{
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"input_layernorm", "attn_norm"},
      {"pre_feedforward_layernorm", "ffn_norm"},
      {"post_feedforward_layernorm", "post_ffw_norm"},
      {"embed_tokens", "token_embd"},
      {"norm", "output_norm"},
      {"lm_head", "output"},
  }};
  const std::size_t dot = name.rfind('.');  // before "weight" or "bias"
  if (dot == std::string_view::npos) return std::string(name);
  std::string_view middle = name.substr(0, dot);
  std::string layer;
  if (middle.starts_with("layers.")) {
    const std::size_t end = middle.find('.', 7);
    if (end == std::string_view::npos) return std::string(name);
    layer = concat("blk.", middle.substr(7, end - 6));
    middle = middle.substr(end + 1);
  }
  const std::string_view last = name.substr(dot);
  if (middle == "post_attention_layernorm") {
    return concat(layer, has_late_norms ? "post_attention_norm" : "ffn_norm", last);
  }
  for (const auto& [ours, theirs] : kNames) {
    if (middle == ours) return concat(layer, theirs, last);
  }
  return std::string(name);
}

}  // namespace quire
