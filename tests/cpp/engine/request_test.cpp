#include "quire/engine/request.h"

#include <gtest/gtest.h>

#include "engine/small_engine.h"

namespace quire::testing {
namespace {

TEST(Request, HasItsPromptAndNoAnswerAtFirst) {
  const Request request(7, {1, 2, 3}, {});
  EXPECT_EQ(request.id(), 7);
  EXPECT_EQ(request.prompt_ids(), (Ids{1, 2, 3}));
  EXPECT_EQ(request.num_prompt_tokens(), 3);
  EXPECT_TRUE(request.token_ids().empty());
  EXPECT_TRUE(request.logprobs().empty());
  EXPECT_EQ(request.finish_reason(), FinishReason::none);
}

TEST(Request, TheFirstReasonToFinishIsTheLastWord) {
  Request cancelled(0, {1}, {});
  cancelled.cancel();
  cancelled.stop();
  EXPECT_EQ(cancelled.finish_reason(), FinishReason::cancelled);
  Request stopped(0, {1}, {});
  stopped.stop();
  stopped.cancel();
  EXPECT_EQ(stopped.finish_reason(), FinishReason::stop);
}

// The last token that is allowed may complete what the answer is to stop at.
TEST(Request, StopCutsAnAnswerThatHasJustReachedItsLength) {
  Engine engine(std::make_shared<ToyModel>(), small_engine());
  RequestOptions options;
  options.max_tokens = 4;
  options.logprobs = 1;
  options.ignore_eos = true;
  const auto request = engine.submit({1, 2}, options);
  run(engine);
  EXPECT_EQ(request->finish_reason(), FinishReason::length);
  EXPECT_EQ(request->logprobs().size(), 4u);
  request->stop(3);
  EXPECT_EQ(request->finish_reason(), FinishReason::stop);
  EXPECT_EQ(request->token_ids().size(), 3u);
  EXPECT_EQ(request->logprobs().size(), 3u);
  EXPECT_EQ(request->num_generated(), 3);
}

TEST(Request, ReasonsHaveNames) {
  EXPECT_EQ(name_of(FinishReason::none), "");
  EXPECT_EQ(name_of(FinishReason::stop), "stop");
  EXPECT_EQ(name_of(FinishReason::length), "length");
  EXPECT_EQ(name_of(FinishReason::cancelled), "cancelled");
}

}  // namespace
}  // namespace quire::testing
