// Tiles against plain loops, and AMX's against their model, to the bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "cpu/simd/words.h"
#include "quire/base/float_mode.h"
#include "quire/cpu/kernel_list.h"
#include "support/attention_problem.h"
#include "support/hard_floats.h"

namespace quire::testing {
namespace {

bool has_amx() {
  return std::ranges::any_of(kernel_list(), [](const KernelSource& source) {
    return source.kernels->name == std::string_view("amx") && source.runs_here();
  });
}

constexpr const TileWords* kAllTiles[] = {
    &kTileModelWords,
#if defined(__x86_64__)
    &kAmxWords,
#endif
};

constexpr std::size_t kFloats = 16 * 16;
constexpr std::size_t kHalves = 16 * 32;

struct Tiles {
  std::vector<BFloat16> a = std::vector<BFloat16>(kHalves), b = a;
  std::vector<float> c = std::vector<float>(kFloats);
};

class OnTiles : public ::testing::TestWithParam<const TileWords*> {
 protected:
  void SetUp() override {
    if (&words != &kTileModelWords && !has_amx()) GTEST_SKIP() << "this processor has no AMX";
  }
  const TileWords& words = *GetParam();
};

INSTANTIATE_TEST_SUITE_P(All, OnTiles, ::testing::ValuesIn(kAllTiles),
                         [](const auto& info) { return std::string(info.param->name); });

// Small whole numbers, which are added up exactly in any order; rows past those that are configured
// stay as they are.
TEST_P(OnTiles, AreMultipliedAndAddedUp) {
  std::mt19937 random(1);
  const auto number = [&] { return static_cast<float>(static_cast<int>(random() % 31) - 15); };
  for (int rows = 1; rows <= 16; ++rows) {
    for (const bool streams : {false, true}) {
      Tiles tiles;
      for (BFloat16& x : tiles.a) x = from_float<BFloat16>(number());
      for (BFloat16& x : tiles.b) x = from_float<BFloat16>(number());
      for (float& x : tiles.c) x = number();
      std::vector<float> expected = tiles.c;
      for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < 16; ++column) {
          for (int k = 0; k < 32; ++k) {
            expected[row * 16 + column] += to_float(tiles.a[row * 32 + k]) *
                                           to_float(tiles.b[k / 2 * 32 + 2 * column + k % 2]);
          }
        }
      }
      words.multiply(rows, streams, tiles.a.data(), tiles.b.data(), tiles.c.data());
      ASSERT_EQ(tiles.c, expected) << rows << " rows";
    }
  }
}

TEST_P(OnTiles, BecomeZero) {
  std::vector<float> c(kFloats, 7);
  words.zero(5, c.data());
  for (std::size_t i = 0; i < kFloats; ++i) ASSERT_EQ(c[i], i < 5 * 16 ? 0 : 7) << i;
}

// All bits around the four, too.
TEST_P(OnTiles, TakeNibblesApart) {
  std::mt19937 random(3);
  std::vector<std::uint32_t> bits(16);
  for (std::uint32_t& x : bits) x = static_cast<std::uint32_t>(random());
  for (int shift = 0; shift < 16; shift += 4) {
    std::vector<BFloat16> pairs(32);
    words.nibble_pairs(reinterpret_cast<const std::byte*>(bits.data()), shift, pairs.data());
    for (std::size_t i = 0; i < 32; ++i) {
      const std::uint32_t number = bits[i / 2] >> (shift + i % 2 * 16) & 15u;
      ASSERT_EQ(to_float(pairs[i]), static_cast<float>(number)) << i << " at " << shift;
    }
  }
}

// Also where there is no memory.
TEST_P(OnTiles, AskForLines) {
  words.prefetch_near(nullptr);
  words.prefetch_near(&words);
}

