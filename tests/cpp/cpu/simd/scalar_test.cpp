// The words of every vocabulary that work on vectors, against plain loops: simd/scalar.h says what
// each means.
#include <algorithm>
#include <climits>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "cpu/simd/on_vocabulary.h"
#include "support/guarded_array.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(All, OnVocabulary,
                         ::testing::ValuesIn(vocabularies([](const Words&) { return true; })),
                         name_of);

TEST(Vocabulary, IsThatOfEveryInstructionSet) {
  std::vector<std::string_view> names;
  for (const Words* const words : kAllWords) names.push_back(words->name);
  std::vector<std::string_view> built = built_instruction_sets();
  std::erase(built, "amx");  // whose words are of tiles: amx_test.cpp
  std::sort(names.begin(), names.end());
  std::sort(built.begin(), built.end());
  EXPECT_EQ(names, built);
}

// Vectors of the hard floats and of some at random, so that each meets each of the others.
std::vector<std::vector<float>> hard_combinations(std::size_t operands, std::size_t width) {
  std::vector<float> floats = hard_floats();
  if (operands == 3) {  // 64,000 combinations
    std::mt19937 random(1);
    std::shuffle(floats.begin(), floats.end(), random);
    floats.resize(40);
  }
  std::vector<std::vector<float>> columns(operands);
  std::size_t count = 1;
  for (std::size_t i = 0; i < operands; ++i) count *= floats.size();
  for (std::size_t i = 0; i < count; ++i) {
    std::size_t rest = i;
    for (std::vector<float>& column : columns) {
      column.push_back(floats[rest % floats.size()]);
      rest /= floats.size();
    }
  }
  std::mt19937 random(2);
  while (columns[0].size() < count + 20000 || columns[0].size() % width != 0) {
    for (std::vector<float>& column : columns) {
      column.push_back(of_bits(static_cast<std::uint32_t>(random())));
    }
  }
  return columns;
}

TEST_P(OnVocabulary, SizesFitTheKernels) {
  EXPECT_EQ(words.accumulators % words.width, 0);
  EXPECT_TRUE(std::is_sorted(words.row_groups.rbegin(), words.row_groups.rend()));
  EXPECT_EQ(words.row_groups.back(), 4);  // so that any multiple of 4 is a sum of them
}

TEST_P(OnVocabulary, MakesConstants) {
  Floats out(width, 7);
  words.zero(out.data());
  expect_lanes(out, [](auto) { return 0.0f; });
  words.iota(out.data());
  expect_lanes(out, [](std::size_t lane) { return static_cast<float>(lane); });
  for (const float x : hard_floats()) {
    words.set1(x, out.data());
    expect_lanes(out, [x](auto) { return x; }, true);
  }
}

TEST_P(OnVocabulary, CalculatesWithTwo) {
  const auto columns = hard_combinations(2, width);
  using Word = void (*)(const float*, const float*, float*);
  const auto expect = [&](const char* name, Word word, auto plain, bool nan_bits = false) {
    SCOPED_TRACE(name);
    for (std::size_t i = 0; i < columns[0].size() && !HasFatalFailure(); i += width) {
      const float *const a = columns[0].data() + i, *const b = columns[1].data() + i;
      Floats out(width);
      word(a, b, out.data());
      expect_lanes(out, [&](std::size_t lane) { return plain(a[lane], b[lane]); }, nan_bits);
    }
  };
  expect("add", words.add, [](float a, float b) { return a + b; });
  expect("sub", words.sub, [](float a, float b) { return a - b; });
  expect("mul", words.mul, [](float a, float b) { return a * b; });
  expect("div", words.div, [](float a, float b) { return a / b; });
  expect("max", words.max, [](float a, float b) { return a > b ? a : b; }, true);
  expect("min", words.min, [](float a, float b) { return a < b ? a : b; }, true);
}

TEST_P(OnVocabulary, CalculatesWithThree) {
  const auto columns = hard_combinations(3, width);
  const bool rounds_twice = words.name == "scalar";
  for (std::size_t i = 0; i < columns[0].size() && !HasFatalFailure(); i += width) {
    const float* const in[] = {&columns[0][i], &columns[1][i], &columns[2][i]};
    Floats out(width);
    words.fma(in[0], in[1], in[2], out.data());
    expect_lanes(out, [&](std::size_t lane) {
      const float a = in[0][lane], b = in[1][lane], c = in[2][lane];
      return rounds_twice ? static_cast<float>(static_cast<double>(a) * b + c) : std::fma(a, b, c);
    });
  }
}

TEST_P(OnVocabulary, ShiftsToTheExponent) {
  std::vector<float> floats = hard_combinations(1, width)[0];
  for (std::size_t i = 0; i < floats.size(); i += width) {
    Floats out(width);
    words.shift_to_exponent(&floats[i], out.data());
    expect_lanes(
        out, [&](std::size_t lane) { return of_bits(bits_of(floats[i + lane]) << 23); }, true);
  }
}

