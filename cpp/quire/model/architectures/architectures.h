// The architectures that can be loaded, each in a file of its own. How another one is added is in
// docs/guides/adding_an_architecture.md.
#pragma once

#include <memory>

#include "quire/model/loaded_model.h"

namespace quire {

using LoadArchitecture = std::shared_ptr<LoadedModel> (*)(const ModelConfig& config,
                                                          ModelWeights& weights);

std::shared_ptr<LoadedModel> load_gemma3(const ModelConfig& config, ModelWeights& weights);
std::shared_ptr<LoadedModel> load_llama(const ModelConfig& config, ModelWeights& weights);
std::shared_ptr<LoadedModel> load_qwen3(const ModelConfig& config, ModelWeights& weights);
std::shared_ptr<LoadedModel> load_qwen3_5(const ModelConfig& config, ModelWeights& weights);

}  // namespace quire
