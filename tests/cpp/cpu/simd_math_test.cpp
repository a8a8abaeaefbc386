// Functions of floats on every vocabulary, against those of the standard library in double.
#include <cmath>
#include <vector>

#include "cpu/simd/on_vocabulary.h"

namespace quire::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(All, OnVocabulary,
                         ::testing::ValuesIn(vocabularies([](const Words&) { return true; })),
                         name_of);

// Floats of all sizes, and the hard ones.
std::vector<float> floats_in_steps(std::size_t width) {
  std::vector<float> floats = hard_floats();
  for (std::uint64_t bits = 0; bits < 1ull << 32; bits += 9973) {
    floats.push_back(of_bits(static_cast<std::uint32_t>(bits)));
  }
  while (floats.size() % width != 0) floats.push_back(0);
  return floats;
}

TEST_P(OnVocabulary, Exp2IsWithinTwoUnits) {
  const std::vector<float> floats = floats_in_steps(width);
  Floats out(floats.size());
  for (std::size_t i = 0; i < floats.size(); i += width) words.exp2(&floats[i], &out[i]);
  for (std::size_t i = 0; i < floats.size(); ++i) {
    const float x = floats[i];
    if (x > 126) continue;  // for whom it is not
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(out[i]));
    } else if (x < -126) {
      ASSERT_EQ(bits_of(out[i]), 0u) << shown(x);
    } else {
      const double exact = std::exp2(static_cast<double>(x));
      const double unit = std::ldexp(1.0, std::ilogb(exact) - 23);
      ASSERT_LE(std::fabs(out[i] - exact), 2 * unit) << shown(x);
    }
  }
}

TEST_P(OnVocabulary, TanhIsRight) {
  const std::vector<float> floats = floats_in_steps(width);
  Floats out(floats.size());
  for (std::size_t i = 0; i < floats.size(); i += width) words.tanh(&floats[i], &out[i]);
  for (std::size_t i = 0; i < floats.size(); ++i) {
    if (std::isnan(floats[i])) {
      ASSERT_TRUE(std::isnan(out[i]));
      continue;
    }
    const double exact = std::tanh(static_cast<double>(floats[i]));
    ASSERT_LE(std::fabs(out[i] - exact), 3e-7 * std::fabs(exact)) << shown(floats[i]);
  }
}

}  // namespace
}  // namespace quire::testing
