// What a test calls runs on one instruction set.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

#include "quire/cpu/select_kernels.h"

namespace quire::testing {

// The environment names it while this lives.
class WithInstructionSet {
 public:
  explicit WithInstructionSet(std::string_view name) {
    setenv("QUIRE_CPU", std::string(name).c_str(), 1);
    read_environment_again();
  }
  ~WithInstructionSet() {
    unsetenv("QUIRE_CPU");
    read_environment_again();
  }
  WithInstructionSet(const WithInstructionSet&) = delete;
  WithInstructionSet& operator=(const WithInstructionSet&) = delete;
};

}  // namespace quire::testing
