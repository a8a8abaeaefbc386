// The words for whole numbers, of the vocabularies that have them, against plain loops: simd/avx2.h
// says what each means.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpu/simd/on_vocabulary.h"
#include "support/guarded_array.h"

namespace quire::testing {
namespace {

class OnWholeNumbers : public OnVocabulary {
 protected:
  using Shorts = std::vector<std::int16_t>;
  using Sums = std::vector<std::int32_t>;

  // 2 * width numbers, the ends among them.
  Shorts any_shorts() {
    constexpr std::int16_t kEnds[] = {-32768, 32767, -1, 0, 1};
    Shorts shorts(2 * width);
    for (std::int16_t& x : shorts) {
      x = random_() % 4 == 0 ? kEnds[random_() % 5] : static_cast<std::int16_t>(random_());
    }
    return shorts;
  }
  // `count` numbers, the ends among them.
  Sums any_sums(std::size_t count) {
    Sums sums(count);
    for (std::int32_t& x : sums) x = static_cast<std::int32_t>(random_()) >> random_() % 32;
    for (int i = 0; i < 3; ++i) {
      sums[random_() % count] = i == 0   ? std::numeric_limits<std::int32_t>::min()
                                : i == 1 ? std::numeric_limits<std::int32_t>::max()
                                         : 0;
    }
    return sums;
  }

  // The element of a row that each lane of a pair holds: the order of load_pair(const Int8*).
  std::vector<std::size_t> order() {
    std::vector<Int8> row(2 * width);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = {static_cast<std::int8_t>(i)};
    Floats pair(2 * width);
    words.int8.load_pair(row.data(), pair.data());
    return {pair.begin(), pair.end()};
  }

