// Blocks of GGUF's quantised types against what the package gguf makes of them, bit for bit, and
// what the formulas say of blocks that are put together by hand.
#include "quire/io/gguf_blocks.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "quire/io/tensor_file.h"

namespace quire {
namespace {

constexpr std::int64_t kColumns = 512;

const TensorFile& file_of_others() {
  static const auto file = open_tensor_file("open", QUIRE_TEST_DATA "/gguf/numbers.gguf");
  return *file;
}

std::vector<std::string> quantised() {
  std::vector<std::string> names;
  for (const std::string& name : file_of_others().names()) {
    if (file_of_others().find(concat(name, ".numbers")) != nullptr) names.push_back(name);
  }
  return names;
}

std::vector<float> rows(const std::string& name, std::int64_t begin, std::int64_t end) {
  std::vector<float> numbers((end - begin) * kColumns);
  file_of_others().read_rows(name, begin, end, numbers.data());
  return numbers;
}

void expect_bits(const std::vector<float>& got, const std::vector<float>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    std::uint32_t bits[2];
    std::memcpy(&bits[0], &got[i], 4);
    std::memcpy(&bits[1], &expected[i], 4);
    // the formulas of the package may say 0 with another sign
    if (got[i] == 0 && expected[i] == 0) continue;
    ASSERT_EQ(bits[0], bits[1]) << i << " " << got[i];
  }
}

TEST(GgufBlocks, NumbersAreThoseOfOthers) {
  std::set<std::string> seen;
  for (const std::string& name : quantised()) {
    SCOPED_TRACE(name);
    EXPECT_EQ(file_of_others().find(name)->dtype, name);
    expect_bits(rows(name, 0, 2), rows(concat(name, ".numbers"), 0, 2));
    expect_bits(rows(name, 1, 2), rows(concat(name, ".numbers"), 1, 2));
    seen.insert(name);
  }
  EXPECT_EQ(seen, (std::set<std::string>{"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K",
                                         "Q6_K", "IQ4_NL", "IQ4_XS"}));
}

TEST(GgufBlocks, AffineNumbersAreTheNumbers) {
  std::set<std::string> seen;
  for (const std::string& name : quantised()) {
    const auto format = file_of_others().affine_format(name);
    if (!format) continue;
    SCOPED_TRACE(name);
    constexpr std::int64_t groups = kColumns / kAffineGroup;
    std::vector<std::int8_t> codes(2 * kColumns);
    std::vector<float> scales(2 * groups), offsets(2 * groups), numbers(2 * kColumns);
    file_of_others().read_affine_rows(name, 0, 2, {codes.data(), scales.data(), offsets.data()});
    for (std::int64_t i = 0; i < 2 * kColumns; ++i) {
      const bool fits = format == DType::int8 || (codes[i] >= 0 && codes[i] <= 15);
      ASSERT_TRUE(fits) << static_cast<int>(codes[i]);
      // exact in float64, so that it is rounded once
      numbers[i] = static_cast<float>(static_cast<double>(scales[i / kAffineGroup]) * codes[i] +
                                      static_cast<double>(offsets[i / kAffineGroup]));
    }
    expect_bits(numbers, rows(concat(name, ".numbers"), 0, 2));
    std::vector<std::int8_t> last(kColumns);
    std::vector<float> last_scales(groups), last_offsets(groups);
    file_of_others().read_affine_rows(name, 1, 2,
                                      {last.data(), last_scales.data(), last_offsets.data()});
    EXPECT_EQ(last, std::vector(codes.begin() + kColumns, codes.end()));
    EXPECT_EQ(last_scales, std::vector(scales.begin() + groups, scales.end()));
    EXPECT_EQ(last_offsets, std::vector(offsets.begin() + groups, offsets.end()));
    seen.insert(concat(name, " ", name_of(*format)));
  }
  EXPECT_EQ(seen,
            (std::set<std::string>{"Q4_0 int4", "Q4_1 int4", "Q4_K int4", "Q5_0 int8", "Q5_1 int8",
                                   "Q5_K int8", "Q8_0 int8", "IQ4_NL int8", "IQ4_XS int8"}));
}

TEST(GgufBlocks, ABlockOfQ4_0) {
  std::byte block[18] = {std::byte{0x00}, std::byte{0x38}};  // 0.5
  for (int i = 0; i < 16; ++i) block[2 + i] = static_cast<std::byte>(i | (15 - i) << 4);
  float numbers[32];
  gguf_format(2)->read(block, numbers);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(numbers[i], 0.5f * static_cast<float>(i - 8));
    EXPECT_EQ(numbers[i + 16], 0.5f * static_cast<float>(7 - i));
  }
}

TEST(GgufBlocks, TypesAreKnownByTheirNumbers) {
  EXPECT_EQ(gguf_format(0)->name, "F32");
  EXPECT_EQ(gguf_format(1)->name, "F16");
  EXPECT_EQ(gguf_format(30)->name, "BF16");
  EXPECT_EQ(gguf_format(14)->name, "Q6_K");
  EXPECT_EQ(gguf_format(14)->bytes_of(512), 420);
  EXPECT_EQ(gguf_format(10)->read, nullptr);
  for (const std::uint32_t type : {4u, 5u, 9u, 15u, 31u, 36u, 1000u, 4294967295u}) {
    EXPECT_EQ(gguf_format(type), nullptr) << type;
  }
}

}  // namespace
}  // namespace quire
