#include "quire/cpu/operations.h"

#include <cstdlib>

#include "quire/attention/index_snapshot.h"
#include "quire/attention/reference.h"
#include "quire/attention/validate.h"
#include "quire/base/check.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/attention_launch.h"
#include "quire/cpu/select_kernels.h"

namespace quire {
namespace {

constexpr Implementation kImplementations[] = {Implementation::fused, Implementation::gather,
                                               Implementation::dense};

Implementation named(std::string_view name, std::string_view place, std::string_view expected) {
  for (const Implementation implementation : kImplementations) {
    if (name == name_of(implementation)) return implementation;
  }
  raise<ValueError>(place, "got \"", name, "\", expected ", expected);
}

}  // namespace

std::string_view name_of(Implementation implementation) {
  switch (implementation) {
    case Implementation::gather:
      return "gather";
    case Implementation::dense:
      return "dense";
    case Implementation::fused:
      break;
  }
  return "fused";
}

Implementation implementation_from_name(std::string_view name, std::string_view function) {
  const std::string argument = place(function, "implementation");
  if (name != "auto") return named(name, argument, "auto, fused, gather or dense");
  const char* variable = std::getenv("QUIRE_ATTENTION");
  if (variable == nullptr || *variable == '\0') return Implementation::fused;
  return named(variable, "QUIRE_ATTENTION", "fused, gather or dense");
}

void paged_attention(const PagedAttentionArgs& args, Implementation implementation,
                     int num_threads) {
  if (num_threads < 0) {
    raise<ValueError>("paged_attention: num_threads", "got ", num_threads, ", expected >= 1");
  }
  paged_attention(args, implementation, num_threads == 0 ? default_num_threads() : num_threads,
                  selected_kernels());
}

void paged_attention(const PagedAttentionArgs& args, Implementation implementation, int num_threads,
                     const Kernels& kernels) {
  validate(args);
  thread_local IndexSnapshot snapshot;
  const PagedAttentionArgs copied = snapshot.take(args);
  validate(copied);
  switch (implementation) {
    case Implementation::dense:
      return reference_attention(copied);
    case Implementation::gather:
      return launch_gather(copied, kernels, num_threads);
    case Implementation::fused:
      return launch_fused(copied, kernels, num_threads);
  }
}

}  // namespace quire
