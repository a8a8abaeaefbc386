// The words for pairs of bfloat16, of the vocabularies that have them, against plain loops:
// simd/avx512bf16.h says what each means.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cpu/simd/on_vocabulary.h"
#include "support/guarded_array.h"

namespace quire::testing {
namespace {

class OnPairs : public OnVocabulary {
 protected:
  using Bits = std::vector<BFloat16>;

  void expect_bits(const Bits& got, std::size_t i, float expected) {
    ASSERT_EQ(got[i].bits, from_float<BFloat16>(expected).bits)
        << i << ": got " << shown(to_float(got[i])) << ", expected " << shown(expected);
  }

  // The column of float8s that lane `lane` of a pair holds: the order of load_pair.
  std::vector<std::size_t> order() {
    std::vector<Float8E4M3> row(2 * width);
    for (std::size_t i = 0; i < row.size(); ++i) {
      row[i] = {static_cast<std::uint8_t>(0x30 + i)};
    }
    Floats pair(2 * width), natural(2 * width);
    std::vector<std::size_t> columns;
    words.float8.load_pair(row.data(), pair.data());
    for (const float x : pair) columns.push_back(from_float<Float8E4M3>(x).bits - 0x30u);
    return columns;
  }

  // `count` of all there are, from the one with these bits on.
  template <class T>
  static std::vector<T> row_from(std::size_t bits, std::size_t count) {
    std::vector<T> row(count);
    for (std::size_t i = 0; i < count; ++i) row[i] = {static_cast<decltype(T::bits)>(bits + i)};
    return row;
  }

