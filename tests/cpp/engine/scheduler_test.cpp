#include "quire/engine/scheduler.h"

#include <gtest/gtest.h>

#include <random>
#include <utility>

#include "quire/paged/make_pool.h"
#include "support/sampled_cases.h"

namespace quire {

// A scheduler without a model: what is scheduled counts as computed.
class SchedulerTest : public ::testing::Test {
 protected:
  using Counts = std::vector<std::pair<std::int64_t, std::int64_t>>;  // request, tokens

  void make(std::int64_t num_blocks, std::int64_t max_batch_tokens, std::int64_t max_sequences,
            bool caches = false) {
    pool_ = make_pool({.num_blocks = num_blocks,
                       .block_size = 4,
                       .num_kv_heads = 1,
                       .head_dim = 1,
                       .v_head_dim = 1});
    scheduler_ =
        std::make_unique<Scheduler>(pool_, caches ? std::make_shared<PrefixCache>(pool_) : nullptr,
                                    Scheduler::Limits{max_batch_tokens, max_sequences});
  }

  std::shared_ptr<Request> add(std::int64_t num_prompt, std::int64_t max_tokens,
                               std::int64_t first_id = 0) {
    RequestOptions options;
    options.max_tokens = max_tokens;
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < num_prompt; ++i) ids.push_back(first_id + i);
    const std::int64_t number = std::ssize(requests_);
    requests_.push_back(std::make_shared<Request>(number, ids, options));
    scheduler_->add(requests_.back());
    return requests_.back();
  }

  // What a step has, and a token for each request that has caught up.
  Counts step() {
    std::optional<Batch> batch = scheduler_->schedule();
    Counts counts;
    if (batch) {
      for (const Batch::Entry& entry : batch->entries) {
        Request& request = *entry.sequence->request;
        counts.emplace_back(request.id(), entry.num_tokens);
        EXPECT_EQ(entry.catches_up, entry.sequence->num_computed() == std::ssize(request.known()));
        if (entry.catches_up) request.add(1000 + request.num_generated(), std::nullopt, {});
      }
      scheduler_->keep_prefixes(*batch);
    }
    scheduler_->drop_finished();
    scheduler_->check();
    return counts;
  }

  std::shared_ptr<BlockPool> pool_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::shared_ptr<Request>> requests_;
};

