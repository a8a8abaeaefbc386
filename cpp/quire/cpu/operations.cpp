#include "quire/cpu/operations.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "quire/base/check.h"
#include "quire/base/float_mode.h"
#include "quire/base/lent.h"
#include "quire/cpu/attention/attention_launch.h"
#include "quire/cpu/attention/attention_run.h"
#include "quire/cpu/attention/block_mass_launch.h"
#include "quire/ops/attention/index_snapshot.h"
#include "quire/ops/attention/reference.h"
#include "quire/ops/attention/validate.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

constexpr Implementation kImplementations[] = {Implementation::fused, Implementation::gather,
                                               Implementation::dense};

std::optional<Implementation> named(std::string_view name) {
  for (const Implementation implementation : kImplementations) {
    if (name == name_of(implementation)) return implementation;
  }
  return std::nullopt;
}

// Of blocks that a row does not see.
void clear_block_mass(const PagedAttentionArgs& args) {
  if (args.block_mass == nullptr) return;
  const PagedAttentionSizes sizes = sizes_of(args);
  std::fill_n(args.block_mass, sizes.num_tokens * sizes.num_heads * args.block_tables.shape[1],
              0.0f);
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
  if (name != "auto") {
    if (const auto implementation = named(name)) return *implementation;
    raise<ValueError>(place(function, "implementation"), "got \"", name,
                      "\", expected auto, fused, gather or dense");
  }
  const char* variable = std::getenv("QUIRE_ATTENTION");
  if (variable == nullptr || *variable == '\0') return Implementation::fused;
  if (const auto implementation = named(variable)) return *implementation;
  raise<ValueError>("QUIRE_ATTENTION", "got \"", variable, "\", expected fused, gather or dense");
}

void paged_attention(const PagedAttentionArgs& args, Implementation implementation,
                     int num_threads) {
  paged_attention(args, implementation, default_execution(num_threads, "paged_attention"));
}

void paged_attention(const PagedAttentionArgs& args, Implementation implementation,
                     const Execution& how, std::string_view function) {
  const DefaultFloatMode mode;
  validate(args, function);
  const Lent<IndexSnapshot> snapshot;
  const PagedAttentionArgs copied = snapshot->take(args);
  validate_indices(copied, function);  // which another thread may have changed meanwhile
  run_attention(copied, implementation, how, function);
}

void run_attention(const PagedAttentionArgs& args, Implementation implementation,
                   const Execution& how, std::string_view function, AttentionPlan* plan) {
  const DefaultFloatMode mode;
  const AttentionChoice& kernels = how.kernels->attention(args.k_cache.dtype);
  if (implementation != Implementation::fused) check_dynamic_scales(args, function);
  switch (implementation) {
    case Implementation::dense:
      clear_block_mass(args);
      return reference_attention(args);
    case Implementation::gather:
      launch_gather(args, kernels, how.num_threads);
      break;
    case Implementation::fused:
      launch_fused(args, kernels, how.num_threads, function, plan);
      break;
  }
  if (args.block_mass == nullptr) return;
  clear_block_mass(args);
  launch_block_mass(args, kernels, how.num_threads);
}

}  // namespace quire
