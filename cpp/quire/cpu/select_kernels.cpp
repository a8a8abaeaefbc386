#include "quire/cpu/select_kernels.h"

#include <cstdlib>
#include <string>

#include "quire/base/check.h"
#include "quire/cpu/kernel_list.h"

namespace quire {
namespace {

const Kernels& best_kernels(bool quantised) {
  for (const KernelChoice& choice : kernel_list()) {
    const bool pays = choice.pays_here == nullptr || choice.pays_here(quantised);
    if (choice.runs_here() && pays) return *choice.kernels;
  }
  return kScalarKernels;
}

const Kernels& named_kernels(std::string_view name) {
  for (const KernelChoice& choice : kernel_list()) {
    if (choice.kernels->name == name && choice.runs_here()) return *choice.kernels;
  }
  std::string available;
  for (const std::string_view known : available_instruction_sets()) {
    available += concat(available.empty() ? "" : ", ", known);
  }
  raise<ValueError>("QUIRE_CPU", "got \"", name,
                    "\", expected one that this machine has: ", available);
}

}  // namespace

const Kernels& selected_kernels(DType cache) {
  static const Kernels& best = best_kernels(false);
  static const Kernels& best_of_quantised = best_kernels(true);
  const char* name = std::getenv("QUIRE_CPU");
  if (name != nullptr && *name != '\0') return named_kernels(name);
  return is_quantised(cache) ? best_of_quantised : best;
}

std::vector<std::string_view> built_instruction_sets() {
  std::vector<std::string_view> names;
  for (const KernelChoice& choice : kernel_list()) names.emplace_back(choice.kernels->name);
  return names;
}

std::vector<std::string_view> available_instruction_sets() {
  std::vector<std::string_view> names;
  for (const KernelChoice& choice : kernel_list()) {
    if (choice.runs_here()) names.emplace_back(choice.kernels->name);
  }
  return names;
}

}  // namespace quire
