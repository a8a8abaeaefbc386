// Any bytes as a problem of attention, computed by every instruction set of this machine in every
// way there is: fused, which takes the path of direct, packed, whole or four-bit numbers that the
// problem calls for, gathered and dense; by one thread and by three; whole, a sequence at a time,
// and with keys that are brought into memory as they are needed.
//
// All must agree with the dense one, the float64 reference, within roundings, and refuse the same
// arguments in the same words. Those of one instruction set that must have the same bits have them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "fuzz_bytes.h"
#include "quire/cpu/select_kernels.h"
#include "support/any_attention.h"
#include "support/copying_pager.h"
#include "support/on_instruction_set.h"
#include "support/sampled_cases.h"

namespace quire::testing {
namespace {

struct Results {
  std::string error;  // why it was refused
  Array out;
  std::vector<float> lse, mass;
};

struct Way {
  const SelectedKernels& kernels;
  Implementation implementation = Implementation::fused;
  int num_threads = 1;
};

Results run(PagedAttentionArgs args, const Way& way, DType out, bool wants_mass = true) {
  constexpr float kUntouched = 77;
  const std::int64_t rows = args.q.shape[0] * args.q.shape[1];
  Results results;
  results.out = Array(out, {args.q.shape[0], args.q.shape[1], args.out.shape[2]});
  for (std::int64_t i = 0; i < results.out.size(); ++i) results.out.set(i, kUntouched);
  results.lse.assign(static_cast<std::size_t>(rows), kUntouched);
  args.out = results.out.view();
  args.lse = results.lse.data();
  if (wants_mass) {
    results.mass.assign(static_cast<std::size_t>(rows * args.block_tables.shape[1]), kUntouched);
    args.block_mass = results.mass.data();
  }
  try {
    paged_attention(args, way.implementation, Execution{&way.kernels, way.num_threads});
  } catch (const ValueError& error) {
    results.error = error.what();
    const auto is_untouched = [](float x) { return x == kUntouched; };
    EXPECT_TRUE(std::ranges::all_of(results.lse, is_untouched));
    EXPECT_TRUE(std::ranges::all_of(results.mass, is_untouched));
    for (std::int64_t i = 0; i < results.out.size(); ++i) {
      EXPECT_EQ(results.out.get(i), kUntouched);
    }
  }
  return results;
}

// Bit for bit; the results of a part of the rows, from `begin` on, with those of all.
template <class T>
bool has_bits(const std::vector<T>& all, const std::vector<T>& part, std::size_t begin = 0) {
  if (begin + part.size() > all.size()) return false;
  return part.empty() || std::memcmp(all.data() + begin, part.data(), part.size() * sizeof(T)) == 0;
}

void expect_same_bits(const Results& results, const Results& expected) {
  EXPECT_EQ(results.error, expected.error);
  EXPECT_TRUE(has_bits(expected.out.bytes, results.out.bytes));
  EXPECT_TRUE(has_bits(expected.lse, results.lse));
  EXPECT_TRUE(results.mass.empty() || has_bits(expected.mass, results.mass));
}

bool is_near(double got, double expected, double bound) {
  if (std::isnan(expected)) return std::isnan(got);
  return got == expected || std::abs(got - expected) <= bound;
}

// `tolerance`: of a softmax's weights, and so of values about 1; and of those that make block mass.
void expect_near(const Results& results, const Results& expected, double tolerance,
                 double of_mass) {
  EXPECT_EQ(results.error, expected.error);
  if (!expected.error.empty()) return;
  double largest = 1;
  for (std::int64_t i = 0; i < expected.out.size(); ++i) {
    const double x = std::abs(expected.out.get(i));
    if (std::isfinite(x)) largest = std::max(largest, x);
  }
  const DType dtype = results.out.dtype;
  const double rounding = dtype == DType::float32 ? 0 : dtype == DType::float16 ? 0x1p-11 : 0x1p-7;
  for (std::int64_t i = 0; i < expected.out.size(); ++i) {
    EXPECT_TRUE(is_near(results.out.get(i), expected.out.get(i), (tolerance + rounding) * largest))
        << "element " << i << ": got " << results.out.get(i) << ", expected " << expected.out.get(i)
        << " within " << (tolerance + rounding) * largest;
  }
  for (std::size_t i = 0; i < expected.lse.size(); ++i) {
    const double bound = tolerance * (1 + std::abs(expected.lse[i]));
    EXPECT_TRUE(is_near(results.lse[i], expected.lse[i], bound))
        << "lse " << i << ": got " << results.lse[i] << ", expected " << expected.lse[i];
  }
  for (std::size_t i = 0; i < expected.mass.size(); ++i) {
    EXPECT_TRUE(is_near(results.mass[i], expected.mass[i], 4 * of_mass))
        << "mass " << i << ": got " << results.mass[i] << ", expected " << expected.mass[i];
  }
}

// What does not depend on how a call is made: threads, other sequences, who asks for more.
void expect_bits_everywhere(const AnyAttention& attention, const SelectedKernels& kernels,
                            const Results& results) {
  const PagedAttentionArgs& args = attention.args();
  const DType out = args.out.dtype;
  const auto trace = [](const char* what) { return std::string("the same bits: ") + what; };
  {
    SCOPED_TRACE(trace("three threads"));
    expect_same_bits(run(args, {kernels, Implementation::fused, 3}, out), results);
  }
  {
    SCOPED_TRACE(trace("no block mass"));
    expect_same_bits(run(args, {kernels}, out, false), results);
  }
  {
    SCOPED_TRACE(trace("keys brought into memory"));
    const CopyingPager pager(args);
    expect_same_bits(run(pager.args(), {kernels}, out), results);
  }
  if (!results.error.empty()) return;
  const auto heads = static_cast<std::size_t>(args.q.shape[1]);
  const auto row_bytes = static_cast<std::size_t>(args.out.shape[2]) * size_of(out);
  const auto columns = static_cast<std::size_t>(args.block_tables.shape[1]);
  const std::size_t num_seqs = attention.problem().sizes.seq_lens.size();
  for (std::size_t seq = 0; num_seqs > 1 && seq < num_seqs; ++seq) {
    SCOPED_TRACE(trace("a sequence alone") + concat(", ", seq));
    const AloneInBatch alone(attention.problem(), args, seq);
    const Results its = run(alone.args(), {kernels}, out);
    const std::size_t first = static_cast<std::size_t>(alone.begin()) * heads;
    EXPECT_TRUE(has_bits(results.out.bytes, its.out.bytes, first * row_bytes));
    EXPECT_TRUE(has_bits(results.lse, its.lse, first));
    EXPECT_TRUE(has_bits(results.mass, its.mass, first * columns));
  }
}

void compare_all(const AnyAttention& attention) {
  const PagedAttentionArgs& args = attention.args();
  const DType out = args.out.dtype;
  const Results expected = run(args, {selected_kernels(), Implementation::dense}, DType::float32);
  // a score's rounding is in proportion to it, and grows a little with the sum's length; where
  // whole numbers are multiplied queries and weights are rounded to 16 bits
  const double times = std::max(1.0, attention.largest_score() / 8);
  const double floats = 2e-6 * times, whole_numbers = 1e-4 * times;
  static unsigned num_inputs = 0;
  unsigned turn = num_inputs++;  // of CTest's inputs under a sanitizer each set sees every third
  for (const std::string_view name : available_instruction_sets()) {
    if (turn++ % 3 != 0 && !tries_all_cases()) continue;
    const SelectedKernels& kernels = kernels_named(name);
    SCOPED_TRACE(name);
    const double direct = attention.is_sealed() ? whole_numbers : floats;
    {
      SCOPED_TRACE("gather");
      const Results gathered = run(args, {kernels, Implementation::gather}, out);
      expect_near(gathered, expected, floats, direct);
      expect_same_bits(run(args, {kernels, Implementation::gather, 3}, out), gathered);
    }
    SCOPED_TRACE("fused");
    const Results fused = run(args, {kernels}, out);
    expect_near(fused, expected, direct, direct);
    expect_bits_everywhere(attention, kernels, fused);
  }
  SCOPED_TRACE("dense");
  expect_same_bits(run(args, {selected_kernels(), Implementation::dense, 3}, DType::float32),
                   expected);
}

}  // namespace
}  // namespace quire::testing

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quire::testing;
  FuzzBytes bytes(data, size);
  const AnyAttention attention([&] { return bytes.next(); });
  SCOPED_TRACE(attention.description());
  compare_all(attention);
  return 0;
}
