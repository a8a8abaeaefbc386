// Random submissions, cancellations and failures in a pool that has far too little for them.
#include <gtest/gtest.h>

#include <map>
#include <stdexcept>

#include "engine/small_engine.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

struct Pressed {
  std::shared_ptr<ToyModel> model;
  bool prefix_cache;
};

// Prompts of up to 60 tokens, half of which begin alike, and answers of up to 40. One that is
// cancelled has a beginning of the answer; all others have all of it.
void submit_cancel_and_step(const Pressed& kind, std::uint32_t seed, unsigned num_requests,
                            std::int64_t& preemptions) {
  std::mt19937 random(seed);
  const auto below = [&](std::uint32_t n) { return static_cast<std::int64_t>(random() % n); };
  // At most 64 requests are under way at a time, of 25 blocks each if they were as long as can be:
  // 3 % of what they need, rounded up, and never less than one of them takes.
  EngineOptions options = small_engine(48);
  options.prefix_cache = kind.prefix_cache;
  options.max_batch_tokens = 1 + below(60);
  options.max_sequences = 1 + below(40);
  Engine engine(kind.model, options);
  bool fails = false;
  kind.model->during = [&](const ForwardArgs&) {
    if (fails) throw std::runtime_error("now and then");
  };

  struct UnderWay {
    Ids prompt;
    std::int64_t max_tokens;
    bool was_cancelled = false;
  };
  std::map<std::shared_ptr<Request>, UnderWay> requests;
  std::int64_t submitted = 0;
  const auto is_right = [](const Request& request, const UnderWay& asked) {
    const Ids expected = greedy_answer(asked.prompt, asked.max_tokens), got = request.token_ids();
    if (!asked.was_cancelled) return got == expected;
    return std::equal(got.begin(), got.end(), expected.begin());
  };
  while (submitted < num_requests || !requests.empty()) {
    for (std::int64_t n = below(4); n > 0 && submitted < num_requests && requests.size() < 64;
         --n) {
      Ids prompt = below(2) == 0 ? random_prompt(5, 1 + below(40)) : Ids{};
      for (const std::int64_t id : random_prompt(random(), 1 + below(20))) prompt.push_back(id);
      const std::int64_t max_tokens = 1 + below(40);
      const auto request = engine.submit(prompt, {.max_tokens = max_tokens});
      requests[request] = {prompt, max_tokens};
      ++submitted;
    }
    if (below(8) == 0 && !requests.empty()) {
      auto& [request, asked] = *std::next(requests.begin(), below(requests.size()));
      asked.was_cancelled = true;
      request->cancel();
    }
    fails = below(20) == 0;
    try {
      engine.step();
    } catch (const std::runtime_error&) {
      ASSERT_TRUE(fails);
    }
    ASSERT_NO_THROW(engine.check());
    for (auto at = requests.begin(); at != requests.end();) {
      const auto& [request, asked] = *at;
      if (!request->is_finished()) {
        ++at;
        continue;
      }
      ASSERT_TRUE(is_right(*request, asked)) << "request " << request->id() << ", seed " << seed;
      at = requests.erase(at);
    }
  }
  engine.step();  // which frees what was cancelled last
  engine.check();
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.pool.used, stats.pool.cached);
  EXPECT_EQ(stats.finished, num_requests);
  EXPECT_EQ(stats.waiting + stats.running, 0);
  if (!kind.prefix_cache) {
    EXPECT_EQ(stats.pool.used, 0);
  }
  preemptions += stats.preemptions;
}

TEST(EngineStress, NothingIsLostOrLeaksUnderPressure) {
  std::int64_t preemptions = 0;
  for (std::uint32_t seed = 0; seed < num_cases(12); ++seed) {
    for (const bool prefix_cache : {true, false}) {
      submit_cancel_and_step({std::make_shared<ToyModel>(), prefix_cache}, seed, 200, preemptions);
    }
  }
  EXPECT_GT(preemptions, 100);
}

TEST(EngineStress, RecurrentStatesAreNeverMixedUp) {
  std::int64_t preemptions = 0;
  for (std::uint32_t seed = 0; seed < num_cases(12); ++seed) {
    submit_cancel_and_step({std::make_shared<RecurrentToyModel>(), false}, seed, 200, preemptions);
  }
  EXPECT_GT(preemptions, 50);
}

}  // namespace
}  // namespace quire::testing