  std::mt19937 random_{1};
  const IntWords& ints = *words.ints;
};

// Where no vocabulary of this processor has them there is nothing to test.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OnWholeNumbers);
INSTANTIATE_TEST_SUITE_P(All, OnWholeNumbers, ::testing::ValuesIn(vocabularies([](const Words& w) {
                           return w.ints != nullptr;
                         })),
                         name_of);

// Sums wrap around, as those of the processor do.
std::int32_t wrapped_sum(std::int32_t a, std::int64_t b) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
}

TEST_P(OnWholeNumbers, AreConstants) {
  Sums sums(width, 7);
  ints.zero_ints(sums.data());
  EXPECT_EQ(sums, Sums(width, 0));
  for (const int x : {0, 1, -1, 0x10001, -8 * 0x10000 + 0xfff8, std::numeric_limits<int>::min()}) {
    ints.set1_ints(x, sums.data());
    EXPECT_EQ(sums, Sums(width, x));
  }
  const GuardedArray<std::int16_t> array;
  const Shorts pair{-12345, 31};
  Shorts shorts(2 * width);
  ints.set1_pair(array.hold(pair), shorts.data());
  for (std::size_t i = 0; i < shorts.size(); ++i) ASSERT_EQ(shorts[i], pair[i % 2]);
}

TEST_P(OnWholeNumbers, AreLoadedAndStored) {
  const GuardedArray<std::int16_t> shorts;
  const GuardedArray<Int8> int8s;
  const GuardedArray<std::byte> bytes;
  for (std::size_t round = 0; round < 256; ++round) {
    const Shorts numbers = any_shorts();
    Shorts out(2 * width), halves(2 * width);
    ints.load_ints(shorts.hold(numbers), out.data());
    ASSERT_EQ(out, numbers);
    std::int16_t* const stored = shorts.last(2 * width);
    ints.store_ints(numbers.data(), stored);
    ASSERT_TRUE(std::equal(numbers.begin(), numbers.end(), stored));
    ASSERT_TRUE(shorts.is_untouched_before(2 * width));
    for (std::size_t n = 1; n <= 2 * width; ++n) {
      std::vector<Int8> row(n);
      std::vector<std::byte> row_of_bytes(n);
      for (std::size_t i = 0; i < n; ++i) {
        row[i] = {static_cast<std::int8_t>(round + i)};
        row_of_bytes[i] = static_cast<std::byte>(round + i);
      }
      const Int8* const p = int8s.hold(row);
      n == 2 * width ? ints.load_int8s(p, out.data())
                     : ints.load_int8s_part(p, static_cast<int>(n), out.data());
      for (std::size_t i = 0; i < 2 * width; ++i) ASSERT_EQ(out[i], i < n ? row[i].bits : 0);
      const std::byte* const b = bytes.hold(row_of_bytes);
      n == 2 * width ? ints.load_bytes(b, out.data())
                     : ints.load_bytes_part(b, static_cast<int>(n), out.data());
      for (std::size_t i = 0; i < 2 * width; ++i) {
        ASSERT_EQ(out[i], i < n ? static_cast<int>(row_of_bytes[i]) : 0);
      }
      ints.lower_half(out.data(), halves.data());
      for (std::size_t i = 0; i < 2 * width; ++i) ASSERT_EQ(halves[i], out[i] % 16);
      ints.upper_half(out.data(), halves.data());
      for (std::size_t i = 0; i < 2 * width; ++i) ASSERT_EQ(halves[i], out[i] / 16);
    }
  }
}

TEST_P(OnWholeNumbers, PairUpInTheOrderOfInt8) {
  const std::vector<std::size_t> column = order();
  const Shorts a = any_shorts(), b = any_shorts();
  Shorts pairs(4 * width);
  ints.pair_up(a.data(), b.data(), pairs.data(), pairs.data() + 2 * width);
  for (std::size_t lane = 0; lane < 2 * width; ++lane) {
    EXPECT_EQ(pairs[2 * lane], a[column[lane]]) << "lane " << lane;
    EXPECT_EQ(pairs[2 * lane + 1], b[column[lane]]) << "lane " << lane;
  }
}

TEST_P(OnWholeNumbers, HalvesOfPairsBecomeNatural) {
  const std::vector<std::size_t> column = order();
  Floats v(4 * width);
  for (std::size_t lane = 0; lane < 2 * width; ++lane) {  // byte c: numbers 2 c and 2 c + 1
    v[lane] = static_cast<float>(2 * column[lane]);
    v[2 * width + lane] = static_cast<float>(2 * column[lane] + 1);
  }
  ints.halves_to_natural(v.data());
  expect_lanes(v, [](std::size_t lane) { return static_cast<float>(lane); });
  std::vector<float> hard(4 * width, of_bits(0x7f800001));  // moved, not calculated with
  ints.halves_to_natural(hard.data());
  expect_lanes(hard, [](auto) { return of_bits(0x7f800001); }, true);
}

TEST_P(OnWholeNumbers, AreMultipliedAndAddedUp) {
  for (int round = 0; round < 2000; ++round) {
    const Sums sum = any_sums(width);
    const Shorts a = round == 0 ? Shorts(2 * width, -32768) : any_shorts();
    const Shorts b = round == 0 ? a : any_shorts();
    Sums out(width);
    ints.dot(sum.data(), a.data(), b.data(), out.data());
    for (std::size_t i = 0; i < width; ++i) {
      const std::int64_t products =
          std::int64_t{a[2 * i]} * b[2 * i] + std::int64_t{a[2 * i + 1]} * b[2 * i + 1];
      ASSERT_EQ(out[i], wrapped_sum(sum[i], products)) << "lane " << i;
    }
  }
}

TEST_P(OnWholeNumbers, SumsBecomeFloats) {
  for (int round = 0; round < 2000; ++round) {
    const Sums sums = any_sums(width * width);
    Floats out(width);
    ints.to_floats(sums.data(), out.data());
    expect_lanes(out, [&](std::size_t lane) { return static_cast<float>(sums[lane]); });
    ints.transpose_add(sums.data(), out.data());
    expect_lanes(out, [&](std::size_t lane) {
      std::int32_t total = 0;
      for (std::size_t i = 0; i < width; ++i) total = wrapped_sum(total, sums[lane * width + i]);
      return static_cast<float>(total);
    });
    if (HasFatalFailure()) return;
  }
}

TEST_P(OnWholeNumbers, AreTheNearestOfFloats) {
  const GuardedArray<std::int16_t> array;
  std::vector<float> numbers;
  for (int twice = -65535; twice <= 65535; twice += twice < -64000 || twice > 64000 ? 1 : 37) {
    const float x = static_cast<float>(twice) / 2;
    for (const float y : {x, std::nextafter(x, 0.0f), x * 0x1p-9f, x * 0x1p-140f}) {
      if (std::fabs(y) < 32767.5f) numbers.push_back(y);
    }
  }
  numbers.push_back(-0.0f);
  for (std::size_t at = 0; at + 2 * width <= numbers.size(); ++at) {
    const float* const x = &numbers[at];
    const auto nearest = [&](std::size_t i) {
      return static_cast<std::int16_t>(std::nearbyint(x[i]));
    };
    Shorts out(2 * width);
    ints.to_ints(x, x + width, out.data());
    for (std::size_t i = 0; i < 2 * width; ++i) ASSERT_EQ(out[i], nearest(i)) << shown(x[i]);
    std::int16_t* const p = array.last(width);
    ints.store_rounded(x, p);
    for (std::size_t i = 0; i < width; ++i) ASSERT_EQ(p[i], nearest(i)) << shown(x[i]);
    ASSERT_TRUE(array.is_untouched_before(width));
  }
}

TEST_P(OnWholeNumbers, GridsAreLoadedApart) {
  const GuardedArray<Int4Grid> array;
  for (std::size_t round = 0; round < 65536; round += 16) {
    std::vector<Int4Grid> grids(1 + round / 16 % (2 * width));
    for (std::size_t i = 0; i < grids.size(); ++i) {
      grids[i] = {{static_cast<std::uint16_t>(round + i)},
                  {static_cast<std::uint16_t>(3 * round + 40000 + i)}};
    }
    const Int4Grid* const p = array.hold(grids);
    Floats out(4 * width);
    grids.size() == 2 * width
        ? ints.load_grids_apart(p, out.data())
        : ints.load_grids_apart_part(p, static_cast<int>(grids.size()), out.data());
    expect_lanes(out, [&](std::size_t lane) {  // even steps, even middles, odd ones
      const std::size_t i = 2 * (lane % width) + lane / (2 * width);
      if (i >= grids.size()) return 0.0f;
      return to_float(lane / width % 2 == 0 ? grids[i].step : grids[i].middle);
    });
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace quire::testing
