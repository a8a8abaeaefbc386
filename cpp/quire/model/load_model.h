// Models from the files of others.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "quire/model/loaded_model.h"

namespace quire {

struct LoadOptions {
  WeightFormat weights;  // float32, float16, bfloat16, int8 or int4; none: as stored
  int num_threads = 0;   // that pack weights; 0: default_num_threads()
};

// A GGUF file, or a Hugging Face folder: config.json, and model.safetensors or the files that
// model.safetensors.index.json names. Throws FileError where the system refuses, and ValueError,
// which names what is wrong: for an architecture that is not known, with those that are; for a
// tensor that is missing or of another shape; for a file that is not what it should be.
std::shared_ptr<const LoadedModel> load_model(const std::string& path,
                                              const LoadOptions& options = {},
                                              std::string_view function = "load_model");

}  // namespace quire