TEST_P(OnVocabulary, SelectsLanes) {
  const int w = words.width;
  std::vector<int> places{-1000000, 1000000};
  for (int i = -w - 1; i <= 2 * w + 1; ++i) places.push_back(i);
  const std::vector<float> hard = hard_floats();
  for (const int begin : places) {
    for (const int end : places) {
      SCOPED_TRACE(std::to_string(begin) + " to " + std::to_string(end));
      const auto is_in = [&](std::size_t lane) {
        return begin <= static_cast<int>(lane) && static_cast<int>(lane) < end;
      };
      for (std::size_t i = 0; i + 2 * width <= hard.size(); i += width) {
        const float *const a = &hard[i], *const b = &hard[i + width];
        Floats out(width);
        words.select_lanes(begin, end, a, b, out.data());
        expect_lanes(out, [&](auto lane) { return is_in(lane) ? a[lane] : b[lane]; }, true);
        if (HasFatalFailure()) return;
      }
      bool any = false;
      for (std::size_t lane = 0; lane < width; ++lane) any = any || is_in(lane);
      ASSERT_EQ(words.any_lanes(begin, end), any);
    }
  }
}

TEST_P(OnVocabulary, SelectsTheLess) {
  const auto columns = hard_combinations(2, width);
  const std::size_t count = columns[0].size();
  for (std::size_t i = 0; i < count; i += width) {
    const float *const x = &columns[0][i], *const y = &columns[1][i];
    const float *const a = &columns[1][count - width - i], *const b = &columns[0][i];
    Floats out(width);
    words.select_less(x, y, a, b, out.data());
    expect_lanes(out, [&](auto lane) { return x[lane] < y[lane] ? a[lane] : b[lane]; }, true);
    if (HasFatalFailure()) return;
    bool any = false;
    for (std::size_t lane = 0; lane < width; ++lane) any = any || x[lane] < y[lane];
    ASSERT_EQ(words.any_less(x, y), any);
  }
  for (std::size_t one = 0; one < width; ++one) {  // and of one lane alone
    Floats low(width, 1.0f);
    low[one] = -1.0f;
    ASSERT_TRUE(words.any_less(low.data(), Floats(width, 0.0f).data())) << "lane " << one;
  }
}

// The sum of numbers that are added exactly in any order; the largest, wherever it stands.
TEST_P(OnVocabulary, ReducesLanes) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    Floats a(width);
    for (float& x : a) x = static_cast<float>(static_cast<int>(random() % 20001) - 10000);
    ASSERT_EQ(words.reduce_add(a.data()), std::accumulate(a.begin(), a.end(), 0.0f));
    for (float& x : a) x = std::ldexp(x, static_cast<int>(random() % 300) - 170);
    if (round % 2 == 0) a[random() % width] = -std::numeric_limits<float>::infinity();
    ASSERT_EQ(words.reduce_max(a.data()), *std::max_element(a.begin(), a.end()));
  }
  for (std::size_t lane = 0; lane < width; ++lane) {
    for (const float special : hard_floats()) {
      SCOPED_TRACE("lane " + std::to_string(lane) + ": " + shown(special));
      Floats a(width, 0.0f);
      a[lane] = special;
      const float sum = words.reduce_add(a.data());
      ASSERT_TRUE(sum == special || (std::isnan(sum) && std::isnan(special)));
      a.assign(width, -std::numeric_limits<float>::infinity());
      a[lane] = special;
      const float largest = words.reduce_max(a.data());
      if (std::isnan(special)) {  // it, or the largest of some of the others
        ASSERT_TRUE(std::isnan(largest) || largest == a[(lane + 1) % width]);
      } else {
        ASSERT_EQ(largest, special);
      }
    }
  }
}

// General floats, in whatever order: no further off than roundings of their magnitudes.
TEST_P(OnVocabulary, ReducesWithinRoundings) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 500; ++round) {
    Floats a(width);
    double sum = 0, magnitudes = 0;
    for (float& x : a) {
      x = normal(random) * std::ldexp(1.0f, static_cast<int>(random() % 20));
      sum += x;
      magnitudes += std::fabs(x);
    }
    ASSERT_NEAR(words.reduce_add(a.data()), sum, 4 * magnitudes * 0x1p-24);
  }
}

TEST_P(OnVocabulary, Transposes) {
  std::mt19937 random(5);
  std::vector<float> floats(width * width);
  for (float& x : floats) x = of_bits(static_cast<std::uint32_t>(random()));
  std::vector<float> out = floats;
  words.transpose(out.data());
  expect_lanes(out, [&](std::size_t i) { return floats[i % width * width + i / width]; }, true);
}

TEST_P(OnVocabulary, AddsTransposed) {
  std::mt19937 random(6);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> floats(width * width);
    for (float& x : floats) x = static_cast<float>(static_cast<int>(random() % 20001) - 10000);
    const auto hard = static_cast<std::size_t>(random() % floats.size());
    if (round >= 10) floats[hard] = hard_floats()[random() % hard_floats().size()];
    Floats out(width);
    words.transpose_add(floats.data(), out.data());
    for (std::size_t lane = 0; lane < width; ++lane) {
      if (round >= 10 && lane == hard / width) {  // one that takes part in no exact sum
        const float one = floats[hard];
        if (!std::isfinite(one)) {
          ASSERT_TRUE(is_same(out[lane], one));
        }
        continue;
      }
      const float* const row = floats.data() + lane * width;
      ASSERT_EQ(out[lane], std::accumulate(row, row + width, 0.0f)) << "lane " << lane;
    }
  }
}

TEST_P(OnVocabulary, PrefetchesWhateverAddress) {
  const GuardedArray<float> array;
  for (const void* const p : {static_cast<const void*>(nullptr), static_cast<const void*>(&array),
                              static_cast<const void*>(array.end())}) {
    words.prefetch(p);
  }
}

}  // namespace
}  // namespace quire::testing
