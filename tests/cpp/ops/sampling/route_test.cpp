// What the choice of experts refuses of C++ callers, whose results are spans.
#include "quire/ops/sampling/route.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quire/base/check.h"

namespace quire {
namespace {

TEST(Route, RefusesResultsOfAnotherSize) {
  std::vector<float> logits = {1, 3, 2, 5, 4, 6}, weights(4, -1.0f);
  std::vector<std::int32_t> experts(4, -1);
  RouteArgs args;
  args.logits = view_of(logits, {2, 3});
  args.top_k = 2;
  args.weights = std::span(weights).first(3);
  args.experts = experts;
  try {
    route(args, 1);
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_EQ(std::string(error.what()), "route: weights: got 3 entries, expected 4, T * top_k");
  }
  args.weights = weights;
  args.experts = std::span(experts).first(1);
  EXPECT_THROW(route(args, 1), ValueError);
  EXPECT_EQ(weights, std::vector<float>(4, -1.0f));
  args.experts = experts;
  route(args, 1);
  EXPECT_EQ(experts, (std::vector<std::int32_t>{1, 2, 2, 0}));
}

}  // namespace
}  // namespace quire
