// XXH64, a checksum of 64 bits that keeps up with memory: by the specification that comes with
// xxHash (Yann Collet, doc/xxhash_spec.md), with seed 0. It finds accidents, not forgeries.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace quire {

// The checksum of all bytes given to add, however they are cut.
class Xxh64 {
 public:
  void add(std::span<const std::byte> bytes);
  std::uint64_t value() const;

 private:
  static constexpr std::size_t kStripe = 32;

  void add_stripe(const std::byte* stripe);

  std::array<std::uint64_t, 4> lanes_ = {0x60ea27eeadc0b5d6u, 0xc2b2ae3d27d4eb4fu, 0,
                                         0x61c8864e7a143579u};
  std::array<std::byte, kStripe> rest_{};  // the last total_ % kStripe bytes
  std::uint64_t total_ = 0;
};

std::uint64_t xxh64(std::span<const std::byte> bytes);

// 16 hexadecimal digits, as the tool xxhsum prints it.
std::string checksum_text(std::uint64_t checksum);

}  // namespace quire
