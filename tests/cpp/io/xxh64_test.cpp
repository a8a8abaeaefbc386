// XXH64 against the vectors that others publish, however the bytes are cut.
#include "quire/io/xxh64.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

namespace quire {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// Of xxHash's own tests, and of `xxhsum -H1`.
TEST(Xxh64, KnownSums) {
  EXPECT_EQ(checksum_text(xxh64(bytes_of(""))), "ef46db3751d8e999");
  EXPECT_EQ(checksum_text(xxh64(bytes_of("a"))), "d24ec4f1a98c6e5b");
  EXPECT_EQ(checksum_text(xxh64(bytes_of("abc"))), "44bc2cf5ad770999");
  EXPECT_EQ(checksum_text(xxh64(bytes_of("Nobody inspects the spammish repetition"))),
            "fbcea83c8a378bf1");
}

TEST(Xxh64, PiecesSumAsTheWhole) {
  std::vector<std::byte> bytes(257);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 167 + 13);
  for (std::size_t size = 0; size <= bytes.size(); size += 1 + size / 9) {
    const auto whole = std::span<const std::byte>(bytes).first(size);
    for (std::size_t piece = 1; piece <= 70; ++piece) {
      Xxh64 sum;
      for (std::size_t at = 0; at < size; at += piece) {
        sum.add(whole.subspan(at, std::min(piece, size - at)));
      }
      ASSERT_EQ(sum.value(), xxh64(whole)) << size << " in pieces of " << piece;
    }
  }
}

TEST(Xxh64, EveryBitCounts) {
  std::vector<std::byte> bytes(75, std::byte{0x5a});
  const std::uint64_t sum = xxh64(bytes);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte(1 << bit % 8);
    EXPECT_NE(xxh64(bytes), sum) << bit;
    bytes[bit / 8] ^= std::byte(1 << bit % 8);
  }
}

}  // namespace
}  // namespace quire