  std::mt19937 random_{1};
  const BFloat16Words& bfloat16s = *words.bfloat16s;
};

// Where no vocabulary of this processor has them there is nothing to test.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OnPairs);
INSTANTIATE_TEST_SUITE_P(All, OnPairs, ::testing::ValuesIn(vocabularies([](const Words& w) {
                           return w.bfloat16s != nullptr;
                         })),
                         name_of);

float without_subnormals(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

// Numbers whose products are added exactly, in any order.
TEST_P(OnPairs, AreMultipliedAndAddedUp) {
  Bits a(2 * width), b(2 * width);
  Floats sum(width), out(width);
  for (int round = 0; round < 1000; ++round) {
    for (std::size_t i = 0; i < 2 * width; ++i) {
      const int exponent = static_cast<int>(random_() % 60) - 30;
      const auto number = [&] {
        return static_cast<float>(static_cast<int>(random_() % 255) - 127);
      };
      a[i] = from_float<BFloat16>(std::ldexp(number(), exponent));
      b[i] = from_float<BFloat16>(std::ldexp(number(), -exponent));
      if (i < width) sum[i] = static_cast<float>(static_cast<int>(random_() % 20001) - 10000);
    }
    bfloat16s.dot(sum.data(), a.data(), b.data(), out.data());
    expect_lanes(out, [&](std::size_t i) {
      return sum[i] + to_float(a[2 * i]) * to_float(b[2 * i]) +
             to_float(a[2 * i + 1]) * to_float(b[2 * i + 1]);
    });
  }
}

TEST_P(OnPairs, AreAddedUpWithinRoundings) {
  std::normal_distribution<float> normal;
  Bits a(2 * width), b(2 * width);
  Floats sum(width), out(width);
  for (int round = 0; round < 1000; ++round) {
    for (std::size_t i = 0; i < 2 * width; ++i) {
      a[i] = from_float<BFloat16>(normal(random_));
      b[i] = from_float<BFloat16>(normal(random_));
      if (i < width) sum[i] = normal(random_);
    }
    bfloat16s.dot(sum.data(), a.data(), b.data(), out.data());
    for (std::size_t i = 0; i < width; ++i) {
      const double first = static_cast<double>(to_float(a[2 * i])) * to_float(b[2 * i]);
      const double second = static_cast<double>(to_float(a[2 * i + 1])) * to_float(b[2 * i + 1]);
      ASSERT_NEAR(out[i], sum[i] + first + second,
                  0x1p-23 * (std::fabs(sum[i]) + std::fabs(first) + std::fabs(second)));
    }
  }
}

// What is no number spoils its lane and no other, and subnormal numbers count for nothing.
TEST_P(OnPairs, MeetWhatIsNoNumber) {
  for (std::size_t at = 0; at < 2 * width; ++at) {
    for (const float hard : hard_floats()) {
      Bits a(2 * width, from_float<BFloat16>(2)), b(2 * width, from_float<BFloat16>(3));
      const Floats sum(width, 1);
      const BFloat16 one = from_float<BFloat16>(hard);
      const float seen = without_subnormals(to_float(one));
      const auto expect = [&](double with, double other) {
        Floats out(width);
        bfloat16s.dot(sum.data(), a.data(), b.data(), out.data());
        const auto expected = static_cast<float>(1 + seen * with + 2 * other);
        for (std::size_t lane = 0; lane < width; ++lane) {
          const float want = lane == at / 2 ? expected : 13.0f;
          const double rounding = 0x1p-23 * std::fabs(want);
          ASSERT_TRUE(is_same(out[lane], want) || std::fabs(out[lane] - want) <= rounding)
              << "lane " << lane << ": got " << shown(out[lane]) << ", expected " << shown(want);
        }
      };
      a[at] = one;
      expect(3, 3);
      b[at] = from_float<BFloat16>(0);  // no infinity times 0
      expect(0, 3);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(OnPairs, OfFloat8sHaveEveryOtherEight) {
  const GuardedArray<Float8E4M3> array;
  for (std::size_t first = 0; first < 256; ++first) {
    for (const std::size_t n : {std::size_t{64}, 1 + first % 63}) {
      const Float8E4M3* const p = array.hold(row_from<Float8E4M3>(first, n));
      Bits pairs(64);
      n == 64 ? bfloat16s.load_pairs(p, pairs.data())
              : bfloat16s.load_pairs_part(p, static_cast<int>(n), pairs.data());
      for (std::size_t i = 0; i < 64; ++i) {
        const std::size_t element = i % 32 / 8 * 16 + i / 32 * 8 + i % 8;
        const float expected = element < n ? to_float(p[element]) : 0.0f;
        const bool is_negative = element < n && (p[element].bits & 0x80u) != 0;
        expect_bits(pairs, i, std::copysign(expected, is_negative ? -1.0f : 1.0f));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(OnPairs, AreTwoRowsOfFloat8s) {
  const std::vector<std::size_t> column = order();
  const GuardedArray<Float8E4M3> rows[2];
  for (std::size_t first = 0; first < 256; ++first) {
    for (const std::size_t n : {2 * width, 1 + first % (2 * width - 1)}) {
      const Float8E4M3* const p[] = {rows[0].hold(row_from<Float8E4M3>(first, n)),
                                     rows[1].hold(row_from<Float8E4M3>(3 * first + 100, n))};
      Bits pairs(4 * width);
      n == 2 * width
          ? bfloat16s.pair_up_float8s(p[0], p[1], pairs.data())
          : bfloat16s.pair_up_float8s_part(p[0], p[1], static_cast<int>(n), pairs.data());
      for (std::size_t i = 0; i < 4 * width; ++i) {
        const std::size_t c = column[i / 2];
        const float expected = c < n ? to_float(p[i % 2][c]) : 0.0f;
        const bool is_negative = c < n && (p[i % 2][c].bits & 0x80u) != 0;
        expect_bits(pairs, i, std::copysign(expected, is_negative ? -1.0f : 1.0f));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(OnPairs, AreTwoRowsOfInt8s) {
  const std::vector<std::size_t> column = order();
  const GuardedArray<Int8> rows[2];
  for (std::size_t first = 0; first < 256; ++first) {
    for (const std::size_t n : {2 * width, 1 + first % (2 * width - 1)}) {
      const Int8* const p[] = {rows[0].hold(row_from<Int8>(first, n)),
                               rows[1].hold(row_from<Int8>(3 * first + 100, n))};
      Bits pairs(4 * width);
      n == 2 * width ? bfloat16s.pair_up_int8s(p[0], p[1], pairs.data())
                     : bfloat16s.pair_up_int8s_part(p[0], p[1], static_cast<int>(n), pairs.data());
      for (std::size_t i = 0; i < 4 * width; ++i) {
        const std::size_t c = column[i / 2];
        expect_bits(pairs, i, c < n ? to_float(p[i % 2][c]) : 0.0f);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(OnPairs, AreOfFloatsAndOfBFloat16s) {
  const GuardedArray<BFloat16> rows[2];
  const std::vector<float> hard = hard_floats();
  for (std::size_t at = 0; at + 2 * width <= hard.size(); ++at) {
    const float *const a = &hard[at], *const b = &hard[at + width];
    Bits pairs(4 * width);
    bfloat16s.pair_up_floats(a, b, pairs.data());
    for (std::size_t i = 0; i < 2 * width; ++i) {
      ASSERT_EQ(pairs[i].bits, bits_of((i % 2 == 0 ? a : b)[i / 2]) >> 16) << i;
    }
    for (const std::size_t n : {2 * width, 1 + at % (2 * width - 1)}) {
      const BFloat16* const p[] = {rows[0].hold(row_from<BFloat16>(997 * at, n)),
                                   rows[1].hold(row_from<BFloat16>(641 * at + 32000, n))};
      n == 2 * width
          ? bfloat16s.pair_up_bfloat16s(p[0], p[1], pairs.data())
          : bfloat16s.pair_up_bfloat16s_part(p[0], p[1], static_cast<int>(n), pairs.data());
      for (std::size_t i = 0; i < 4 * width; ++i) {  // the even elements' pairs, then the odd ones'
        const std::size_t element = 2 * (i / 2 % width) + i / (2 * width);
        ASSERT_EQ(pairs[i].bits, element < n ? p[i % 2][element].bits : 0) << i;
      }
    }
  }
}

TEST_P(OnPairs, AreStoredRounded) {
  const GuardedArray<BFloat16> array;
  const std::vector<float> floats = floats_to_round();
  Floats rounded(width);
  for (std::size_t at = 0; at + width <= floats.size(); at += width) {
    BFloat16* const p = array.end() - width;
    bfloat16s.store_rounded(&floats[at], p, rounded.data());
    for (std::size_t i = 0; i < width; ++i) {
      const BFloat16 expected = from_float<BFloat16>(without_subnormals(floats[at + i]));
      if (p[i].bits != expected.bits || bits_of(rounded[i]) != bits_of(to_float(expected))) {
        FAIL() << shown(floats[at + i]) << ": got " << shown(to_float(p[i])) << " and "
               << shown(rounded[i]) << ", expected " << shown(to_float(expected));
      }
    }
  }
}

TEST_P(OnPairs, AreLoadedNarrow) {
  const GuardedArray<Int8> int8s;
  const GuardedArray<Float8E4M3> float8s;
  Bits out(2 * width);
  for (std::size_t first = 0; first < 256; ++first) {
    for (const std::size_t n : {2 * width, 1 + first % (2 * width - 1)}) {
      const bool whole = n == 2 * width;
      const auto count = static_cast<int>(n);
      const Int8* const p = int8s.hold(row_from<Int8>(first, n));
      whole ? bfloat16s.load_narrow_int8s(p, out.data())
            : bfloat16s.load_narrow_int8s_part(p, count, out.data());
      for (std::size_t i = 0; i < 2 * width; ++i) expect_bits(out, i, i < n ? to_float(p[i]) : 0);
      const Float8E4M3* const q = float8s.hold(row_from<Float8E4M3>(first, n));
      whole ? bfloat16s.load_narrow_float8s(q, out.data())
            : bfloat16s.load_narrow_float8s_part(q, count, out.data());
      for (std::size_t i = 0; i < 2 * width; ++i) {
        const bool is_negative = i < n && (q[i].bits & 0x80u) != 0;
        const float expected = i < n ? to_float(q[i]) : 0.0f;
        expect_bits(out, i, std::copysign(expected, is_negative ? -1.0f : 1.0f));
      }
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace quire::testing
