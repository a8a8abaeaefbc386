// Rows of weights by their numbers, of arrays and of every packed format.
#include "quire/ops/linear/take_rows.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "support/linear_problem.h"

namespace quire::testing {
namespace {

// More rows than two panels have, and columns that are no whole block.
constexpr std::int64_t kRows = 70, kColumns = 77;
const std::vector<std::int64_t> kIds{69, 0, 31, 32, 0, 63};

double rounded(DType dtype, float number) {
  return visit_dtype(
      dtype, [&](auto type) -> double { return to_float(from_float<decltype(type)>(number)); });
}

TEST(TakeRows, RowsOfAPackedWeightAreItsNumbers) {
  LinearProblem problem(1, kRows, kColumns, DType::float32, DType::float32);
  for (const DType format :
       {DType::float32, DType::float16, DType::bfloat16, DType::int8, DType::int4}) {
    const auto weight = problem.packed(format);
    for (const DType dtype : kDTypes) {
      Array out(dtype, {static_cast<std::int64_t>(kIds.size()), kColumns});
      take_rows(*weight, kIds, out.view());
      for (std::int64_t i = 0; i < out.size(); ++i) {
        const auto number = static_cast<float>(weight->at(kIds[i / kColumns], i % kColumns));
        ASSERT_EQ(out.get(i), rounded(dtype, number)) << name_of(format) << " " << i;
      }
    }
  }
}

TEST(TakeRows, RowsOfAnArrayAreItsNumbers) {
  for (const DType w_dtype : kDTypes) {
    LinearProblem problem(1, kRows, kColumns, DType::float32, w_dtype);
    for (const DType dtype : kDTypes) {
      Array out(dtype, {static_cast<std::int64_t>(kIds.size()), kColumns});
      take_rows(problem.w.view(), kIds, out.view());
      for (std::int64_t i = 0; i < out.size(); ++i) {
        const double number = problem.w.get(kIds[i / kColumns] * kColumns + i % kColumns);
        ASSERT_EQ(out.get(i), rounded(dtype, static_cast<float>(number)));
      }
    }
  }
}

TEST(TakeRows, WritesRowsWithGapsAndNothingElse) {
  LinearProblem problem(1, kRows, kColumns, DType::float32, DType::float32);
  Array out(DType::float32, {2, kColumns + 3});
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, -99);
  ArrayView view = out.view();
  view.shape[1] = kColumns;
  take_rows(*problem.packed(DType::int8), std::vector<std::int64_t>{1, 2}, view);
  for (std::int64_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(out.get(i) == -99, i % (kColumns + 3) >= kColumns) << i;
  }
  view.shape[0] = 0;
  EXPECT_NO_THROW(take_rows(problem.w.view(), {}, view));
}

TEST(TakeRows, RefusesOtherIdsAndArrays) {
  LinearProblem problem(1, kRows, kColumns, DType::float32, DType::float32);
  const auto weight = problem.packed(DType::bfloat16);
  Array out(DType::float32, {2, kColumns});
  const auto refusal = [&](const std::vector<std::int64_t>& ids, const ArrayView& to) {
    std::vector<std::string> messages;
    const auto keep = [&](const auto& call) {
      try {
        call();
        messages.emplace_back("nothing thrown");
      } catch (const Error& error) {
        messages.emplace_back(error.what());
      }
    };
    keep([&] { take_rows(*weight, ids, to); });
    keep([&] { take_rows(problem.w.view(), ids, to); });
    EXPECT_EQ(messages[0], messages[1]);
    return messages[0];
  };
  EXPECT_EQ(refusal({0, 70}, out.view()), "take_rows: ids: got 70 at [1], expected 0 to 69");
  EXPECT_EQ(refusal({-1, 0}, out.view()), "take_rows: ids: got -1 at [0], expected 0 to 69");
  EXPECT_EQ(out.get(0), 0.0);
  EXPECT_EQ(refusal({0}, out.view()), "take_rows: out: got shape [2, 77], expected [1, 77] (T, K)");
  ArrayView read_only = out.view();
  read_only.writable = false;
  EXPECT_EQ(refusal({0, 1}, read_only),
            "take_rows: out: got a read-only array, expected a writable one");
  ArrayView itself = problem.w.view();
  itself.shape[0] = 2;
  EXPECT_THROW(take_rows(problem.w.view(), std::vector<std::int64_t>{0, 1}, itself), ValueError);
}

}  // namespace
}  // namespace quire::testing