// In the mode that attention in tiles has, which makes nothing of subnormal numbers.
TEST_P(OnTiles, RaiseToPowersAndRound) {
  const FlushingFloatMode mode;
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0, 30);
  for (int round = 0; round < 2000; ++round) {
    float x[16], r[16], p[16], power[16], other[16];
    for (float& n : x) n = round % 9 == 0 ? std::round(normal(random)) : normal(random);
    if (round % 7 == 0) {
      x[1] = -kInfinity, x[2] = kInfinity, x[3] = kNaN, x[4] = -1e-9f, x[5] = -3e38f, x[6] = 140;
    }
    words.fraction(x, r);
    for (int i = 0; i < 16; ++i) {
      p[i] = 1 + static_cast<float>(random() % 1000) / 1000;
      other[i] = 1 + static_cast<float>(random() % 100000) / 100000;
    }
    words.times_power(p, x, power);
    BFloat16 pairs[32];
    words.round_to_pairs(power, other, pairs);
    for (int i = 0; i < 16; ++i) {
      if (std::isnan(x[i])) {
        ASSERT_TRUE(std::isnan(r[i]) && std::isnan(power[i]) && std::isnan(to_float(pairs[2 * i])));
        continue;
      }
      const bool finite = std::isfinite(x[i]);
      const double part = finite ? static_cast<double>(x[i]) - std::floor(x[i]) : 0;
      ASSERT_LE(r[i], part) << x[i];
      ASSERT_LT(r[i], 1) << x[i];
      ASSERT_GE(std::nextafter(r[i], 2.0f), part) << x[i];
      const double exact = p[i] * std::exp2(std::floor(static_cast<double>(x[i])));
      const auto expected = exact < 0x1p-126 ? 0.0f : static_cast<float>(exact);
      ASSERT_EQ(power[i], expected) << p[i] << " " << x[i];
      for (const float y : {power[i], other[i]}) {
        const float got = to_float(pairs[2 * i + (y == power[i] ? 0 : 1)]);
        if (!std::isfinite(y) || y > 3e38f) continue;
        ASSERT_LE(std::abs(got - y), y * 0x1p-8f) << y;
        ASSERT_LE(std::abs(got - y), std::abs(to_float(from_float<BFloat16>(y)) - y)) << y;
      }
    }
  }
}

TEST_P(OnTiles, PairColumnsOfTwoRows) {
  BFloat16 a[32], b[32], even[32], odd[32];
  for (std::uint16_t i = 0; i < 32; ++i) {
    a[i].bits = static_cast<std::uint16_t>(100 + i);
    b[i].bits = static_cast<std::uint16_t>(0xf000 + i);
  }
  words.pair_up(a, b, even, odd);
  for (int i = 0; i < 16; ++i) {
    ASSERT_EQ(even[2 * i].bits, a[2 * i].bits);
    ASSERT_EQ(even[2 * i + 1].bits, b[2 * i].bits);
    ASSERT_EQ(odd[2 * i].bits, a[2 * i + 1].bits);
    ASSERT_EQ(odd[2 * i + 1].bits, b[2 * i + 1].bits);
  }
}

// Numbers of all sizes, infinities, NaN and subnormal ones: the order of AMX's sums is that of the
// model, in the mode that knows no subnormal numbers.
TEST(TileModel, HasTheBitsOfAmx) {
  if (!has_amx()) GTEST_SKIP() << "this processor has no AMX";
  const FlushingFloatMode mode;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const std::vector<float> hard = hard_floats();
  for (int round = 0; round < 600; ++round) {
    const int spread = round % 3 == 0 ? 0 : round % 3 == 1 ? 8 : 120;
    const auto number = [&]() -> float {
      if (round % 4 == 3 && random() % 64 == 0) return hard[random() % hard.size()];
      const int exponent = spread == 0 ? 0 : static_cast<int>(random() % (2 * spread)) - spread;
      return std::ldexp(normal(random), exponent);
    };
    Tiles tiles;
    for (BFloat16& x : tiles.a) x = from_float<BFloat16>(number());
    for (BFloat16& x : tiles.b) x = from_float<BFloat16>(number());
    for (float& x : tiles.c) x = number();
    std::vector<float> model = tiles.c;
    kTileModelWords.multiply(16, false, tiles.a.data(), tiles.b.data(), model.data());
    kAllTiles[std::size(kAllTiles) - 1]->multiply(16, false, tiles.a.data(), tiles.b.data(),
                                                  tiles.c.data());
    for (std::size_t i = 0; i < kFloats; ++i) {
      ASSERT_TRUE(is_same(tiles.c[i], model[i]))
          << "round " << round << ", " << i << ": AMX " << tiles.c[i] << ", model " << model[i];
    }
  }
}

}  // namespace
}  // namespace quire::testing
