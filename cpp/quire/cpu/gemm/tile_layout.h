// How rows and sums of a product lie in memory as AMX's tiles load them, and the step that all
// products in tiles consist of.
#pragma once

#include <algorithm>
#include <cstring>

#include "quire/cpu/gemm/finish_columns.h"
#include "quire/cpu/gemm/group_sums.h"

namespace quire {

template <class S>
struct TileLayout {
  static constexpr std::int64_t kLine = 64;
  static constexpr std::int64_t kRowBytes = 64;
  static constexpr std::int64_t kTileBytes = kTileRows * kRowBytes;
  static constexpr std::int64_t kBlockBytes = 2 * kTileBytes;  // of the weight, or of sums
  // Packed rows that stay in a second-level cache beside a stream.
  static constexpr std::int64_t kFewBytes = 1 << 20;
  static constexpr std::int64_t kPartSteps = 512 / kBlockDepth;

  // The sums of groups wait outside of tiles until others have been computed: what has just
  // been stored is not in the cache yet, and who loads it waits.
  static constexpr std::int64_t kGroupRing = 4;
  static constexpr std::int64_t kGroupLead = 2;
  static std::byte* group_room(std::byte* rooms, std::int64_t group) {
    return rooms + group % kGroupRing * 2 * kBlockBytes;
  }

  static std::int64_t tiles(const GemmTask& task) {
    return (task.num_rows + kTileRows - 1) / kTileRows;
  }
  static std::int64_t steps(const GemmTask& task) { return task.depth / kBlockDepth; }
  static std::int64_t x_bytes(const GemmTask& task) {
    return tiles(task) * steps(task) * kTileBytes;
  }
  // Whether a panel goes through tiles from one end of K to the other. Numbers that are unpacked on
  // the way are there for two tiles of rows at most.
  static bool are_few(const GemmTask& task) {
    return x_bytes(task) <= kFewBytes && (task.format == DType::bfloat16 || tiles(task) <= 2);
  }
  // The steps of a part of K; the last part may have fewer.
  static std::int64_t part_steps(const GemmTask& task) {
    return are_few(task) ? steps(task) : kPartSteps;
  }
  // Where 16 rows of a step are among the packed ones, in bytes.
  static std::int64_t x_tile(const GemmTask& task, std::int64_t tile, std::int64_t step) {
    const std::int64_t in_part = step % part_steps(task), begin = step - in_part;
    const std::int64_t count = std::min(part_steps(task), steps(task) - begin);
    return (begin * tiles(task) + tile * count + in_part) * kTileBytes;
  }
  static std::int64_t groups(const GemmTask& task) {
    return task.has_groups ? task.depth / task.group_depth : 0;
  }

  // As tiles of x: [parts of K][16 rows at a time][steps of 32 numbers][16 rows][32], so that what
  // is multiplied with a part of K lies together. Then the sums of each row's groups, where the
  // weight has some.
  static void pack_rows(const GemmTask& task, std::int64_t tile, std::byte* packed) {
    const std::int64_t rows = std::min(kTileRows, task.num_rows - tile * kTileRows);
    // Tiles have as many rows as the first, so that the others end in rows of zeros.
    for (std::int64_t row = 0; row < std::min(kTileRows, task.num_rows); ++row) {
      const std::byte* from = task.x + (tile * kTileRows + row) * task.x_stride;
      std::int64_t rest = row < rows ? 2 * task.row_length : 0;
      for (std::int64_t step = 0; step < steps(task); ++step) {
        std::byte* const to = packed + x_tile(task, tile, step) + row * kRowBytes;
        const std::int64_t count = std::min(rest, kRowBytes);
        if (count == kRowBytes) {
          std::memcpy(to, from, kRowBytes);
        } else {
          std::memset(to, 0, kRowBytes);
          if (count > 0) std::memcpy(to, from, static_cast<std::size_t>(count));
        }
        from += count;
        rest -= count;
      }
      if (row < rows) sum_groups(task, tile * kTileRows + row, packed);
    }
  }

  // The sums of 16 rows' numbers in one group, which stand behind the packed rows.
  static float* x_sums(const GemmTask& task, std::byte* packed, std::int64_t tile,
                       std::int64_t group) {
    return reinterpret_cast<float*>(packed + x_bytes(task)) +
           (tile * groups(task) + group) * kTileRows;
  }

