#include "quire/cpu/select_kernels.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <span>
#include <string>

#include "quire/base/check.h"
#include "quire/cpu/kernel_candidates.h"
#include "quire/cpu/kernel_list.h"

namespace quire {
namespace {

SelectedKernels select_from(const KernelCandidates& candidates) {
  SelectedKernels selected{};
  for (std::size_t i = 0; i < selected.attention_of.size(); ++i) {
    selected.attention_of[i] = choose_attention(candidates, static_cast<DType>(i));
  }
  // one vocabulary writes every dtype, and is what the probe says the speed of
  const auto first = [&](auto table) {
    return candidates.first([table](const KernelSet& set) -> const auto& { return set.*table; },
                            DType::bfloat16);
  };
  selected.cache = first(&KernelSet::cache);
  selected.probe = first(&KernelSet::probe);
  const auto first_of_all = [&](auto kernels) {
    return (*std::ranges::find_if(candidates.sets, [&](const KernelSet* set) {
             return set->*kernels != nullptr;
           }))->*kernels;
  };
  selected.gemm = first_of_all(&KernelSet::gemm);
  selected.operators = first_of_all(&KernelSet::operators);
  return selected;
}

// Everything that can be selected on this processor. Never destroyed, so that no exit order can
// matter.
class Selections {
 public:
  static const Selections& all() {
    static const Selections& selections = *new Selections;
    return selections;
  }

  const SelectedKernels& best() const { return best_; }

  // Null where this processor has none of that name.
  const SelectedKernels* named(std::string_view name) const {
    for (std::size_t i = 0; i < sets_.size(); ++i) {
      if (sets_[i]->name == name) return &of_each_[i];
    }
    return nullptr;
  }

 private:
  Selections() {
    for (const KernelSource& source : kernel_list()) {
      if (source.runs_here()) sets_.push_back(source.kernels);
    }
    best_ = select_from({sets_, nullptr, has_fast_pairs()});
    // what one does not offer the next poorer does
    for (std::size_t i = 0; i < sets_.size(); ++i) {
      of_each_.push_back(select_from({std::span(sets_).subspan(i), sets_[i], has_fast_pairs()}));
      of_each_.back().instruction_set = sets_[i]->name;
    }
  }

  std::vector<const KernelSet*> sets_;
  SelectedKernels best_;
  std::vector<SelectedKernels> of_each_;
};

std::atomic<const SelectedKernels*> selected{nullptr};

}  // namespace

const SelectedKernels& selected_kernels() {
  if (const SelectedKernels* known = selected.load(std::memory_order_acquire)) return *known;
  const char* const name = std::getenv("QUIRE_CPU");
  const bool is_named = name != nullptr && *name != '\0';
  const SelectedKernels& found = is_named ? kernels_named(name) : Selections::all().best();
  selected.store(&found, std::memory_order_release);
  return found;
}

void read_environment_again() { selected.store(nullptr, std::memory_order_release); }

const SelectedKernels& kernels_named(std::string_view instruction_set) {
  if (const SelectedKernels* known = Selections::all().named(instruction_set)) return *known;
  std::string available;
  for (const std::string_view name : available_instruction_sets()) {
    available += concat(available.empty() ? "" : ", ", name);
  }
  for (const MissingInstructionSet& set : missing_instruction_sets()) {
    if (set.name == instruction_set) available += concat("; ", set.reason);
  }
  raise<ValueError>("QUIRE_CPU", "got \"", instruction_set,
                    "\", expected one that this machine has: ", available);
}

std::vector<MissingInstructionSet> missing_instruction_sets() {
  std::vector<MissingInstructionSet> sets;
  for (const KernelSource& source : kernel_list()) {
    const char* const reason = source.why_not == nullptr ? nullptr : source.why_not();
    if (reason != nullptr) sets.push_back({source.kernels->name, reason});
  }
  return sets;
}

std::vector<std::string_view> built_instruction_sets() {
  std::vector<std::string_view> names;
  for (const KernelSource& source : kernel_list()) names.emplace_back(source.kernels->name);
  return names;
}

std::vector<std::string_view> available_instruction_sets() {
  std::vector<std::string_view> names;
  for (const KernelSource& source : kernel_list()) {
    if (source.runs_here()) names.emplace_back(source.kernels->name);
  }
  return names;
}

}  // namespace quire
