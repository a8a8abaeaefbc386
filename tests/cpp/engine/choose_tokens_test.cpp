#include "quire/engine/choose_tokens.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace quire {
namespace {

constexpr std::int64_t kWords = 1000;

std::vector<float> random_logits(std::int64_t rows) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(static_cast<std::size_t>(rows * kWords));
  for (float& logit : logits) logit = normal(random);
  return logits;
}

TEST(LogprobsOf, IsLogSoftmax) {
  const std::vector<float> logits = random_logits(1);
  long double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
  const TokenLogprobs told = logprobs_of(logits, 17, kWords);
  EXPECT_NEAR(told.chosen, static_cast<double>(logits[17] - std::log(sum)), 1e-12);
  double whole = 0;
  for (std::size_t i = 0; i < told.top.size(); ++i) {
    const auto [id, logprob] = told.top[i];
    EXPECT_NEAR(logprob, static_cast<double>(logits[static_cast<std::size_t>(id)] - std::log(sum)),
                1e-12);
    if (i > 0) {
      EXPECT_LE(logprob, told.top[i - 1].logprob);
    }
    whole += std::exp(logprob);
  }
  EXPECT_NEAR(whole, 1.0, 1e-9);
}

TEST(LogprobsOf, LowerIdsOfEqualsComeFirstAndNothingOverflows) {
  const std::vector<float> logits = {3e38f, -3e38f, 3e38f, -std::numeric_limits<float>::infinity()};
  const TokenLogprobs told = logprobs_of(logits, 3, 3);
  EXPECT_EQ(told.chosen, -std::numeric_limits<double>::infinity());
  ASSERT_EQ(told.top.size(), 3u);
  EXPECT_EQ(told.top[0].id, 0);
  EXPECT_EQ(told.top[1].id, 2);
  EXPECT_EQ(told.top[2].id, 1);
  EXPECT_NEAR(told.top[1].logprob, -std::log(2.0), 1e-12);
}

// A request's token does not depend on who else chooses, and penalties are each one's own.
TEST(ChooseTokens, EachRequestChoosesForItself) {
  constexpr std::int64_t kRows = 24;
  std::vector<float> logits = random_logits(kRows);
  std::vector<RequestOptions> options(kRows);
  std::vector<std::vector<std::int64_t>> prompts(kRows), answers(kRows);
  std::vector<Chooser> choosers;
  for (std::size_t i = 0; i < kRows; ++i) {
    options[i].choice = {.seed = 5, .temperature = i % 3 == 0 ? 0.0 : 1.0};
    options[i].logprobs = static_cast<std::int64_t>(i % 2);
    if (i % 4 == 1) options[i].choice.repetition_penalty = 2.0;
    if (i % 4 == 2) options[i].choice.presence_penalty = 1.5;
    for (std::size_t j = 0; j <= i; ++j) prompts[i].push_back(static_cast<std::int64_t>(31 * j));
    for (std::size_t j = 0; j < i / 2; ++j) answers[i].push_back(static_cast<std::int64_t>(7 * j));
    choosers.push_back({static_cast<std::int64_t>(i), &options[i], prompts[i], answers[i]});
  }
  const Execution how = default_execution(2, "test");
  const auto together = choose_tokens(choosers, view_of(logits, {kRows, kWords}), how);
  ASSERT_EQ(together.size(), choosers.size());
  for (std::size_t i = 0; i < kRows; ++i) {
    const std::span row(logits.data() + i * kWords, kWords);
    const auto alone =
        choose_tokens(std::span(choosers).subspan(i, 1), view_of(row, {1, kWords}), how);
    EXPECT_EQ(alone[0].id, together[i].id) << i;
    ASSERT_EQ(together[i].logprobs.has_value(), i % 2 == 1);
    if (i % 2 == 1) {
      // of the logits as they are, whatever penalties made of them
      EXPECT_EQ(together[i].logprobs->chosen, logprobs_of(row, together[i].id, 1).chosen);
    }
  }
}

// The draw is that of the token's place in the sequence, wherever in it the answer begins.
TEST(ChooseTokens, DrawsByThePlaceOfTheToken) {
  std::vector<float> logits(kWords, 1.0f);
  const std::vector<std::int64_t> ids(40, 1);
  const Execution how = default_execution(1, "test");
  RequestOptions options;
  options.choice = {.seed = 8, .temperature = 1.0};
  for (const std::size_t place : {1, 2, 39}) {
    const SampleOptions choice = {.seed = 8, .position = static_cast<std::int64_t>(place)};
    SampleArgs args;
    args.logits = view_of(logits, {1, kWords});
    args.options = {&choice, 1};
    const std::int64_t expected = reference_sample(args)[0];
    for (const std::size_t num_prompt : {std::size_t{1}, place}) {
      const Chooser chooser{0, &options, std::span(ids).first(num_prompt),
                            std::span(ids).subspan(num_prompt, place - num_prompt)};
      EXPECT_EQ(choose_tokens({&chooser, 1}, args.logits, how)[0].id, expected);
    }
  }
}

// A greedy answer that penalties turn away from what was said.
TEST(ChooseTokens, PenaltiesCountPromptAndAnswer) {
  std::vector<float> logits = {1.0f, 2.0f, 3.0f, 4.0f};
  const auto choose = [&](const SampleOptions& choice, const std::vector<std::int64_t>& prompt,
                          const std::vector<std::int64_t>& answer) {
    RequestOptions options;
    options.choice = choice;
    const Chooser chooser{0, &options, prompt, answer};
    const Execution how = default_execution(1, "test");
    return choose_tokens({&chooser, 1}, view_of(logits, {1, 4}), how)[0].id;
  };
  EXPECT_EQ(choose({.temperature = 0}, {3}, {3}), 3);
  EXPECT_EQ(choose({.temperature = 0, .repetition_penalty = 2}, {3}, {}), 2);
  EXPECT_EQ(choose({.temperature = 0, .presence_penalty = 9}, {3}, {}), 3);
  EXPECT_EQ(choose({.temperature = 0, .presence_penalty = 9}, {}, {3}), 2);
  EXPECT_EQ(choose({.temperature = 0, .frequency_penalty = 0.6}, {}, {3, 3}), 2);
  EXPECT_EQ(choose({.temperature = 0, .frequency_penalty = 0.4}, {}, {3, 3}), 3);
}

}  // namespace
}  // namespace quire