  // The sums of one group, of one or two tiles of rows from `tile` on, times its scales, onto
  // `sums`: what LaneGemm adds, in its order.
  static void add_scaled(const GemmTask& task, const std::byte* packed, std::int64_t tile,
                         std::int64_t group, const std::byte* scales, const std::byte* of_group,
                         std::byte* sums) {
    const auto* const factors = reinterpret_cast<const float*>(scales);
    const std::int64_t rest = task.num_rows - tile * kTileRows;
    for (int i = 0; i < 2 && i * kTileRows < rest; ++i) {
      const float* const x = x_sums(task, const_cast<std::byte*>(packed), tile + i, group);
      const std::int64_t rows = std::min(kTileRows, rest - i * kTileRows);
      for (std::int64_t column = 0; column < kPanelColumns; column += S::kWidth) {
        const auto scale = S::load(factors + column);
        const auto offset = S::load(factors + kPanelColumns + column);
        std::int64_t at =
            i * kBlockBytes + column / kHalfColumns * kTileBytes + column % kHalfColumns * 4;
        for (std::int64_t row = 0; row < rows; ++row, at += kRowBytes) {
          auto* const to = reinterpret_cast<float*>(sums + at);
          const auto sum = S::load(reinterpret_cast<const float*>(of_group + at));
          const auto total = S::fma(sum, scale, S::load(to));
          S::store(to, S::fma(S::set1(x[row]), offset, total));
        }
      }
    }
  }

  // Tiles 0 to 3 are the sums of one or two tiles of rows, 2 x 16 columns each.
  template <int kTiles>
  static void zero_sums() {
    S::template zero_tile<0>();
    S::template zero_tile<1>();
    if constexpr (kTiles == 2) {
      S::template zero_tile<2>();
      S::template zero_tile<3>();
    }
  }
  template <int kTiles>
  static void load_sums(const std::byte* sums) {
    S::template load_tile<0>(sums, kRowBytes);
    S::template load_tile<1>(sums + kTileBytes, kRowBytes);
    if constexpr (kTiles == 2) {
      S::template load_tile<2>(sums + 2 * kTileBytes, kRowBytes);
      S::template load_tile<3>(sums + 3 * kTileBytes, kRowBytes);
    }
  }
  template <int kTiles>
  static void store_sums(std::byte* sums) {
    S::template store_tile<0>(sums, kRowBytes);
    S::template store_tile<1>(sums + kTileBytes, kRowBytes);
    if constexpr (kTiles == 2) {
      S::template store_tile<2>(sums + 2 * kTileBytes, kRowBytes);
      S::template store_tile<3>(sums + 3 * kTileBytes, kRowBytes);
    }
  }
  // One or two tiles of rows times a block.
  template <int kTiles>
  static void add_block(const std::byte* x0, const std::byte* x1, const std::byte* block) {
    S::template load_tile<6>(block, kRowBytes);
    S::template stream_tile<4>(x0, kRowBytes);
    S::template multiply_tiles<0, 4, 6>();
    S::template load_tile<7>(block + kTileBytes, kRowBytes);
    S::template multiply_tiles<1, 4, 7>();
    if constexpr (kTiles == 2) {
      S::template stream_tile<5>(x1, kRowBytes);
      S::template multiply_tiles<2, 5, 6>();
      S::template multiply_tiles<3, 5, 7>();
    }
  }

  // Row after row, so that what lies together in out is written together.
  static void finish(const GemmTask& task, std::int64_t first_panel, std::int64_t panels,
                     const std::byte* sums) {
    for (std::int64_t row = 0; row < task.num_rows; ++row) {
      const std::byte* from = sums + row / kTileRows * kBlockBytes + row % kTileRows * kRowBytes;
      for (std::int64_t i = 0; i < panels; ++i, from += tiles(task) * kBlockBytes) {
        FinishColumns<S>::run(task, row, first_panel + i, reinterpret_cast<const float*>(from),
                              kTileBytes / static_cast<std::int64_t>(sizeof(float)));
      }
    }
  }

 private:
  static void sum_groups(const GemmTask& task, std::int64_t row, std::byte* packed) {
    const std::byte* const first = packed + row % kTileRows * kRowBytes;
    for (std::int64_t group = 0; group < groups(task); ++group) {
      float numbers[kMostGroupDepth];
      for (std::int64_t k = 0; k < task.group_depth; k += kBlockDepth) {
        const std::int64_t step = (group * task.group_depth + k) / kBlockDepth;
        const auto* const from =
            reinterpret_cast<const BFloat16*>(first + x_tile(task, row / kTileRows, step));
        for (std::int64_t i = 0; i < kBlockDepth; i += S::kWidth) {
          S::store(numbers + k + i, S::load(from + i));
        }
      }
      x_sums(task, packed, row / kTileRows, group)[row % kTileRows] =
          GroupSums<S>::sum(numbers, task.group_depth);
    }
  }
};

}  // namespace quire
