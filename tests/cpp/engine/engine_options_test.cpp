// What an engine refuses, and what it chooses where nobody says.
#include <gtest/gtest.h>

#include "engine/small_engine.h"

namespace quire::testing {
namespace {

template <class E, class Call>
void expect_error(const std::string& message, Call call) {
  try {
    call();
    ADD_FAILURE() << "nothing was thrown, expected: " << message;
  } catch (const E& error) {
    EXPECT_EQ(error.what(), message);
  }
}

TEST(EngineOptions, RefusesWhatCannotBe) {
  const auto model = std::make_shared<ToyModel>();
  const auto expect = [&](const std::string& message, auto change) {
    EngineOptions options = small_engine();
    change(options);
    expect_error<ValueError>(message, [&] { Engine(model, options); });
  };
  expect("Engine: num_blocks: got 0, expected >= 1", [](auto& o) { o.num_blocks = 0; });
  expect("Engine: block_size: got -1, expected >= 1", [](auto& o) { o.block_size = -1; });
  expect("Engine: max_batch_tokens: got 0, expected >= 1", [](auto& o) { o.max_batch_tokens = 0; });
  expect("Engine: max_sequences: got 0, expected >= 1", [](auto& o) { o.max_sequences = 0; });
  expect("Engine: draft: got \"prompt_lookup\", expected one of \"none\"",
         [](auto& o) { o.draft = "prompt_lookup"; });
  expect("Engine: num_threads: got -1, expected >= 1", [](auto& o) { o.num_threads = -1; });
}

TEST(EngineOptions, RefusesRequestsThatCannotBe) {
  Engine engine(std::make_shared<ToyModel>(64), small_engine(8));
  const auto expect = [&]<class E>(E*, const std::string& message, Ids prompt,
                                   RequestOptions options) {
    expect_error<E>("Engine.submit: " + message, [&] { engine.submit(prompt, options); });
  };
  constexpr ValueError* value = nullptr;
  constexpr IndexError* index = nullptr;
  constexpr OutOfBlocks* room = nullptr;
  const auto with = [](auto change) {
    RequestOptions options;
    options.max_tokens = 4;
    change(options);
    return options;
  };
  const RequestOptions plain = with([](auto&) {});
  expect(value, "prompt: got no token, expected at least one", {}, plain);
  expect(index, "prompt: got 61 at index 1, expected 0 to 60", {1, 61}, plain);
  expect(index, "prompt: got -1 at index 0, expected 0 to 60", {-1}, plain);
  expect(index, "stop: got 99 at index 0, expected 0 to 60", {1},
         with([](auto& o) { o.stop_token_ids = {99}; }));
  expect(value, "max_tokens: got 0, expected >= 1", {1}, with([](auto& o) { o.max_tokens = 0; }));
  expect(value, "logprobs: got 62, expected 0 to 61, the tokens of the vocabulary", {1},
         with([](auto& o) { o.logprobs = 62; }));
  expect(value, "temperature: got -1, expected a finite number >= 0", {1},
         with([](auto& o) { o.choice.temperature = -1; }));
  expect(value, "top_p: got 0, expected above 0, at most 1", {1},
         with([](auto& o) { o.choice.top_p = 0; }));
  expect(value,
         "max_tokens: got 9223372036854775807 after a prompt of 2 tokens, expected at most 63 of "
         "the model's 64 positions (the last token takes none)",
         {1, 2}, with([](auto& o) { o.max_tokens = INT64_MAX; }));
  expect(value, "prompt: got 70 tokens, expected at most 64, the model's positions", Ids(70, 1),
         plain);
  expect(value,
         "max_tokens: got 4 after a prompt of 64 tokens, expected at most 1 of the model's 64 "
         "positions (the last token takes none)",
         Ids(64, 1), plain);
  expect(room,
         "max_tokens: got 24 after a prompt of 10 tokens, which take 9 blocks of 4 tokens, "
         "expected at most the 8 of the engine's pool",
         Ids(10, 1), with([](auto& o) { o.max_tokens = 24; }));
  EXPECT_FALSE(engine.has_unfinished());
  EXPECT_EQ(engine.stats().finished, 0);
}

// What just fits, does.
TEST(EngineOptions, FillsThePoolToItsLastToken) {
  for (const bool prefix_cache : {true, false}) {
    EngineOptions options = small_engine(8);
    options.prefix_cache = prefix_cache;
    Engine engine(std::make_shared<ToyModel>(33), options);
    std::vector<std::shared_ptr<Request>> requests;
    for (std::uint32_t i = 0; i < 4; ++i) {
      requests.push_back(
          engine.submit(random_prompt(i, 10), {.max_tokens = 23, .ignore_eos = true}));
    }
    run(engine);
    for (const auto& request : requests) {
      EXPECT_EQ(request->num_generated(), 23);
      EXPECT_EQ(request->finish_reason(), FinishReason::length);
    }
    EXPECT_EQ(engine.stats().preemptions > 0, true);
  }
}

// All blocks are cached, and all of them begin alike: the last one, in part, has to make room for
// its own rows.
TEST(EngineOptions, GoesOnWhereEveryBlockIsOfItsPrefix) {
  Engine engine(std::make_shared<ToyModel>(33), small_engine(8));
  const Ids first = random_prompt(1, 29);
  const auto cached = engine.submit(first, {.max_tokens = 3, .ignore_eos = true});
  run(engine);
  EXPECT_EQ(engine.stats().pool.cached, 8);
  Ids second = first;
  second.push_back(cached->token_ids()[0]);
  second.push_back(cached->token_ids()[1] == 5 ? 6 : 5);
  const auto request = engine.submit(second, {.max_tokens = 2, .ignore_eos = true});
  for (int i = 0; i < 4; ++i) engine.step();
  engine.check();
  ASSERT_EQ(request->num_generated(), 2);
  EXPECT_EQ(request->token_ids()[0], greedy_answer(second, 1)[0]);
  EXPECT_EQ(request->num_cached_tokens(), 28);
}

// Blocks that are sealed later are copied before they are written again, for which there is room.
TEST(EngineOptions, PoolsWithOpenBlocksComeToAnEnd) {
  EngineOptions options = small_engine(10);
  options.dtype = DType::int4;
  Engine engine(std::make_shared<ToyModel>(), options);
  for (std::uint32_t i = 0; i < 20; ++i) {
    engine.submit(random_prompt(i % 3, 3 + i), {.max_tokens = 1 + i % 14, .ignore_eos = true});
  }
  run(engine);
  EXPECT_EQ(engine.stats().finished, 20);
  EXPECT_EQ(engine.stats().pool.used, engine.stats().pool.cached);
}

TEST(EngineOptions, StopsAtTokensThatAreAskedFor) {
  Engine engine(std::make_shared<ToyModel>(), small_engine());
  std::uint32_t seed = 0;
  while (std::ssize(greedy_answer(random_prompt(seed, 5), 9)) < 9) ++seed;
  const Ids prompt = random_prompt(seed, 5), answer = greedy_answer(prompt, 9);
  const auto request = engine.submit(prompt, {.max_tokens = 9, .stop_token_ids = {answer[4]}});
  run(engine);
  const auto first = std::find(answer.begin(), answer.end(), answer[4]);
  EXPECT_EQ(request->token_ids(), Ids(answer.begin(), first + 1));
  EXPECT_EQ(request->finish_reason(), FinishReason::stop);
}

TEST(EngineOptions, SaysHowManyBlocksItHasAndWhy) {
  Engine asked(std::make_shared<ToyModel>(), small_engine(7));
  EXPECT_EQ(asked.stats().num_blocks_reason, "as asked");
  EXPECT_EQ(asked.stats().prefix_cache_reason, "on");
  EngineOptions options = small_engine();
  options.num_blocks = std::nullopt;
  options.max_sequences = 3;
  options.prefix_cache = false;
  Engine chosen(std::make_shared<ToyModel>(30), options);
  EXPECT_EQ(chosen.stats().pool.num_blocks, 24);
  EXPECT_EQ(chosen.stats().num_blocks_reason, "0 MiB, room for 3 sequences of 30 tokens");
  EXPECT_EQ(chosen.stats().prefix_cache_reason, "off, as asked");
}

// States of 64 GiB, of which nothing is touched: one sequence runs at a time.
TEST(EngineOptions, RunsAsManySequencesAsHaveRoomForTheirStates) {
  class HugeStates : public RecurrentToyModel {
   public:
    std::shared_ptr<RecurrentStates> make_states(std::int64_t num_slots) const override {
      RecurrentShape shape = {
          .num_layers = 1, .channels = 1, .past = 1, .num_heads = 1, .key_dim = 1, .value_dim = 1};
      shape.num_layers = std::int64_t{1} << 33;
      EXPECT_EQ(num_slots, 1);
      return std::make_shared<RecurrentStates>(shape, num_slots);
    }
  };
  EngineOptions options = small_engine();
  options.max_sequences = 7;
  EXPECT_EQ(Engine(std::make_shared<HugeStates>(), options).stats().max_sequences, 1);
  EXPECT_EQ(Engine(std::make_shared<HugeStates>(), options).stats().state_bytes,
            std::int64_t{1} << 36);
  EXPECT_EQ(Engine(std::make_shared<RecurrentToyModel>(), options).stats().max_sequences, 7);
  EXPECT_EQ(Engine(std::make_shared<RecurrentToyModel>(), options).stats().state_bytes, 8);
}

}  // namespace
}  // namespace quire::testing
