#include "quire/io/xxh64.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace quire {
namespace {

static_assert(std::endian::native == std::endian::little, "files and sums are little-endian");

constexpr std::uint64_t kPrime1 = 0x9e3779b185ebca87u;
constexpr std::uint64_t kPrime2 = 0xc2b2ae3d27d4eb4fu;
constexpr std::uint64_t kPrime3 = 0x165667b19e3779f9u;
constexpr std::uint64_t kPrime4 = 0x85ebca77c2b2ae63u;
constexpr std::uint64_t kPrime5 = 0x27d4eb2f165667c5u;

template <class T>
std::uint64_t load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

std::uint64_t round(std::uint64_t lane, std::uint64_t word) {
  return std::rotl(lane + word * kPrime2, 31) * kPrime1;
}

}  // namespace

void Xxh64::add_stripe(const std::byte* stripe) {
  for (std::size_t i = 0; i < 4; ++i) {
    lanes_[i] = round(lanes_[i], load<std::uint64_t>(stripe + 8 * i));
  }
}

void Xxh64::add(std::span<const std::byte> bytes) {
  const std::size_t begun = total_ % kStripe;
  total_ += bytes.size();
  if (begun > 0) {
    const std::size_t taken = std::min(bytes.size(), kStripe - begun);
    std::copy_n(bytes.begin(), taken, rest_.begin() + begun);
    bytes = bytes.subspan(taken);
    if (begun + taken < kStripe) return;
    add_stripe(rest_.data());
  }
  for (; bytes.size() >= kStripe; bytes = bytes.subspan(kStripe)) add_stripe(bytes.data());
  std::copy(bytes.begin(), bytes.end(), rest_.begin());
}

std::uint64_t Xxh64::value() const {
  std::uint64_t sum = kPrime5;
  if (total_ >= kStripe) {
    sum = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
          std::rotl(lanes_[3], 18);
    for (const std::uint64_t lane : lanes_) sum = (sum ^ round(0, lane)) * kPrime1 + kPrime4;
  }
  sum += total_;
  const std::byte* at = rest_.data();
  const std::byte* const end = at + total_ % kStripe;
  for (; end - at >= 8; at += 8) {
    sum = std::rotl(sum ^ round(0, load<std::uint64_t>(at)), 27) * kPrime1 + kPrime4;
  }
  for (; end - at >= 4; at += 4) {
    sum = std::rotl(sum ^ load<std::uint32_t>(at) * kPrime1, 23) * kPrime2 + kPrime3;
  }
  for (; at < end; ++at) sum = std::rotl(sum ^ load<std::uint8_t>(at) * kPrime5, 11) * kPrime1;
  sum = (sum ^ (sum >> 33)) * kPrime2;
  sum = (sum ^ (sum >> 29)) * kPrime3;
  return sum ^ (sum >> 32);
}

std::uint64_t xxh64(std::span<const std::byte> bytes) {
  Xxh64 sum;
  sum.add(bytes);
  return sum.value();
}

std::string checksum_text(std::uint64_t checksum) {
  std::string text(16, '0');
  for (std::size_t i = 16; i-- > 0; checksum >>= 4) text[i] = "0123456789abcdef"[checksum & 15];
  return text;
}

}  // namespace quire
