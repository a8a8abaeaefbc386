// Products of up to two tiles of rows with numbers that are unpacked on the way.
//
// A panel is read from one end of K to the other. Its blocks are unpacked some steps before tiles
// load them, into a ring, so that what was stored has left for the first-level cache by then.
#pragma once

#include "quire/cpu/gemm/tile_layout.h"
#include "quire/cpu/gemm/unpack_blocks.h"

namespace quire {

template <class S>
struct TileStream {
  using Layout = TileLayout<S>;

  // The ring, and the sums of some groups.
  static constexpr std::int64_t scratch_bytes() {
    return (kRing + 2 * Layout::kGroupRing) * Layout::kBlockBytes;
  }

  // The sums of all rows and one panel.
  template <class T>
  static void multiply(const GemmTask& task, const std::byte* packed, const std::byte* panel,
                       std::byte* sums, std::byte* scratch) {
    if (task.num_rows > kTileRows) {
      multiply_tiles<T, 2>(task, packed, panel, sums, scratch);
    } else {
      multiply_tiles<T, 1>(task, packed, panel, sums, scratch);
    }
  }

 private:
  template <class T, int kTiles>
  static void multiply_tiles(const GemmTask& task, const std::byte* packed, const std::byte* panel,
                             std::byte* sums, std::byte* scratch) {
    constexpr bool kHasGroups = PackedNumbers<S, T>::kHasGroups;
    const std::int64_t all_steps = Layout::steps(task);
    const std::int64_t group_steps = task.group_depth / kBlockDepth;
    std::byte* const rooms = scratch + kRing * Layout::kBlockBytes;
    Unpacker<T> unpacker{panel, scratch, all_steps, group_steps, group_steps};
    for (std::int64_t i = 0; i < kLead; ++i) unpacker.next();
    Layout::template zero_sums<kTiles>();
    if constexpr (kHasGroups) std::memset(sums, 0, kTiles * Layout::kBlockBytes);

    const auto finish_group = [&](std::int64_t group) {
      const std::byte* const scales = panel + (group + 1) * task.group_bytes - kGroupScaleBytes;
      Layout::add_scaled(task, packed, 0, group, scales, Layout::group_room(rooms, group), sums);
    };
    const std::byte *x0 = packed, *x1 = packed + all_steps * Layout::kTileBytes;
    std::int64_t group = 0;  // without groups one that has all steps
    for (std::int64_t step = 0; step < all_steps; ++group) {
      for (const std::int64_t end = step + group_steps; step < end; ++step) {
        unpacker.next();
        Layout::template add_block<kTiles>(x0, x1, slot(scratch, step));
        x0 += Layout::kTileBytes;
        x1 += Layout::kTileBytes;
      }
      if constexpr (kHasGroups) {
        Layout::template store_sums<kTiles>(Layout::group_room(rooms, group));
        Layout::template zero_sums<kTiles>();
        if (group >= Layout::kGroupLead) finish_group(group - Layout::kGroupLead);
      }
    }
    if constexpr (kHasGroups) {
      for (std::int64_t last = std::max<std::int64_t>(0, group - Layout::kGroupLead); last < group;
           ++last) {
        finish_group(last);
      }
    } else {
      Layout::template store_sums<kTiles>(sums);
    }
  }

  // Unpacks a panel, a block at a time.
  template <class T>
  struct Unpacker {
    const std::byte* from;
    std::byte* ring;
    std::int64_t rest;  // blocks of the panel
    std::int64_t group_steps, rest_of_group;
    std::int64_t step = 0;

    void next() {
      if (rest == 0) return;
      --rest;
      constexpr std::int64_t kBytes = 2 * PackedNumbers<S, T>::kHalfBytes;
      for (std::int64_t at = 0; at < kBytes; at += Layout::kLine) S::prefetch(from + kAhead + at);
      from = UnpackBlocks<S>::unpack(T{}, from, slot(ring, step++));
      if constexpr (PackedNumbers<S, T>::kHasGroups) {
        if (--rest_of_group > 0) return;
        rest_of_group = group_steps;
        for (std::int64_t at = 0; at < kGroupScaleBytes; at += Layout::kLine) {
          S::prefetch(from + kAhead + at);
        }
        from += kGroupScaleBytes;
      }
    }
  };

  static std::byte* slot(std::byte* ring, std::int64_t step) {
    return ring + step % kRing * Layout::kBlockBytes;
  }

  static constexpr std::int64_t kRing = 8;  // blocks
  static constexpr std::int64_t kLead = 6;  // steps from unpacking to multiplying
  // How far before unpacking the weight is asked for, into the second-level cache, in bytes.
  static constexpr std::int64_t kAhead = 8192;
};

}  // namespace quire
