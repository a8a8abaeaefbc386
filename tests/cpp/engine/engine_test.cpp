#include "quire/engine/engine.h"

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>
#include <thread>

#include "engine/small_engine.h"

namespace quire::testing {
namespace {

// A request's answer in full.
struct Answer {
  Ids ids;
  std::vector<double> chosen;
  std::vector<Ids> likeliest;
  FinishReason reason;

  explicit Answer(const Request& request)
      : ids(request.token_ids()), reason(request.finish_reason()) {
    for (const TokenLogprobs& token : request.logprobs()) {
      chosen.push_back(token.chosen);
      likeliest.emplace_back();
      for (const auto& likely : token.top) likeliest.back().push_back(likely.id);
    }
  }
  bool operator==(const Answer&) const = default;
};

struct Asked {
  Ids prompt;
  RequestOptions options;
};

// Of many kinds: greedy and sampled, with penalties and log probabilities, some that begin alike.
std::vector<Asked> asked_requests(std::size_t count) {
  std::vector<Asked> all;
  for (std::uint32_t i = 0; i < count; ++i) {
    Asked asked{random_prompt(i % 7, 5 + i % 23), {}};
    const Ids own = random_prompt(100 + i, 1 + i % 11);
    asked.prompt.insert(asked.prompt.end(), own.begin(), own.end());
    asked.options.max_tokens = 1 + i % 17;
    asked.options.logprobs = i % 3;
    if (i % 2 == 1) {
      asked.options.choice = {.seed = i, .temperature = 0.5 + 0.1 * (i % 9)};
      asked.options.choice.top_k = i % 5 * 4;
      asked.options.choice.top_p = i % 4 == 3 ? 0.8 : 1.0;
    }
    if (i % 5 == 2) asked.options.choice.repetition_penalty = 1.3;
    if (i % 5 == 3) asked.options.choice.frequency_penalty = 0.7;
    all.push_back(asked);
  }
  return all;
}

// Each in an engine of its own, whole prompts, nothing cached.
std::vector<Answer> answers_alone(const std::shared_ptr<const Model>& model,
                                  const std::vector<Asked>& all) {
  std::vector<Answer> answers;
  EngineOptions options = small_engine();
  options.prefix_cache = false;
  for (const Asked& asked : all) {
    Engine engine(model, options);
    const auto request = engine.submit(asked.prompt, asked.options);
    run(engine);
    answers.emplace_back(*request);
  }
  return answers;
}

TEST(Engine, AnswersAsTheModelSays) {
  Engine engine(std::make_shared<ToyModel>(), small_engine());
  for (std::uint32_t i = 0; i < 12; ++i) {
    const Ids prompt = random_prompt(i, 1 + 5 * i);
    const auto request = engine.submit(prompt, {.max_tokens = 40});
    EXPECT_EQ(request->prompt_ids(), prompt);
    EXPECT_EQ(request->finish_reason(), FinishReason::none);
    run(engine);
    const Ids expected = greedy_answer(prompt, 40);
    EXPECT_EQ(request->token_ids(), expected);
    EXPECT_EQ(request->finish_reason(),
              expected.back() == kStopWord ? FinishReason::stop : FinishReason::length);
  }
}

// Alone, among 200, cut into chunks, found in the prefix cache, preempted, with few at a time: a
// request's answer has the same tokens and log probabilities.
TEST(Engine, AnswersTheSameHoweverItIsScheduled) {
  const std::vector<Asked> all = asked_requests(200);
  const std::shared_ptr<const Model> models[] = {std::make_shared<ToyModel>(),
                                                 std::make_shared<RecurrentToyModel>()};
  for (const auto& model : models) {
    const bool keeps_states = model->make_states(1) != nullptr;
    const std::vector<Answer> expected = answers_alone(model, all);
    struct Case {
      std::string name;
      std::int64_t num_blocks, max_batch_tokens, max_sequences;
      bool prefix_cache;
    };
    const Case cases[] = {
        {"together", 4000, 4096, 256, false},       {"prefix cache", 4000, 4096, 256, true},
        {"chunks of 7", 4000, 7, 256, false},       {"one token at a time", 4000, 1, 256, true},
        {"three at a time", 4000, 64, 3, true},     {"pressed", 14, 32, 16, false},
        {"pressed, prefix cache", 14, 32, 16, true}};
    for (const Case& how : cases) {
      SCOPED_TRACE(how.name + (keeps_states ? ", recurrent" : ""));
      EngineOptions options = small_engine(how.num_blocks);
      options.max_batch_tokens = how.max_batch_tokens;
      options.max_sequences = how.max_sequences;
      options.prefix_cache = how.prefix_cache;
      Engine engine(model, options);
      Requests requests;
      for (const Asked& asked : all) requests.push_back(engine.submit(asked.prompt, asked.options));
      run(engine);
      for (std::size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(Answer(*requests[i]), expected[i]) << "request " << i;
      }
      const EngineStats stats = engine.stats();
      EXPECT_EQ(stats.pool.used, stats.pool.cached);
      EXPECT_EQ(stats.finished, 200);
      EXPECT_EQ(stats.running + stats.waiting, 0);
      EXPECT_EQ(stats.preemptions > 0, how.num_blocks == 14);
      EXPECT_EQ(stats.cached_tokens > 0, how.prefix_cache && !keeps_states);
      if (keeps_states) {
        EXPECT_EQ(stats.prefix_cache_reason, "off: the model keeps recurrent states");
      }
    }
  }
}

TEST(Engine, ReusesPrefixesOfOneNamespaceAlone) {
  Engine engine(std::make_shared<ToyModel>(), small_engine());
  const Ids prompt = random_prompt(1, 30);
  const auto ask = [&](const std::string& space) {
    const auto request = engine.submit(prompt, {.max_tokens = 5, .cache_space = space});
    run(engine);
    return request;
  };
  const auto first = ask("a");
  EXPECT_EQ(first->num_cached_tokens(), 0);
  EXPECT_EQ(ask("a")->num_cached_tokens(), 29);  // all but the last, which is asked about
  EXPECT_EQ(ask("")->num_cached_tokens(), 0);
  EXPECT_EQ(ask("b")->num_cached_tokens(), 0);
  const auto again = ask("b");
  EXPECT_EQ(again->num_cached_tokens(), 29);
  EXPECT_EQ(again->token_ids(), first->token_ids());
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.prompt_tokens, 150);
  EXPECT_EQ(stats.cached_tokens, 58);
}

// A prompt that is still being computed, a chunk at a time, serves those that come later.
TEST(Engine, SharesThePrefixOfAPromptThatIsUnderWay) {
  EngineOptions options = small_engine();
  options.max_batch_tokens = 8;
  Engine engine(std::make_shared<ToyModel>(), options);
  const auto first = engine.submit(random_prompt(1, 40), {.max_tokens = 3});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(engine.step().empty());
  Ids longer = random_prompt(1, 40);
  longer.push_back(7);
  const auto second = engine.submit(longer, {.max_tokens = 3});
  run(engine);
  EXPECT_GE(second->num_cached_tokens(), 24);
  EXPECT_EQ(first->token_ids(), greedy_answer(first->prompt_ids(), 3));
  EXPECT_EQ(second->token_ids(), greedy_answer(longer, 3));
}

TEST(Engine, StepReturnsThoseThatGotAToken) {
  EngineOptions options = small_engine();
  options.max_batch_tokens = 10;
  Engine engine(std::make_shared<ToyModel>(), options);
  EXPECT_TRUE(engine.step().empty());
  EXPECT_FALSE(engine.has_unfinished());
  const auto short_one = engine.submit(random_prompt(1, 4), {.max_tokens = 3});
  const auto long_one = engine.submit(random_prompt(2, 20), {.max_tokens = 3});
  EXPECT_TRUE(engine.has_unfinished());
  EXPECT_EQ(engine.step(), Requests{short_one});  // 4, and 6 of the long one
  EXPECT_EQ(engine.step(), Requests{short_one});  // 1, and 9
  EXPECT_EQ(engine.step(), (Requests{short_one, long_one}));
  EXPECT_EQ(short_one->finish_reason(), FinishReason::length);
  EXPECT_EQ(engine.step(), Requests{long_one});
}

TEST(Engine, CancelAndStopFreeBlocksWithinAStep) {
  EngineOptions options = small_engine();
  options.prefix_cache = false;
  Engine engine(std::make_shared<ToyModel>(), options);
  const auto cancelled = engine.submit(random_prompt(1, 30), {.max_tokens = 90});
  const auto stopped = engine.submit(random_prompt(2, 30), {.max_tokens = 90});
  const auto never_ran = engine.submit(random_prompt(3, 30));
  never_ran->cancel();
  for (int i = 0; i < 4; ++i) engine.step();
  EXPECT_EQ(never_ran->num_generated(), 0);
  EXPECT_GT(engine.pool()->num_used(), 0);
  cancelled->cancel();
  EXPECT_THROW(stopped->stop(5), ValueError);
  EXPECT_THROW(stopped->stop(-1), ValueError);
  EXPECT_FALSE(stopped->is_finished());
  stopped->stop(2);
  cancelled->stop();  // too late
  EXPECT_TRUE(engine.step().empty());
  EXPECT_EQ(engine.pool()->num_used(), 0);
  EXPECT_EQ(cancelled->finish_reason(), FinishReason::cancelled);
  EXPECT_EQ(cancelled->num_generated(), 4);
  EXPECT_EQ(stopped->finish_reason(), FinishReason::stop);
  Ids expected = greedy_answer(random_prompt(2, 30), 90);
  expected.resize(2);
  EXPECT_EQ(stopped->token_ids(), expected);
  EXPECT_FALSE(engine.has_unfinished());
  EXPECT_EQ(engine.stats().finished, 3);
}

// One that is ended in the middle of a forward pass gets no token of it.
TEST(Engine, CancelDuringAForwardPass) {
  const auto model = std::make_shared<ToyModel>();
  Engine engine(model, small_engine());
  const auto cancelled = engine.submit(random_prompt(1, 9));
  const auto other = engine.submit(random_prompt(2, 9), {.max_tokens = 4});
  model->during = [&](const ForwardArgs&) { cancelled->cancel(); };
  EXPECT_EQ(engine.step(), Requests{other});
  EXPECT_EQ(cancelled->num_generated(), 0);
  EXPECT_EQ(engine.stats().running, 1);
  run(engine);
  EXPECT_EQ(other->token_ids(), greedy_answer(random_prompt(2, 9), 4));
}

// Every forward pass of a run fails once, in turn: an error each time, nothing is lost or leaked.
// A server asks from another thread whether there is something to do.
TEST(Engine, SaysWhatIsUnderWayDuringItsFirstStepToo) {
  const auto model = std::make_shared<ToyModel>();
  Engine engine(model, small_engine());
  int asked = 0;
  model->during = [&](const ForwardArgs&) {
    ++asked;
    EXPECT_TRUE(engine.has_unfinished());
    EXPECT_EQ(engine.stats().finished, 0);
  };
  engine.submit({1, 2}, {.max_tokens = 2, .ignore_eos = true});
  engine.submit({3}, {.max_tokens = 2, .ignore_eos = true});
  run(engine);
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(engine.stats().finished, 2);
}

TEST(Engine, GoesOnAfterAModelThatThrows) {
  for (const bool keeps_states : {false, true}) {
    std::shared_ptr<ToyModel> model = std::make_shared<ToyModel>();
    if (keeps_states) model = std::make_shared<RecurrentToyModel>();
    EngineOptions options = small_engine(40);
    options.max_batch_tokens = 12;
    Engine engine(model, options);
    Requests requests;
    for (std::uint32_t i = 0; i < 8; ++i) {
      requests.push_back(engine.submit(random_prompt(i, 3 + 4 * i), {.max_tokens = 6}));
    }
    std::int64_t calls = 0, failures = 0;
    model->during = [&](const ForwardArgs& args) {
      if (calls++ % 2 == 1) return;
      if (args.states != nullptr) {  // what was begun with
        *reinterpret_cast<float*>(args.states->matrices(0).at(args.state_slots[0])) = 99;
      }
      throw std::runtime_error("a model that fails");
    };
    while (engine.has_unfinished()) {
      std::vector<Ids> before;
      for (const auto& request : requests) before.push_back(request->token_ids());
      try {
        engine.step();
      } catch (const std::runtime_error&) {
        ++failures;
        for (std::size_t i = 0; i < before.size(); ++i) {
          EXPECT_EQ(requests[i]->token_ids(), before[i]);
        }
      }
      engine.check();
      // A recurrent model starts over each time, so that it needs some luck in between.
      if (keeps_states && failures == 5) model->during = nullptr;
    }
    for (const auto& request : requests) {
      EXPECT_EQ(request->token_ids(), greedy_answer(request->prompt_ids(), 6));
    }
    const EngineStats stats = engine.stats();
    EXPECT_EQ(stats.failed_steps, failures);
    EXPECT_GE(failures, 5);
    EXPECT_EQ(stats.pool.used, stats.pool.cached);
  }
}

// Logits that are not finite are an error that names the request, and the others go on without it.
TEST(Engine, NamesTheRequestWhoseLogitsAreBad) {
  class BadModel : public ToyModel {
   public:
    void forward(const ForwardArgs& args, const Execution& how) const override {
      ToyModel::forward(args, how);
      for (std::size_t row = 0; row < args.logit_rows.size(); ++row) {
        const std::int64_t token = args.token_ids[args.logit_rows[row]];
        auto* const logits = reinterpret_cast<float*>(args.logits.at(row));
        if (token == 13) logits[5] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  };
  Engine engine(std::make_shared<BadModel>(), small_engine());
  const auto good = engine.submit({1, 2, 3}, {.max_tokens = 1});
  const auto bad = engine.submit({4, 13}, {.max_tokens = 1});
  try {
    engine.step();
    ADD_FAILURE() << "a NaN was sampled";
  } catch (const ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("request 1: "), std::string::npos) << error.what();
  }
  EXPECT_EQ(good->num_generated(), 0);
  bad->cancel();
  EXPECT_EQ(engine.step(), Requests{good});
  EXPECT_EQ(engine.stats().failed_steps, 1);
}

// Submitting, cancelling and looking on from other threads while one makes steps.
TEST(Engine, ServesThreads) {
  EngineOptions options = small_engine(60);
  options.num_threads = 2;
  Engine engine(std::make_shared<ToyModel>(), options);
  std::atomic<int> callers{3};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::uint32_t caller = 0; caller < 3; ++caller) {
    threads.emplace_back([&, caller] {
      for (std::uint32_t i = 0; i < 20; ++i) {
        const Ids prompt = random_prompt(caller * 100 + i, 1 + i);
        const auto request = engine.submit(prompt, {.max_tokens = 5});
        if (i % 5 == 4) request->cancel();
        while (!request->is_finished()) {
          engine.stats();
          std::this_thread::yield();
        }
        const bool is_right = request->token_ids() == greedy_answer(prompt, 5);
        if (i % 5 != 4 && !is_right) ++wrong;
      }
      --callers;
    });
  }
  while (callers > 0 || engine.has_unfinished()) engine.step();
  for (std::thread& thread : threads) thread.join();
  engine.check();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(engine.stats().finished, 60);
}

}  // namespace
}  // namespace quire::testing
