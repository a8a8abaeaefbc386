// The public operations on the CPU: each checks its arguments, then runs on the best instruction
// set that this processor has (or the one that QUIRE_CPU names) and on `num_threads` threads.
//
// All throw ValueError, TypeError or IndexError (quire/base/check.h) before anything is written.
#pragma once

#include <string_view>

#include "quire/cpu/execution.h"
#include "quire/ops/attention/merge_states.h"
#include "quire/ops/attention/paged_attention.h"
#include "quire/ops/cache/write_kv.h"

namespace quire {

enum class Implementation : std::uint8_t {
  fused,   // reads the scattered blocks
  gather,  // copies each sequence's keys and values together, then dense attention
  dense,   // plain float64 loops, the reference
};

// "fused", "gather" or "dense"; "auto" is fused, or what the environment variable QUIRE_ATTENTION
// names. Anything else is a ValueError under the name of `function`.
Implementation implementation_from_name(std::string_view name,
                                        std::string_view function = "paged_attention");
std::string_view name_of(Implementation implementation);

// `num_threads`, here and below: 0 stands for default_num_threads() of quire/base/thread_pool.h.
// The result is the same bits whatever it is.
void paged_attention(const PagedAttentionArgs& args,
                     Implementation implementation = Implementation::fused, int num_threads = 0);

void write_kv(const WriteKvArgs& args, int num_threads = 0);

// The same without a look at the environment, which another thread may be changing. Errors name
// `function`.
void paged_attention(const PagedAttentionArgs& args, Implementation implementation,
                     const Execution& how, std::string_view function = "paged_attention");
void write_kv(const WriteKvArgs& args, const Execution& how,
              std::string_view function = "write_kv");

}  // namespace quire
