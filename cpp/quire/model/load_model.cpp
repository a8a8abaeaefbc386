#include "quire/model/load_model.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "quire/base/check.h"
#include "quire/cpu/execution.h"
#include "quire/io/mapped_file.h"
#include "quire/model/architectures/architectures.h"
#include "quire/model/gguf_model.h"
#include "quire/model/model_weights.h"

namespace quire {
namespace {

// By the first name of "architectures" in config.json. Of models of several kinds of input, which
// are for conditional generation, the text alone.
constexpr struct {
  std::string_view name;
  LoadArchitecture load;
} kArchitectures[] = {
    {"LlamaForCausalLM", load_llama},
    {"MistralForCausalLM", load_llama},
    {"Qwen2ForCausalLM", load_llama},
    {"Qwen3ForCausalLM", load_qwen3},
    {"Qwen3MoeForCausalLM", load_qwen3},
    {"Qwen3_5ForCausalLM", load_qwen3_5},
    {"Qwen3_5ForConditionalGeneration", load_qwen3_5},
    {"Gemma3ForCausalLM", load_gemma3},
    {"Gemma3ForConditionalGeneration", load_gemma3},
};

LoadArchitecture find_architecture(const ModelConfig& config) {
  const std::string name = config.architecture();
  std::string known;
  for (const auto& [other, load] : kArchitectures) {
    if (name == other) return load;
    known += concat(known.empty() ? "" : ", ", other);
  }
  config.refuse("architectures", name, concat("one of ", known));
}

ModelConfig read_config(std::string_view function, const std::string& path) {
  const MappedFile file(function, path);
  return ModelConfig(function, path, read_json(file.contents()));
}

// Of generation_config.json; none where there is no such file.
std::vector<std::int64_t> read_more_stop_tokens(std::string_view function,
                                                const std::string& folder) {
  try {
    return read_config(function, folder + "/generation_config.json").wholes("eos_token_id");
  } catch (const FileError& error) {
    if (error.code() != ENOENT) throw;
    return {};
  }
}

// Of both files of a folder, as chat models end with other tokens than texts.
std::vector<std::int64_t> read_stop_tokens(const ModelConfig& config, const std::string& folder,
                                           bool is_gguf) {
  std::vector<std::int64_t> ids = config.wholes("eos_token_id");
  if (!is_gguf) {
    for (const std::int64_t id : read_more_stop_tokens(config.function(), folder)) {
      ids.push_back(id);
    }
  }
  std::ranges::sort(ids);
  ids.erase(std::ranges::unique(ids).begin(), ids.end());
  return ids;
}

}  // namespace

std::shared_ptr<const LoadedModel> load_model(const std::string& path, const LoadOptions& options,
                                              std::string_view function) {
  const Execution how = default_execution(options.num_threads, function);
  const std::unique_ptr<TensorFile> file = open_tensor_file(function, path);
  std::error_code ignored;  // whatever the system says, it is then no folder
  if (file->gguf() == nullptr && !std::filesystem::is_directory(path, ignored)) {
    raise<ValueError>(place(function, "path"), "got ", path,
                      ": a safetensors file, expected the folder of it and config.json, or a GGUF "
                      "file");
  }
  const ModelConfig config = file->gguf() != nullptr
                                 ? read_gguf_config(function, path, *file->gguf())
                                 : read_config(function, path + "/config.json");
  const LoadArchitecture load = find_architecture(config);
  ModelWeights weights(function, path, *file, options.weights, how.num_threads);
  std::shared_ptr<LoadedModel> model = load(config, weights);
  return finished(std::move(model), weights,
                  read_stop_tokens(config, path, file->gguf() != nullptr));
}

}  // namespace quire
