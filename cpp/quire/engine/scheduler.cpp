#include "quire/engine/scheduler.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "quire/base/check.h"
#include "quire/kv/ledger/invariants.h"

namespace quire {
namespace {

using Pointer = std::shared_ptr<Sequence>;

bool is_older(const Pointer& a, const Pointer& b) { return a->request->id() < b->request->id(); }

void insert_by_age(std::vector<Pointer>& sequences, Pointer sequence) {
  const auto at = std::upper_bound(sequences.begin(), sequences.end(), sequence, is_older);
  sequences.insert(at, std::move(sequence));
}

// What preempting a sequence costs and brings.
struct Price {
  std::int64_t blocks = 0;  // that nobody else uses
  std::int64_t tokens = 0;  // in them, to be computed again
};

Price price_of(const Sequence& sequence) {
  Price price;
  for (const ExplainedBlock& block : sequence.table->explain()) {
    if (block.holders.tables != 1) continue;
    ++price.blocks;
    price.tokens += block.num_tokens;
  }
  return price;
}

}  // namespace

Scheduler::Scheduler(std::shared_ptr<BlockPool> pool, std::shared_ptr<PrefixCache> cache,
                     Limits limits)
    : pool_(std::move(pool)),
      cache_(std::move(cache)),
      limits_(limits),
      block_size_(pool_->geometry().block_size) {}

std::int64_t Scheduler::blocks_for(std::int64_t num_tokens) const {
  return (num_tokens + block_size_ - 1) / block_size_;
}

std::int64_t Scheduler::blocks_missing(const Sequence& sequence) const {
  return blocks_for(std::ssize(sequence.request->known())) - blocks_for(sequence.num_computed());
}

void Scheduler::require_fits(std::int64_t num_prompt, std::int64_t max_tokens,
                             std::string_view function) const {
  // The last token of an answer is never computed. Where blocks are sealed, one that is written
  // again is copied first.
  const KvGeometry& geometry = pool_->geometry();
  const std::int64_t needed =
      blocks_for(num_prompt + max_tokens - 1) + (geometry.opens_blocks() ? 1 : 0);
  if (needed <= geometry.num_blocks) return;
  raise<OutOfBlocks>(place(function, "max_tokens"), "got ", max_tokens, " after a prompt of ",
                     counted(num_prompt, "token"), ", which take ", counted(needed, "block"),
                     " of ", counted(block_size_, "token"), ", expected at most the ",
                     geometry.num_blocks, " of the engine's pool");
}

void Scheduler::add(std::shared_ptr<Request> request) {
  auto sequence = std::make_shared<Sequence>();
  sequence->request = std::move(request);
  waiting_.push_back(std::move(sequence));
}

std::optional<Batch> Scheduler::schedule() {
  drop_finished();
  // Who was preempted waits for a step at least, or it would be admitted right back.
  for (bool admits = true;; admits = false) {
    Batch batch = plan(admits);
    if (batch.entries.empty()) {
      if (waiting_.empty()) return std::nullopt;
      // submit has refused what does not fit, so that one of them always runs.
      raise<InvariantError>("Scheduler.schedule: waiting", "nobody runs, and request ",
                            waiting_.front()->request->id(), " is not admitted");
    }
    std::vector<std::shared_ptr<BlockTable>> tables;
    std::vector<std::int64_t> counts;
    for (const Batch::Entry& entry : batch.entries) {
      tables.push_back(entry.sequence->table);
      counts.push_back(entry.num_tokens);
    }
    try {
      batch.step = std::make_unique<Step>(std::move(tables), counts);
      return batch;
    } catch (const OutOfBlocks&) {
      if (!preempt_one()) throw;
    }
  }
}

Batch Scheduler::plan(bool admits) {
  Batch batch;
  std::int64_t left = limits_.max_batch_tokens;
  const auto take = [&](const Pointer& sequence, std::int64_t missing) {
    const std::int64_t count = std::min(missing, left);
    if (count == 0) return;
    batch.entries.push_back({sequence, count, count == missing});
    left -= count;
  };
  const auto missing_of = [](const Pointer& sequence) {
    return std::ssize(sequence->request->known()) - sequence->num_computed();
  };
  std::vector<std::int64_t> missing;  // looked up once, as another thread may end requests
  for (const Pointer& sequence : running_) missing.push_back(missing_of(sequence));
  for (std::size_t i = 0; i < missing.size(); ++i) {
    if (missing[i] == 1) take(running_[i], 1);
  }
  for (std::size_t i = 0; i < missing.size(); ++i) {
    if (missing[i] > 1) take(running_[i], missing[i]);
  }
  while (admits && left > 0 && !waiting_.empty()) {
    const Pointer first = waiting_.front();
    if (!admit_first()) break;
    take(first, missing_of(first));
  }
  return batch;
}

bool Scheduler::admit_first() {
  if (std::ssize(running_) >= limits_.max_sequences) return false;
  const Pointer sequence = waiting_.front();
  Request& request = *sequence->request;
  std::int64_t promised = 0;
  for (const Pointer& other : running_) promised += blocks_missing(*other);
  const std::int64_t watermark = running_.empty() ? 0 : std::ssize(running_) + 1;
  // A first look takes nothing: whoever waits looks again at each step.
  const auto fits = [&](std::int64_t cached_blocks) {
    const PoolStats stats = pool_->stats();
    const std::int64_t needed = blocks_for(std::ssize(request.known())) - cached_blocks;
    return needed + promised + watermark <= stats.free + stats.cached;
  };
  const std::string& space = request.options().cache_space;
  const std::int64_t seen = cache_ == nullptr ? 0 : cache_->peek(request.known(), space);
  if (!fits(seen / block_size_)) return false;
  sequence->table = match(request, seen);
  // Cached blocks that it now uses are none that the pool could give up any more.
  const std::int64_t matched = sequence->num_computed();
  if (!fits(blocks_for(matched))) {
    sequence->table = nullptr;
    return false;
  }
  sequence->slot = free_slot();
  if (!std::exchange(sequence->has_run, true)) {
    request.set_num_cached_tokens(matched);
    counts_.prompt_tokens += request.num_prompt_tokens();
    counts_.cached_tokens += matched;
  }
  waiting_.erase(waiting_.begin());
  insert_by_age(running_, sequence);
  return true;
}

std::shared_ptr<BlockTable> Scheduler::match(const Request& request, std::int64_t seen) const {
  if (cache_ == nullptr) return std::make_shared<BlockTable>(pool_);
  const std::string& space = request.options().cache_space;
  const auto known = request.known();
  try {
    return cache_->match(known, space);
  } catch (const OutOfBlocks&) {
    // Rows of a block that begins alike would be copied, and every other block is needed: without
    // them that block can go.
    const std::int64_t whole = seen / block_size_ * block_size_;
    return cache_->match(known.first(static_cast<std::size_t>(whole) + 1), space);
  }
}

std::int64_t Scheduler::free_slot() const {
  std::set<std::int64_t> used;
  for (const Pointer& sequence : running_) used.insert(sequence->slot);
  std::int64_t slot = 0;
  while (used.contains(slot)) ++slot;
  return slot;
}

bool Scheduler::preempt_one() {
  if (running_.size() < 2) return false;
  using Cost = std::tuple<bool, std::int64_t, std::int64_t>;
  const auto cost_of = [](const Sequence& sequence) {
    const Price price = price_of(sequence);
    return Cost(price.blocks == 0, price.tokens, -sequence.request->id());
  };
  std::size_t cheapest = 1;  // the oldest stays
  Cost least = cost_of(*running_[cheapest]);
  for (std::size_t i = 2; i < running_.size(); ++i) {
    const Cost cost = cost_of(*running_[i]);
    if (least <= cost) continue;
    cheapest = i;
    least = cost;
  }
  ++counts_.preemptions;
  counts_.tokens_to_recompute += std::get<1>(least);
  preempt(running_[cheapest]);
  return true;
}

// By value, as the caller's may be an element of running_.
void Scheduler::preempt(std::shared_ptr<Sequence> sequence) {
  cache_computed(*sequence, sequence->num_computed());
  let_go(*sequence);
  std::erase(running_, sequence);
  insert_by_age(waiting_, std::move(sequence));
}

void Scheduler::start_over(const Batch& batch) {
  for (const Batch::Entry& entry : batch.entries) preempt(entry.sequence);
}

void Scheduler::let_go(Sequence& sequence) {
  sequence.table->close();  // a step may hold it still
  sequence.table = nullptr;
  sequence.slot = -1;
}

void Scheduler::cache_computed(const Sequence& sequence, std::int64_t num_tokens) {
  if (cache_ == nullptr) return;
  const auto known = sequence.request->known();
  cache_->insert(known.first(static_cast<std::size_t>(num_tokens)), *sequence.table,
                 sequence.request->options().cache_space);
}

// Whole blocks alone: a sequence that goes on in a block which a cache has too would copy it.
void Scheduler::keep_prefixes(const Batch& batch) {
  for (const Batch::Entry& entry : batch.entries) {
    const std::int64_t computed = entry.sequence->num_computed();
    if (computed - entry.num_tokens >= entry.sequence->request->num_prompt_tokens()) continue;
    cache_computed(*entry.sequence, computed / block_size_ * block_size_);
  }
}

void Scheduler::drop_finished() {
  const auto is_finished = [](const Pointer& s) { return s->request->is_finished(); };
  std::erase_if(waiting_, is_finished);
  for (auto at = running_.begin(); at != running_.end();) {
    if (!is_finished(*at)) {
      ++at;
      continue;
    }
    const Pointer sequence = *at;
    at = running_.erase(at);  // first: where caching throws, it is gone all the same
    cache_computed(*sequence, sequence->num_computed());
    let_go(*sequence);
  }
}

void Scheduler::check() const {
  const auto require = [](std::string_view what, std::int64_t request, bool holds) {
    if (holds) return;
    raise<InvariantError>(place("Scheduler.check", what), "of request ", request);
  };
  std::set<std::int64_t> slots;
  for (const Pointer& sequence : running_) {
    const std::int64_t id = sequence->request->id();
    sequence->table->check();
    require("slots are different", id, slots.insert(sequence->slot).second);
    require("slots are below max_sequences", id, sequence->slot < limits_.max_sequences);
    require("computed tokens are known", id,
            sequence->num_computed() <= std::ssize(sequence->request->known()));
  }
  for (const Pointer& sequence : waiting_) {
    const std::int64_t id = sequence->request->id();
    require("what waits holds nothing", id, sequence->table == nullptr && sequence->slot == -1);
  }
  require("older ones stand first", -1, std::is_sorted(running_.begin(), running_.end(), is_older));
  require("older ones stand first", -1, std::is_sorted(waiting_.begin(), waiting_.end(), is_older));
  pool_->check();
}

}  // namespace quire
