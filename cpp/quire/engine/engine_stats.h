// What an engine has done so far, and what it holds.
#pragma once

#include <cstdint>
#include <string>

#include "quire/kv/ledger/block_ledger.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire {

struct EngineStats {
  // Requests.
  std::int64_t waiting = 0;  // without blocks
  std::int64_t running = 0;  // with blocks
  std::int64_t finished = 0;

  // Tokens.
  std::int64_t prompt_tokens = 0;     // of requests that have begun
  std::int64_t cached_tokens = 0;     // of these, found in the prefix cache
  std::int64_t computed_tokens = 0;   // that went through the model, again after a preemption too
  std::int64_t generated_tokens = 0;  // of answers

  std::int64_t preemptions = 0;
  std::int64_t tokens_to_recompute = 0;  // that preempted requests lost, at most

  // Steps, and seconds by part: choosing requests and making their room, the model, choosing
  // tokens, and what follows, as prefixes that are kept and blocks that are freed.
  std::int64_t steps = 0;
  std::int64_t failed_steps = 0;  // that threw, and changed nothing
  double schedule_seconds = 0;
  double forward_seconds = 0;
  double choose_seconds = 0;
  double settle_seconds = 0;

  std::int64_t max_sequences = 0;   // that run at the same time; fewer than asked for where states
                                    // of so many would not fit into a quarter of the memory
  std::int64_t state_bytes = 0;     // of each, of a model with recurrent states
  std::string num_blocks_reason;    // why the pool has so many blocks
  std::string prefix_cache_reason;  // "on", or why not
  PoolStats pool;
  PrefixCacheStats prefix_cache;
};

}  // namespace quire
