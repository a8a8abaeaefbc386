// Block mass of rows with a score that is no number, on every instruction set of this machine. What
// it is of numbers is tested wherever results are.
#include "quire/cpu/attention/block_mass_launch.h"

#include "quire/base/check.h"
#include "support/on_instruction_set.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Mass, OnInstructionSet, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return info.param; });

// The mass of a row that sees it is NaN, in the blocks whose keys it sees and in no other.
TEST_P(OnInstructionSet, ANaNIsInTheBlocksThatARowSees) {
  constexpr std::int64_t kKeys = 200, kTokens = 90, kBlockSize = 16, kNaNAt = 130;
  for (const bool windowed : {false, true}) {
    ProblemSizes sizes;
    sizes.seq_lens = {kKeys};
    sizes.q_lens = {kTokens};
    sizes.num_kv_heads = sizes.group = 1;
    Problem problem(sizes, 1);
    problem.k_cache.set(problem.row(0, kNaNAt, 0, 64) + 5, kNaN);
    PagedAttentionArgs args = problem.args();
    if (windowed) args.sliding_window = 40;
    args.num_sink_tokens = 20;
    const std::int64_t columns = args.block_tables.shape[1];
    for (const auto implementation : {Implementation::fused, Implementation::dense}) {
      std::vector<float> mass(static_cast<std::size_t>(kTokens * columns), 7);
      args.block_mass = mass.data();
      paged_attention(args, implementation);
      for (std::int64_t token = 0; token < kTokens; ++token) {
        const std::int64_t own = kKeys - kTokens + token;
        const std::int64_t begin = windowed ? own - 39 : 0;  // of what it sees, and its sink tokens
        const bool sees_nan = begin <= kNaNAt && kNaNAt <= own;
        for (std::int64_t column = 0; column < columns; ++column) {
          const std::int64_t first = column * kBlockSize, last = first + kBlockSize - 1;
          const bool is_seen = first < 20 || (first <= own && last >= begin);
          const float got = mass[static_cast<std::size_t>(token * columns + column)];
          SCOPED_TRACE(concat(name_of(implementation), ", token ", token, ", column ", column));
          if (!is_seen) {
            ASSERT_EQ(got, 0);
          } else {
            ASSERT_EQ(std::isnan(got), sees_nan);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quire::testing
