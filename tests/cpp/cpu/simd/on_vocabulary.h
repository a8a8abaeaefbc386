// Tests that run on the vocabulary of every instruction set that is built, and are skipped where
// this processor lacks it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "cpu/simd/words.h"
#include "quire/cpu/select_kernels.h"
#include "support/hard_floats.h"

namespace quire::testing {

inline constexpr const Words* kAllWords[] = {
    &kScalarWords,
#if defined(__x86_64__)
    &kAvx2Words,
    &kAvx512Words,
    &kAvx512Bf16Words,
#elif defined(__aarch64__)
    &kNeonWords,
#endif
};

// Prints as the name of its instruction set.
struct Vocabulary {
  const Words* words;
  friend void PrintTo(const Vocabulary& vocabulary, std::ostream* stream) {
    *stream << vocabulary.words->name;
  }
};

inline std::vector<Vocabulary> vocabularies(bool (*are_wanted)(const Words&)) {
  std::vector<Vocabulary> wanted;
  for (const Words* const words : kAllWords) {
    if (are_wanted(*words)) wanted.push_back({words});
  }
  return wanted;
}

inline std::string name_of(const ::testing::TestParamInfo<Vocabulary>& info) {
  return std::string(info.param.words->name);
}

class OnVocabulary : public ::testing::TestWithParam<Vocabulary> {
 protected:
  void SetUp() override {
    const std::vector<std::string_view> here = available_instruction_sets();
    if (std::find(here.begin(), here.end(), words.name) == here.end()) {
      GTEST_SKIP() << "this processor has no " << words.name;
    }
  }

  using Floats = std::vector<float>;

  // `result` must be what `expected` says of each lane; NaNs with the same bits where asked.
  template <class Expected>
  void expect_lanes(std::span<const float> result, Expected expected, bool nan_bits = false) {
    for (std::size_t lane = 0; lane < result.size(); ++lane) {
      const float want = expected(lane);
      const bool same =
          nan_bits ? bits_of(result[lane]) == bits_of(want) : is_same(result[lane], want);
      ASSERT_TRUE(same) << "lane " << lane << ": got " << shown(result[lane]) << ", expected "
                        << shown(want);
    }
  }

  const Words& words = *GetParam().words;
  const std::size_t width = static_cast<std::size_t>(words.width);
};

}  // namespace quire::testing
