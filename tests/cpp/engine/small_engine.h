// Engines of toy models, and prompts for them.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "engine/toy_model.h"
#include "quire/engine/engine.h"

namespace quire::testing {

using Ids = std::vector<std::int64_t>;
using Requests = std::vector<std::shared_ptr<Request>>;

inline EngineOptions small_engine(std::int64_t num_blocks = 400) {
  EngineOptions options;
  options.num_blocks = num_blocks;
  options.dtype = DType::float32;
  options.block_size = 4;
  options.num_threads = 1;
  return options;
}

inline Ids random_prompt(std::uint32_t seed, std::int64_t length) {
  std::mt19937 random(seed);
  Ids ids;
  for (std::int64_t i = 0; i < length; ++i) ids.push_back(random() % (kWords - 1));
  return ids;
}

// Until nothing is left to do; all books are checked after each step.
inline void run(Engine& engine) {
  while (engine.has_unfinished()) {
    engine.step();
    engine.check();
  }
}

}  // namespace quire::testing
