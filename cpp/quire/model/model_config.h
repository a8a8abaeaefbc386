// The configuration of a model: what config.json of a Hugging Face folder says of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/io/json_value.h"
#include "quire/ops/activation/swiglu.h"

namespace quire {

// Values by name. Each is asked for with what it must be; one that is something else, or not there
// and without a default, throws ValueError that names file and key. `function` is who reads it.
class ModelConfig {
 public:
  // `source` says in messages where the values come from. Where there is a "text_config", as in
  // models of several kinds of input, the values are its own.
  ModelConfig(std::string_view function, std::string source, JsonValue root);

  // "LlamaForCausalLM": the first of "architectures".
  std::string architecture() const;

  std::int64_t whole(std::string_view key, std::optional<std::int64_t> otherwise = {}) const;
  // A whole number from 1 to 2^30, so that a product of two of them, some times over, is an int64.
  std::int64_t size(std::string_view key, std::optional<std::int64_t> otherwise = {}) const;
  double real(std::string_view key, std::optional<double> otherwise = {}) const;
  bool flag(std::string_view key, std::optional<bool> otherwise = {}) const;
  std::string text(std::string_view key, std::optional<std::string> otherwise = {}) const;
  // A whole number or an array of such; empty where there is nothing.
  std::vector<std::int64_t> wholes(std::string_view key) const;
  // An array of strings; empty where there is nothing.
  std::vector<std::string> texts(std::string_view key) const;

  // Whether the key is there, and is not null.
  bool has(std::string_view key) const { return value(key) != nullptr; }
  // The object at a key, as a configuration of its own; none where there is nothing.
  std::optional<ModelConfig> part(std::string_view key) const;

  // Throws ValueError: "function: path: got `what` as `key` in `source`, expected `expected`".
  [[noreturn]] void refuse(std::string_view key, std::string_view what,
                           std::string_view expected) const;

  std::string_view function() const { return function_; }
  const std::string& source() const { return source_; }
  // All of the values, as they were read.
  const JsonValue& root() const { return root_; }

 private:
  const JsonValue* value(std::string_view key) const;

  std::string function_;
  std::string source_;
  JsonValue root_;
  const JsonValue& values() const;
};

// The sizes that decoders have in common, each >= 1.
struct DecoderShape {
  std::int64_t vocab_size, hidden_size, intermediate_size, num_layers;
  std::int64_t num_heads, num_kv_heads, head_dim;
  std::int64_t max_positions;
  double norm_eps;
  // Whether the embedding is the output's weight too; none: nothing is said.
  std::optional<bool> tied_embeddings;
};

// head_dim is hidden_size / num_attention_heads where nothing else is said. Throws ValueError.
DecoderShape read_decoder_shape(const ModelConfig& config);

// How positions turn queries and keys.
struct Rotary {
  std::vector<float> inv_freq;  // radians a position, of each pair
  double attention_factor = 1;
  bool interleaved = false;

  std::int64_t rotary_dim() const { return 2 * static_cast<std::int64_t>(inv_freq.size()); }
};

// Of "rope_parameters" (transformers 5), or "rope_theta", "rope_scaling" and
// "partial_rotary_factor" beside each other (before). Throws ValueError for a kind of scaling that
// is not known, and for what it lacks.
Rotary read_rotary(const ModelConfig& config, const DecoderShape& shape, double theta = 10000);
// Of the object that says it, and of the configuration where that is silent; `theta` where both
// are.
Rotary read_rotary(const ModelConfig& parameters, const ModelConfig& config,
                   const DecoderShape& shape, double theta = 10000);
// That of all numbers of a head, without scaling, of the theta at `key`, or `theta`.
Rotary plain_rotary(const ModelConfig& config, std::string_view key, double theta,
                    std::int64_t head_dim);

// "layer_types": of each layer "full_attention" or `other`; empty where nothing is said. Throws
// ValueError for other types, and another number of them than num_hidden_layers.
std::vector<std::string> read_layer_types(const ModelConfig& config, std::string_view other);

// Keys that a layer's queries see, by "sliding_window" and "layer_types", or, before transformers
// 4.53, "use_sliding_window" (else `otherwise`) and "max_window_layers"; none: all. Throws
// ValueError, as read_layer_types and for a window that is needed and not there.
std::optional<std::int64_t> layer_window(const ModelConfig& config, std::int64_t layer,
                                         bool otherwise);

// "silu", "gelu" or "gelu_pytorch_tanh" at the key. Throws ValueError for others.
Activation read_activation(const ModelConfig& config, std::string_view key);

}  // namespace quire
