// Which requests get how many tokens of the next step.
//
// There is one rule. A request has tokens that are known, those of its prompt and of its answer so
// far, and some of them are computed: their keys and values stand in its table. Each step brings
// the computed ones closer to the known ones, under a budget of tokens for all:
//
//   known      [ prompt ............... | answer . ]
//   computed   [ ............. ]                        what is missing is computed next
//
//   a decode            one token is missing
//   a chunked prefill   more are missing than the budget has left
//   a prefix hit        the first ones are computed before the request has run
//   a preemption        none is computed any more, and all are known as before
//
// Requests that miss a single token come first, so that a long prompt never holds answers up; then
// the others, first come, first served. What is left of the budget admits waiting requests, in the
// order in which they came, while there are blocks for all that is known of them beside what those
// that run still miss, and one for each request to grow into (the watermark).
//
// Where blocks run out all the same, the pool gives up cached prefixes that nobody uses, oldest
// first. After those the request with the fewest tokens to compute again is preempted: it waits
// once more, in its place by age. What it had computed goes to the prefix cache, which gives up no
// more of it than is needed. The oldest request is never preempted, so that it gets to its end,
// whatever the pool.
//
// It holds tables and numbers, no arrays, and knows no model. For one thread at a time; requests
// may be ended by others meanwhile.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "quire/engine/request.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "quire/paged/step.h"

namespace quire {

// A request on its way.
struct Sequence {
  std::shared_ptr<Request> request;
  std::shared_ptr<BlockTable> table;  // null while it waits
  std::int64_t slot = -1;             // below max_sequences, its own while it runs
  bool has_run = false;

  std::int64_t num_computed() const { return table == nullptr ? 0 : table->num_tokens(); }
};

// What a step computes.
struct Batch {
  struct Entry {
    std::shared_ptr<Sequence> sequence;
    std::int64_t num_tokens = 0;
    bool catches_up = false;  // to all that is known: a token is chosen then
  };
  std::vector<Entry> entries;
  std::unique_ptr<Step> step;  // of the entries' tables, in order
};

class Scheduler {
 public:
  struct Limits {
    std::int64_t max_batch_tokens;  // >= 1, of a step
    std::int64_t max_sequences;     // >= 1, that run at the same time
  };
  struct Counts {
    std::int64_t preemptions = 0;
    std::int64_t tokens_to_recompute = 0;  // of the preempted
    std::int64_t prompt_tokens = 0;        // of requests that were admitted for the first time
    std::int64_t cached_tokens = 0;        // of these, found in the prefix cache
  };

  // cache: null where prefixes are not kept.
  Scheduler(std::shared_ptr<BlockPool> pool, std::shared_ptr<PrefixCache> cache, Limits limits);

  // Throws OutOfBlocks under the name of `function` for a request of so many tokens, prompt and
  // answer, that would not fit if it had the pool for itself.
  void require_fits(std::int64_t num_prompt, std::int64_t max_tokens,
                    std::string_view function) const;
  void add(std::shared_ptr<Request> request);

  // The next batch, with room for its tokens; none where nothing is to be done. Requests that have
  // finished are gone then, and their blocks free.
  std::optional<Batch> schedule();
  // After the step: caches what was computed of prompts, for others that begin alike.
  void keep_prefixes(const Batch& batch);
  // Frees what finished requests hold.
  void drop_finished();
  // Of a batch whose model keeps states, which a step that failed has left undefined: all is
  // computed again.
  void start_over(const Batch& batch);

  std::int64_t num_waiting() const { return std::ssize(waiting_); }
  std::int64_t num_running() const { return std::ssize(running_); }
  const Counts& counts() const { return counts_; }
  // Verifies that requests, tables, slots and blocks agree; throws InvariantError. O(slots).
  void check() const;

 private:
  using Sequences = std::vector<std::shared_ptr<Sequence>>;  // by age, the oldest first

  Batch plan(bool admits);
  bool admit_first();
  // A table of what is cached, of which a look has seen so many tokens.
  std::shared_ptr<BlockTable> match(const Request& request, std::int64_t seen) const;
  bool preempt_one();
  void preempt(std::shared_ptr<Sequence> sequence);
  void let_go(Sequence& sequence);
  void cache_computed(const Sequence& sequence, std::int64_t num_tokens);
  std::int64_t blocks_for(std::int64_t num_tokens) const;
  std::int64_t blocks_missing(const Sequence& sequence) const;
  std::int64_t free_slot() const;

  const std::shared_ptr<BlockPool> pool_;
  const std::shared_ptr<PrefixCache> cache_;
  const Limits limits_;
  const std::int64_t block_size_;
  Sequences waiting_, running_;
  Counts counts_;
};

}  // namespace quire
