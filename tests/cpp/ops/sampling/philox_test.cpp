// Random numbers against the test vectors that their authors publish with them (Random123,
// kat_vectors).
#include "quire/ops/sampling/philox.h"

#include <gtest/gtest.h>

namespace quire::testing {
namespace {

using Words = std::array<std::uint32_t, 4>;

TEST(Philox, HasTheAuthorsNumbers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, SeedsAndPositionsOf64BitsDiffer) {
  EXPECT_EQ(uniform_at(0, 0), static_cast<double>(0x6627e8d5e169c58du >> 11) * 0x1p-53);
  for (const std::int64_t one : {std::int64_t{1}, std::int64_t{1} << 32, std::int64_t{-1}}) {
    EXPECT_NE(uniform_at(one, 0), uniform_at(0, 0));
    EXPECT_NE(uniform_at(0, one), uniform_at(0, 0));
    EXPECT_NE(uniform_at(0, one), uniform_at(one, 0));
  }
}

}  // namespace
}  // namespace quire::testing
