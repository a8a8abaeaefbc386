#include "quire/model/model_config.h"

#include <cmath>

#include "quire/base/check.h"
#include "quire/ops/rotary/rope_frequencies.h"

namespace quire {
namespace {

constexpr std::string_view kWhole = "a whole number >= 0";

}  // namespace

ModelConfig::ModelConfig(std::string_view function, std::string source, JsonValue root)
    : function_(function), source_(std::move(source)), root_(std::move(root)) {
  if (root_.object() == nullptr) {
    raise<ValueError>(place(function_, "path"), "got ", root_.kind(), " in ", source_,
                      ", expected an object");
  }
}

const JsonValue& ModelConfig::values() const {
  const JsonValue* const text = root_.find("text_config");
  return text != nullptr && text->object() != nullptr ? *text : root_;
}

const JsonValue* ModelConfig::value(std::string_view key) const {
  const JsonValue* found = values().find(key);
  // what all kinds of input share may stand outside
  if (found == nullptr || found->is_null()) found = root_.find(key);
  return found == nullptr || found->is_null() ? nullptr : found;
}

void ModelConfig::refuse(std::string_view key, std::string_view what,
                         std::string_view expected) const {
  raise<ValueError>(place(function_, "path"), "got ", what, " as ", key, " in ", source_,
                    ", expected ", expected);
}

std::string ModelConfig::architecture() const {
  const JsonValue* const found = value("architectures");
  const JsonValue::Array* const names = found == nullptr ? nullptr : found->array();
  if (names == nullptr || names->empty() || names->front().string() == nullptr) {
    refuse("architectures", found == nullptr ? "nothing" : found->kind(), "an array of names");
  }
  return *names->front().string();
}

std::int64_t ModelConfig::whole(std::string_view key, std::optional<std::int64_t> otherwise) const {
  const JsonValue* const found = value(key);
  if (found == nullptr) {
    if (otherwise) return *otherwise;
    refuse(key, "nothing", kWhole);
  }
  if (found->whole() == nullptr) refuse(key, found->kind(), kWhole);
  if (*found->whole() < 0) refuse(key, std::to_string(*found->whole()), kWhole);
  return *found->whole();
}

std::int64_t ModelConfig::size(std::string_view key, std::optional<std::int64_t> otherwise) const {
  const std::int64_t number = whole(key, otherwise);
  if (number < 1 || number > std::int64_t{1} << 30) {
    refuse(key, std::to_string(number), "1 to 2^30");
  }
  return number;
}

double ModelConfig::real(std::string_view key, std::optional<double> otherwise) const {
  const JsonValue* const found = value(key);
  if (found == nullptr) {
    if (otherwise) return *otherwise;
    refuse(key, "nothing", "a number");
  }
  if (!found->is_number()) refuse(key, found->kind(), "a number");
  return found->real();
}

bool ModelConfig::flag(std::string_view key, std::optional<bool> otherwise) const {
  const JsonValue* const found = value(key);
  if (found == nullptr) {
    if (otherwise) return *otherwise;
    refuse(key, "nothing", "true or false");
  }
  if (found->boolean() == nullptr) refuse(key, found->kind(), "true or false");
  return *found->boolean();
}

std::string ModelConfig::text(std::string_view key, std::optional<std::string> otherwise) const {
  const JsonValue* const found = value(key);
  if (found == nullptr) {
    if (otherwise) return *otherwise;
    refuse(key, "nothing", "a string");
  }
  if (found->string() == nullptr) refuse(key, found->kind(), "a string");
  return *found->string();
}

std::vector<std::int64_t> ModelConfig::wholes(std::string_view key) const {
  constexpr std::string_view kExpected = "a whole number >= 0, or an array of such";
  const JsonValue* const found = value(key);
  if (found == nullptr) return {};
  if (found->whole() != nullptr) return {whole(key)};
  if (found->array() == nullptr) refuse(key, found->kind(), kExpected);
  std::vector<std::int64_t> numbers;
  for (const JsonValue& item : *found->array()) {
    if (item.whole() == nullptr || *item.whole() < 0) refuse(key, item.kind(), kExpected);
    numbers.push_back(*item.whole());
  }
  return numbers;
}

std::vector<std::string> ModelConfig::texts(std::string_view key) const {
  const JsonValue* const found = value(key);
  if (found == nullptr) return {};
  if (found->array() == nullptr) refuse(key, found->kind(), "an array of strings");
  std::vector<std::string> texts;
  for (const JsonValue& item : *found->array()) {
    if (item.string() == nullptr) refuse(key, item.kind(), "an array of strings");
    texts.push_back(*item.string());
  }
  return texts;
}

std::optional<ModelConfig> ModelConfig::part(std::string_view key) const {
  const JsonValue* const found = value(key);
  if (found == nullptr) return std::nullopt;
  if (found->object() == nullptr) refuse(key, found->kind(), "an object");
  return ModelConfig(function_, concat(key, " of ", source_), *found);
}

DecoderShape read_decoder_shape(const ModelConfig& config) {
  DecoderShape shape{};
  shape.vocab_size = config.size("vocab_size");
  shape.hidden_size = config.size("hidden_size");
  shape.intermediate_size = config.size("intermediate_size");
  shape.num_layers = config.size("num_hidden_layers");
  shape.num_heads = config.size("num_attention_heads");
  shape.num_kv_heads = config.size("num_key_value_heads", shape.num_heads);
  if (shape.num_heads % shape.num_kv_heads != 0) {
    config.refuse("num_key_value_heads", std::to_string(shape.num_kv_heads),
                  concat("a divisor of ", shape.num_heads, ", num_attention_heads"));
  }
  if (!config.has("head_dim") && shape.hidden_size % shape.num_heads != 0) {
    config.refuse("hidden_size", std::to_string(shape.hidden_size),
                  concat("a multiple of ", shape.num_heads, ", num_attention_heads"));
  }
  shape.head_dim = config.size("head_dim", shape.hidden_size / shape.num_heads);
  shape.max_positions = config.size("max_position_embeddings");
  shape.norm_eps = config.real("rms_norm_eps", 1e-6);
  if (!(shape.norm_eps >= 0) || !std::isfinite(shape.norm_eps)) {
    config.refuse("rms_norm_eps", concat(shape.norm_eps), "a finite number >= 0");
  }
  if (config.has("tie_word_embeddings")) {
    shape.tied_embeddings = config.flag("tie_word_embeddings");
  }
  return shape;
}

Rotary read_rotary(const ModelConfig& config, const DecoderShape& shape, double theta) {
  if (const auto parameters = config.part("rope_parameters")) {
    return read_rotary(*parameters, config, shape, theta);
  }
  if (const auto scaling = config.part("rope_scaling")) {
    return read_rotary(*scaling, config, shape, theta);
  }
  return read_rotary(config, config, shape, theta);
}

Rotary read_rotary(const ModelConfig& parameters, const ModelConfig& config,
                   const DecoderShape& shape, double theta) {
  const auto real = [&](std::string_view key, double otherwise) {
    return parameters.real(key, config.real(key, otherwise));
  };
  const auto optional_real = [&](std::string_view key) {
    return parameters.has(key) ? std::optional(parameters.real(key)) : std::nullopt;
  };
  const std::string type = parameters.text("rope_type", parameters.text("type", "default"));
  const double part = real("partial_rotary_factor", 1);
  RopeFrequencyOptions options;
  if (part > 0 && part <= 1) {
    options.rotary_dim = static_cast<std::int64_t>(static_cast<double>(shape.head_dim) * part);
  }
  if (options.rotary_dim < 2 || options.rotary_dim % 2 != 0) {
    parameters.refuse("partial_rotary_factor", concat(part),
                      concat("above 0 to 1, and that an even number of the ", shape.head_dim,
                             ", head_dim, is turned"));
  }
  options.theta = real("rope_theta", theta);
  options.scaling = rope_scaling_from_name(
      type, concat(place(config.function(), "path"), ": rope_type in ", parameters.source()));
  options.factor = parameters.real("factor", 1);
  options.original_max_positions =
      parameters.whole("original_max_position_embeddings",
                       config.whole("original_max_position_embeddings", shape.max_positions));
  options.low_freq_factor = parameters.real("low_freq_factor", 1);
  options.high_freq_factor = parameters.real("high_freq_factor", 4);
  options.beta_fast = parameters.real("beta_fast", 32);
  options.beta_slow = parameters.real("beta_slow", 1);
  options.truncate = parameters.flag("truncate", true);
  options.mscale = optional_real("mscale");
  options.mscale_all_dim = optional_real("mscale_all_dim");
  options.attention_factor = optional_real("attention_factor");
  RopeFrequencies frequencies = rope_frequencies(
      options, concat(place(config.function(), "path"), ": ", parameters.source()));
  return {std::move(frequencies.inv_freq), frequencies.attention_factor,
          config.flag("rope_interleaved", false)};
}

Rotary plain_rotary(const ModelConfig& config, std::string_view key, double theta,
                    std::int64_t head_dim) {
  RopeFrequencyOptions options;
  options.rotary_dim = head_dim;
  options.theta = config.real(key, theta);
  RopeFrequencies frequencies = rope_frequencies(
      options, concat(place(config.function(), "path"), ": ", key, " of ", config.source()));
  return {std::move(frequencies.inv_freq), 1, false};
}

std::vector<std::string> read_layer_types(const ModelConfig& config, std::string_view other) {
  std::vector<std::string> types = config.texts("layer_types");
  if (types.empty()) return types;
  const std::int64_t num_layers = config.size("num_hidden_layers");
  if (std::ssize(types) != num_layers) {
    config.refuse("layer_types", counted(types.size(), "layer"),
                  concat(num_layers, ", num_hidden_layers"));
  }
  for (const std::string& type : types) {
    if (type == "full_attention" || type == other) continue;
    config.refuse("layer_types", type, concat("full_attention or ", other));
  }
  return types;
}

std::optional<std::int64_t> layer_window(const ModelConfig& config, std::int64_t layer,
                                         bool otherwise) {
  const std::vector<std::string> types = read_layer_types(config, "sliding_attention");
  if (!types.empty()) {
    if (types[static_cast<std::size_t>(layer)] == "full_attention") return std::nullopt;
    return config.size("sliding_window");
  }
  if (!config.has("sliding_window")) return std::nullopt;
  const std::int64_t window = config.size("sliding_window");
  if (!config.flag("use_sliding_window", otherwise)) return std::nullopt;
  if (layer < config.whole("max_window_layers", 0)) return std::nullopt;
  return window;
}

Activation read_activation(const ModelConfig& config, std::string_view key) {
  const std::string name = config.text(key);
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  config.refuse(key, name, "silu, gelu or gelu_pytorch_tanh");
}

}  // namespace quire
