// Answers many prompts at once with one model.
//
//   Engine engine(model, {});
//   const auto request = engine.submit(prompt_ids, {.max_tokens = 100});
//   while (!request->is_finished()) engine.step();
//
// A step takes some tokens of many requests through the model in one forward pass, chooses a token
// for each request of which all tokens are computed, and gives back the blocks of those that have
// finished. Which tokens those are, and whose, scheduler.h decides; the model knows nothing of it.
//
// A request's tokens depend on its prompt and options alone: on a build whose attention has the
// same bits for a token in any chunk ("chunk_invariant"), and in a pool that opens no blocks, to
// the bit, however it was batched, cut, found in the prefix cache, or preempted.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/cpu/execution.h"
#include "quire/engine/choose_tokens.h"
#include "quire/engine/engine_stats.h"
#include "quire/engine/request.h"
#include "quire/engine/scheduler.h"
#include "quire/model/model.h"

namespace quire {

struct EngineOptions {
  std::optional<std::int64_t> num_blocks;  // of the pool; none: pool_size.h chooses
  DType dtype = DType::bfloat16;           // of keys and values
  std::int64_t block_size = 16;
  bool prefix_cache = true;  // a model with recurrent states has none all the same
  std::int64_t max_batch_tokens = 512;
  std::int64_t max_sequences = 256;
  std::string draft = "none";
  int num_threads = 0;  // 0: default_num_threads()
};

// submit() and stats(), and all that requests offer, may be called from any thread at any time;
// steps are made by one thread at a time, others wait.
class Engine {
 public:
  // Throws ValueError for an option out of its range, OutOfMemory where the pool does not fit. Of a
  // model with recurrent states as many sequences run at the same time as have their states in a
  // quarter of the memory that is available, at least one.
  Engine(std::shared_ptr<const Model> model, const EngineOptions& options);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Model& model() const { return *model_; }
  const std::shared_ptr<BlockPool>& pool() const { return pool_; }

  // Queues a request. Throws ValueError or IndexError for what check_request refuses, and
  // ValueError or OutOfBlocks for one that would never fit: of more positions than the model has,
  // or of more blocks than the pool has. Nothing is queued then.
  std::shared_ptr<Request> submit(std::vector<std::int64_t> prompt_ids,
                                  RequestOptions options = {});

  // One forward pass; returns the requests that got a token, the oldest first. Whatever throws, as
  // an interruption does, has changed no request: they keep their tokens, and the next step goes on
  // from there.
  std::vector<std::shared_ptr<Request>> step();

  // Whether a step would have something to do.
  bool has_unfinished() const;
  EngineStats stats() const;
  // Verifies what all books say of each other; throws InvariantError on the first that fails.
  void check();

 private:
  // Adds the seconds since it was made, or asked last, to those of a part.
  class Stopwatch {
   public:
    void add_to(double& seconds) {
      const auto now = Clock::now();
      seconds += std::chrono::duration<double>(now - since_).count();
      since_ = now;
    }

   private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point since_ = Clock::now();
  };

  void take_submitted();
  std::vector<std::shared_ptr<Request>> run_step();
  std::vector<ChosenToken> compute(const Batch& batch, Stopwatch& watch);
  ArrayView logits_for(std::int64_t num_rows);
  std::vector<std::shared_ptr<Request>> add_tokens(const Batch& batch,
                                                   std::vector<ChosenToken> chosen);
  void tell();

  const std::shared_ptr<const Model> model_;
  const Execution how_;
  std::shared_ptr<RecurrentStates> states_;  // null: the model keeps none
  std::shared_ptr<BlockPool> pool_;
  std::shared_ptr<PrefixCache> cache_;  // null: prefixes are not kept
  Workers workers_;

  CallMutex stepping_;  // held through a step; guards what follows
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<float> logits_;
  EngineStats counts_;

  mutable PoolMutex books_;  // held for a moment; guards what follows
  std::int64_t next_id_ = 0;
  std::vector<std::shared_ptr<Request>> submitted_;  // since the last step
  EngineStats told_;  // counts_, as they were when a step was done last
};

}  // namespace quire
