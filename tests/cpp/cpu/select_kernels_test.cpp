#include "quire/cpu/select_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "quire/base/check.h"
#include "support/with_instruction_set.h"

namespace quire {
namespace {

using testing::WithInstructionSet;

constexpr DType kCaches[] = {DType::float32,       DType::float16,     DType::bfloat16, DType::int8,
                             DType::float8_e4m3fn, DType::float8_e5m2, DType::int4};

TEST(SelectKernels, RefusesWhatTheMachineLacksEveryTime) {
  {
    const WithInstructionSet none("pentium");
    for (int i = 0; i < 2; ++i) {
      try {
        selected_kernels();
        FAIL();
      } catch (const ValueError& error) {
        const std::string what = error.what();
        EXPECT_NE(what.find("QUIRE_CPU: got \"pentium\""), std::string::npos) << what;
        for (const std::string_view name : available_instruction_sets()) {
          EXPECT_NE(what.find(name), std::string::npos) << what;
        }
      }
    }
  }
  EXPECT_NO_THROW(selected_kernels());
}

TEST(SelectKernels, TakesTheRestAsItIsWhereNothingIsNamed) {
  const std::vector<std::string_view> here = available_instruction_sets();
  const SelectedKernels& best = selected_kernels();
  for (const DType cache : kCaches) {
    const std::string_view name = best.attention(cache).direct->instruction_set;
    EXPECT_EQ(std::count(here.begin(), here.end(), name), 1);
    EXPECT_EQ(name == here.back(), here.size() == 1) << "scalar only where alone";
  }
  const WithInstructionSet empty("");
  EXPECT_EQ(&selected_kernels(), &best);
}

TEST(SelectKernels, OneThatIsNamedServesEveryPath) {
  for (const std::string_view name : available_instruction_sets()) {
    const WithInstructionSet on_it(name);
    const SelectedKernels& selected = selected_kernels();
    EXPECT_EQ(&selected, &kernels_named(name));
    // What a set has no kernels of its own for, the next one computes.
    const bool has_pairs = name == "avx512bf16" || name == "amx";
    EXPECT_EQ(selected.operators->name, has_pairs ? "avx512" : name);
    EXPECT_EQ(selected.gemm->name, name == "avx512bf16" ? "avx512" : name);
    for (const DType cache : kCaches) {
      const AttentionChoice& attention = selected.attention(cache);
      EXPECT_EQ(attention.tiles != nullptr, name == "amx" && cache == DType::bfloat16);
      if (name == "amx") continue;  // the rest is as the next ones do it
      attention.for_fused(
          [&](const FusedKernels& kernels) { EXPECT_EQ(kernels.instruction_set, name); });
      EXPECT_EQ(attention.gather->instruction_set, name);
      EXPECT_EQ(attention.block_mass->instruction_set, name);
    }
    if (name == "amx") continue;
    EXPECT_EQ(selected.cache->instruction_set, name);
    EXPECT_EQ(selected.probe->instruction_set, name);
  }
}

TEST(SelectKernels, SaysWhyAnInstructionSetIsMissing) {
  const std::vector<std::string_view> here = available_instruction_sets();
  for (const MissingInstructionSet& set : missing_instruction_sets()) {
    EXPECT_EQ(std::count(here.begin(), here.end(), set.name), 0) << set.name;
    try {
      kernels_named(set.name);
      FAIL() << set.name;
    } catch (const ValueError& error) {
      EXPECT_NE(std::string(error.what()).find(set.reason), std::string::npos) << error.what();
    }
  }
}

TEST(SelectKernels, ReadsTheEnvironmentOnceUnlessItIsTold) {
  const std::string_view last = available_instruction_sets().back();
  const SelectedKernels& best = selected_kernels();
  setenv("QUIRE_CPU", std::string(last).c_str(), 1);
  EXPECT_EQ(&selected_kernels(), &best);
  read_environment_again();
  EXPECT_EQ(selected_kernels().cache->instruction_set, last);
  unsetenv("QUIRE_CPU");
  EXPECT_EQ(selected_kernels().cache->instruction_set, last);
  read_environment_again();
  EXPECT_EQ(&selected_kernels(), &best);
}

}  // namespace
}  // namespace quire