namespace {

TEST_F(SchedulerTest, AnswersGoFirstThenPromptsInTheirOrder) {
  make(100, 10, 8);
  add(4, 5);
  EXPECT_EQ(step(), (Counts{{0, 4}}));
  add(12, 5);
  add(6, 5);
  EXPECT_EQ(step(), (Counts{{0, 1}, {1, 9}}));
  EXPECT_EQ(step(), (Counts{{0, 1}, {1, 3}, {2, 6}}));
  EXPECT_EQ(step(), (Counts{{0, 1}, {1, 1}, {2, 1}}));
}

TEST_F(SchedulerTest, RunsAtMostSoManySequences) {
  make(100, 100, 2);
  for (int i = 0; i < 4; ++i) add(5, 2);
  EXPECT_EQ(step(), (Counts{{0, 5}, {1, 5}}));
  EXPECT_EQ(step(), (Counts{{0, 1}, {1, 1}}));
  EXPECT_EQ(step(), (Counts{{2, 5}, {3, 5}}));
}

// The whole prompt counts, though only a part of it is computed now, beside what the others miss
// and a block for each.
TEST_F(SchedulerTest, AdmitsAPromptThatHasRoomToItsEnd) {
  make(10, 4, 8);
  add(16, 1);  // 4 blocks
  add(16, 1);  // 4 more, and a watermark of 2: just so
  EXPECT_EQ(step(), (Counts{{0, 4}}));
  EXPECT_EQ(scheduler_->num_running(), 1);  // no tokens were left for the second one
  make(9, 100, 8);
  add(4, 9);
  add(16, 2);
  add(12, 1);
  step();
  EXPECT_EQ(scheduler_->num_running(), 2);
  EXPECT_EQ(scheduler_->num_waiting(), 1);  // 3 blocks of the 4 that are left, but 3 have to stay
}

TEST_F(SchedulerTest, WhoWaitsIsNotOvertaken) {
  make(8, 100, 8);
  add(12, 20);
  add(24, 1);  // too long beside the first one
  add(1, 1);   // would fit
  EXPECT_EQ(step(), (Counts{{0, 12}}));
  EXPECT_EQ(scheduler_->num_waiting(), 2);
}

// The one with the fewest tokens to compute again goes, never the oldest, and comes back first.
TEST_F(SchedulerTest, PreemptsWhoLosesLeast) {
  make(9, 100, 8);
  add(2, 30);  // the oldest, though it would lose least
  add(9, 20);
  add(5, 20);
  step();
  EXPECT_EQ(scheduler_->num_running(), 3);
  std::int64_t steps = 1;
  while (scheduler_->counts().preemptions == 0) {
    step();
    ++steps;
  }
  EXPECT_EQ(scheduler_->num_running(), 2);
  // it keeps the tokens that it has
  EXPECT_EQ(requests_[2]->num_generated(), steps - 1);
  EXPECT_EQ(scheduler_->counts().tokens_to_recompute, 5 + steps - 2);
  add(1, 1);
  const std::int64_t generated = requests_[2]->num_generated();
  while (requests_[2]->num_generated() == generated) {
    for (const auto& [request, tokens] : step()) {
      EXPECT_TRUE(request != 3 || requests_[2]->num_generated() > generated);
    }
  }
}

// Prefixes that nobody uses go before anybody is preempted.
TEST_F(SchedulerTest, ColdPrefixesGoFirst) {
  make(8, 100, 8, true);
  add(20, 1, 500);
  step();
  EXPECT_EQ(pool_->stats().cached, 5);
  add(8, 12);
  add(4, 1);
  while (!requests_[1]->is_finished()) step();
  EXPECT_EQ(scheduler_->counts().preemptions, 0);
  EXPECT_EQ(requests_[1]->num_generated(), 12);
}

// What was computed is cached, so that little of it is lost.
TEST_F(SchedulerTest, WhoWasPreemptedFindsMostOfItAgain) {
  make(12, 100, 8, true);
  add(17, 20);
  add(17, 20, 500);
  bool was_preempted = false;
  std::int64_t recomputed = 0;
  for (Counts counts = step(); !counts.empty(); counts = step()) {
    for (const auto& [request, tokens] : counts) {
      if (was_preempted && request == 1 && tokens > 1) recomputed += tokens;
    }
    was_preempted = was_preempted || scheduler_->counts().preemptions > 0;
  }
  EXPECT_TRUE(was_preempted);
  EXPECT_EQ(requests_[1]->num_generated(), 20);
  EXPECT_EQ(requests_[1]->num_cached_tokens(), 0);  // none of its prompt, when it first ran
}

// Whatever comes and goes: all end, and nothing is held then.
TEST_F(SchedulerTest, AllComeToAnEnd) {
  for (std::uint32_t seed = 0; seed < testing::num_cases(30); ++seed) {
    std::mt19937 random(seed);
    requests_.clear();
    make(12, 1 + random() % 30, 1 + random() % 12, seed % 2 == 0);
    for (int i = 0; i < 150; ++i) {
      if (random() % 3 == 0) {
        const std::int64_t prompt = 1 + random() % 25, answer = 1 + random() % 20;
        scheduler_->require_fits(prompt, answer, "test");
        add(prompt, answer, random() % 2 * 100);
      }
      if (random() % 10 == 0 && !requests_.empty()) {
        requests_[random() % requests_.size()]->cancel();
      }
      step();
    }
    for (int steps = 0; scheduler_->num_waiting() + scheduler_->num_running() > 0; ++steps) {
      ASSERT_LT(steps, 20000);
      step();
    }
    EXPECT_EQ(pool_->stats().used, pool_->stats().cached);
    for (const auto& request : requests_) EXPECT_TRUE(request->is_finished());
  }
}

}  // namespace
}  // namespace quire
