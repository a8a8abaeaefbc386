// Copies past the caches: every alignment and length, and not a byte more.
#include "quire/cpu/cache/stream_copy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

namespace quire::testing {
namespace {

constexpr std::int64_t kRoom = 4096;

// Bytes that tell where they are, and never kUntouched.
constexpr std::byte kUntouched{0xee};
std::vector<std::byte> numbered(std::int64_t size) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte((i * 7 + i / 256) % 200);
  return bytes;
}

// Memory that starts a cache line, untouched.
struct Target {
  Target() { std::fill(std::begin(bytes), std::end(bytes), kUntouched); }

  // Whether [begin, end) holds `expected`, and the rest is untouched.
  bool holds(std::int64_t begin, std::int64_t end, const std::byte* expected) const {
    const auto untouched = [](std::byte b) { return b == kUntouched; };
    return std::all_of(bytes, bytes + begin, untouched) &&
           std::equal(bytes + begin, bytes + end, expected) &&
           std::all_of(bytes + end, bytes + kRoom, untouched);
  }

  alignas(64) std::byte bytes[kRoom];
};

TEST(StreamCopy, CopiesEveryAlignmentAndLength) {
  const std::vector<std::byte> source = numbered(kRoom);
  for (std::int64_t to = 0; to < 66; ++to) {
    for (const std::int64_t from : {0, 1, 16, 63}) {
      for (std::int64_t bytes = 0; bytes < 260; bytes += 1 + bytes / 70 * 7) {
        Target target;
        stream_copy(target.bytes + to, source.data() + from, bytes);
        stream_fence();
        ASSERT_TRUE(target.holds(to, to + bytes, source.data() + from))
            << to << " " << from << " " << bytes;
      }
    }
  }
}

TEST(StreamCopy, LineStreamPutsPiecesOneAfterTheOther) {
  const std::vector<std::byte> source = numbered(kRoom);
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    Target target;
    const std::int64_t begin = random() % 130;
    const std::int64_t longest = 1 + random() % LineStream::kMostBytes;
    std::int64_t written = 0;
    {
      LineStream lines(target.bytes + begin);
      for (int pieces = random() % 40; pieces > 0; --pieces) {
        const std::int64_t bytes =
            round % 3 == 0 ? longest : static_cast<std::int64_t>(random()) % (longest + 1);
        if (begin + written + bytes > kRoom) break;
        std::memcpy(lines.next(bytes), source.data() + written, static_cast<std::size_t>(bytes));
        written += bytes;
      }
    }
    stream_fence();
    ASSERT_TRUE(target.holds(begin, begin + written, source.data())) << round;
  }
}

}  // namespace
}  // namespace quire::testing
