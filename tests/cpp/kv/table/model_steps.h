// How long random lives are.
#pragma once

#include <cstdlib>

namespace quire::testing {

// `usual` steps, few enough for each run of the tests, or as many as QUIRE_MODEL_STEPS says:
//
//   QUIRE_MODEL_STEPS=1000000 ctest --preset release --tests-regex Model
inline int model_steps(int usual) {
  const char* wanted = std::getenv("QUIRE_MODEL_STEPS");
  return wanted == nullptr ? usual : std::atoi(wanted);
}

}  // namespace quire::testing
