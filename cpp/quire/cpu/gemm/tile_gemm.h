// Matrix products in AMX's tiles, of bfloat16 and of weights whose numbers are bfloat16s.
//
// A step multiplies one or two tiles of 16 rows of x with a block of the weight, 32 numbers of K by
// 32 columns, into up to four tiles of sums. A tile of few rows costs little more than the loads of
// the weight that it is multiplied with, so that one row goes through tiles as well. The hardware's
// order of sums (simd/tile_model.h) does not know in which tile a row is.
//
// Few rows stay in the second-level cache: then all of K is summed in tiles, and the weight is read
// once, from one end to the other. Many rows are cut: 512 numbers of K of some panels at a time,
// whose sums wait in the second-level cache. Numbers of 8 and of 4 bits become bfloat16s, exactly,
// before all rows are multiplied with these 512 of them.
#pragma once

#include <algorithm>
#include <cstring>

#include "quire/cpu/gemm/finish_columns.h"
#include "quire/cpu/gemm/group_sums.h"
#include "quire/cpu/gemm/packed_numbers.h"

namespace quire {

template <class S>
struct TileGemm {
  // Tiles of x, and of int4 the sums of each row's groups.
  static std::int64_t packed_bytes(const GemmTask& task) {
    return x_bytes(task) + tiles(task) * kTileRows * groups(task) * std::int64_t{sizeof(float)};
  }

  // The sums of some panels; then blocks that are unpacked, and the sums of a group.
  static std::int64_t scratch_bytes(const GemmTask& task, std::int64_t panels) {
    const std::int64_t sums = panels * tiles(task) * kBlockBytes;
    return sums + (task.format == DType::bfloat16 ? 0 : (kPartSteps + 2) * kBlockBytes);
  }

  static std::int64_t panels_at_once(const GemmTask& task) { return are_few(task) ? 1 : 16; }

  // As tiles of x: [K/32][16 rows][32], of the rows that there are.
  static void pack_rows(const GemmTask& task, std::int64_t tile, std::byte* packed) {
    const std::int64_t rows = std::min(kTileRows, task.num_rows - tile * kTileRows);
    for (std::int64_t row = 0; row < kTileRows; ++row) {
      std::byte* const to = packed + tile * tile_stride(task) + row * kRowBytes;
      const std::byte* const from = task.x + (tile * kTileRows + row) * task.x_stride;
      const std::int64_t length = row < rows ? 2 * task.row_length : 0;
      for (std::int64_t step = 0; step < task.depth / kBlockDepth; ++step) {
        const std::int64_t rest = std::clamp<std::int64_t>(length - step * kRowBytes, 0, kRowBytes);
        if (rest == kRowBytes) {
          std::memcpy(to + step * kTileBytes, from + step * kRowBytes, kRowBytes);
          continue;
        }
        std::memset(to + step * kTileBytes, 0, kRowBytes);
        if (rest > 0) {
          std::memcpy(to + step * kTileBytes, from + step * kRowBytes,
                      static_cast<std::size_t>(rest));
        }
      }
      if (task.format == DType::int4) sum_groups(task, to, tile * kTileRows + row, packed);
    }
  }

  static void multiply(const GemmTask& task, const std::byte* packed, const PanelRange& panels,
                       std::byte* scratch) {
    S::configure_tiles(static_cast<int>(std::min(task.num_rows, kTileRows)));
    if (are_few(task) && task.format == DType::bfloat16) {
      const std::int64_t steps = task.depth / kBlockDepth;
      for (std::int64_t i = 0; i < panels.count; ++i) {
        const std::byte* const panel = panels.data + i * task.panel_bytes;
        add_steps(task, packed, {0, steps, panel, panel + kAheadInStream, task.panel_bytes},
                  scratch);
        finish(task, panels.begin + i, scratch);
      }
    } else {
      multiply_in_parts(task, packed, panels, scratch);
    }
    S::release_tiles();
  }

  static constexpr GemmPath kPath = {&packed_bytes, &scratch_bytes, &pack_rows, &multiply,
                                     &panels_at_once};

 private:
  static constexpr std::int64_t kRowBytes = 64;
  static constexpr std::int64_t kTileBytes = kTileRows * kRowBytes;
  static constexpr std::int64_t kBlockBytes = 2 * kTileBytes;  // of the weight, or of sums
  static constexpr std::int64_t kScaleBytes = kPanelColumns * sizeof(float);
  // Packed rows that stay in a second-level cache beside a stream.
  static constexpr std::int64_t kFewBytes = 1 << 20;
  static constexpr std::int64_t kPartSteps = 512 / kBlockDepth;
  // How far before its use a weight that is read once is asked for, into the second-level cache.
  static constexpr std::int64_t kAheadInStream = 2880;

  static std::int64_t tiles(const GemmTask& task) {
    return (task.num_rows + kTileRows - 1) / kTileRows;
  }
  static std::int64_t tile_stride(const GemmTask& task) {
    return task.depth / kBlockDepth * kTileBytes;
  }
  static std::int64_t x_bytes(const GemmTask& task) { return tiles(task) * tile_stride(task); }
  static bool are_few(const GemmTask& task) { return x_bytes(task) <= kFewBytes; }
  static std::int64_t groups(const GemmTask& task) {
    return task.format == DType::int4 ? task.depth / task.group_depth : 0;
  }

  // Of a packed row, whose numbers lie a tile apart.
  static void sum_groups(const GemmTask& task, const std::byte* x, std::int64_t row,
                         std::byte* packed) {
    auto* const sums = reinterpret_cast<float*>(packed + x_bytes(task)) + row * groups(task);
    for (std::int64_t group = 0; group < groups(task); ++group) {
      float numbers[kMostGroupDepth];
      for (std::int64_t k = 0; k < task.group_depth; k += kBlockDepth, x += kTileBytes) {
        const auto* const from = reinterpret_cast<const BFloat16*>(x);
        for (std::int64_t i = 0; i < kBlockDepth; i += S::kWidth) {
          S::store(numbers + k + i, S::load(from + i));
        }
      }
      sums[group] = GroupSums<S>::sum(numbers, task.group_depth);
    }
  }

  // Some blocks of a panel, as tiles, and the bytes that are asked for meanwhile.
  struct Part {
    std::int64_t begin, count;  // steps
    const std::byte* blocks;
    const std::byte* next;
    std::int64_t next_bytes;
  };

  static void multiply_in_parts(const GemmTask& task, const std::byte* packed,
                                const PanelRange& panels, std::byte* scratch) {
    const std::int64_t steps = task.depth / kBlockDepth;
    std::byte* const unpacked = sums_of(task, panels.count, scratch);
    for (std::int64_t begin = 0; begin < steps; begin += kPartSteps) {
      const std::int64_t count = std::min(kPartSteps, steps - begin);
      for (std::int64_t i = 0; i < panels.count; ++i) {
        const std::byte* const from =
            panels.data + i * task.panel_bytes + bytes_of_steps(task, begin);
        // what comes next is the same part of the next panel
        Part part{begin, count, from, from + task.panel_bytes, bytes_of_steps(task, count)};
        std::byte* const sums = sums_of(task, i, scratch);
        if (task.format != DType::bfloat16) {
          for (std::int64_t step = 0; step < count; ++step) {
            unpack(task, from + bytes_of_steps(task, step), unpacked + step * kBlockBytes);
          }
          part.blocks = unpacked;
        }
        if (task.format == DType::int4) {
          add_groups(task, packed, part, from, sums, unpacked + kPartSteps * kBlockBytes);
        } else {
          add_steps(task, packed, part, sums);
        }
      }
    }
    for (std::int64_t i = 0; i < panels.count; ++i) {
      finish(task, panels.begin + i, sums_of(task, i, scratch));
    }
  }

  static std::byte* sums_of(const GemmTask& task, std::int64_t panel, std::byte* scratch) {
    return scratch + panel * tiles(task) * kBlockBytes;
  }

  // From the beginning of a panel, or of a group, to that of a step.
  static std::int64_t bytes_of_steps(const GemmTask& task, std::int64_t steps) {
    const std::int64_t depth = steps * kBlockDepth;
    constexpr std::int64_t kInt4BlockBytes = kPanelColumns * kBlockDepth / 2;
    if (task.format != DType::int4) return task.panel_bytes / task.depth * depth;
    return depth / task.group_depth * task.group_bytes +
           depth % task.group_depth / kBlockDepth * kInt4BlockBytes;
  }

  // A block of int8 or int4 as one of bfloat16: 32 pairs of K and of columns, which whole numbers
  // of 8 bits are exactly.
  static void unpack(const GemmTask& task, const std::byte* block, std::byte* to) {
    if (task.format == DType::int8) return unpack_numbers<Int8>(block, to);
    unpack_numbers<Int4Numbers>(block, to);
  }
  template <class T>
  static void unpack_numbers(const std::byte* block, std::byte* to) {
    for (int half = 0; half < 2; ++half, block += PackedNumbers<S, T>::kHalfBytes) {
      for (int pair = 0; pair < kBlockDepth / 2; ++pair) {
        for (int column = 0; column < kHalfColumns; column += S::kWidth, to += 4 * S::kWidth) {
          const auto numbers = PackedNumbers<S, T>::pair(block, pair, column);
          S::store(reinterpret_cast<float*>(to), S::pair_up_floats(numbers.lo, numbers.hi));
        }
      }
    }
  }

  // Of all rows and the blocks of a part.
  static void add_steps(const GemmTask& task, const std::byte* packed, const Part& part,
                        std::byte* sums) {
    // the lines that are asked for are shared out among all steps
    const std::int64_t all_steps = part.count * ((tiles(task) + 1) / 2);
    const std::int64_t lines = (part.next_bytes / 64 + all_steps - 1) / all_steps;
    const std::byte* next = part.next;
    for (std::int64_t tile = 0; tile < tiles(task); tile += 2) {
      const std::byte* const x = packed + tile * tile_stride(task) + part.begin * kTileBytes;
      std::byte* const to = sums + tile * kBlockBytes;
      if (tile + 1 < tiles(task)) {
        add_blocks<2>(x, x + tile_stride(task), part.blocks, part.count, to, part.begin == 0, next,
                      lines);
      } else {
        add_blocks<1>(x, x, part.blocks, part.count, to, part.begin == 0, next, lines);
      }
      next += part.count * lines * 64;
    }
  }

  // The same of int4, group by group: the sums of a group leave the tiles, and are multiplied by
  // scales in vectors.
  static void add_groups(const GemmTask& task, const std::byte* packed, const Part& part,
                         const std::byte* panel_part, std::byte* sums, std::byte* room) {
    const std::int64_t steps = task.group_depth / kBlockDepth;
    if (part.begin == 0) {
      std::memset(sums, 0, static_cast<std::size_t>(tiles(task) * kBlockBytes));
    }
    const float* const x_sums = reinterpret_cast<const float*>(packed + x_bytes(task));
    for (std::int64_t tile = 0; tile < tiles(task); tile += 2) {
      const std::int64_t count = std::min<std::int64_t>(2, tiles(task) - tile);
      for (std::int64_t step = 0; step < part.count; step += steps) {
        const std::int64_t group = (part.begin + step) / steps;
        const std::byte* const x =
            packed + tile * tile_stride(task) + (part.begin + step) * kTileBytes;
        const std::byte* const blocks = part.blocks + step * kBlockBytes;
        if (count == 2) {
          add_blocks<2>(x, x + tile_stride(task), blocks, steps, room, true, nullptr, 0);
        } else {
          add_blocks<1>(x, x, blocks, steps, room, true, nullptr, 0);
        }
        const auto* const scales = reinterpret_cast<const float*>(
            panel_part + bytes_of_steps(task, step + steps) - 2 * kScaleBytes);
        const std::int64_t rows = std::min(count * kTileRows, task.num_rows - tile * kTileRows);
        for (std::int64_t row = 0; row < rows; ++row) {
          const float x_sum = x_sums[(tile * kTileRows + row) * groups(task) + group];
          const std::int64_t at = row / kTileRows * kBlockBytes + row % kTileRows * kRowBytes;
          add_scaled(scales, x_sum, room + at, sums + tile * kBlockBytes + at);
        }
      }
    }
  }

  // A row of a group, both halves: what LaneGemm adds, in its order.
  static void add_scaled(const float* scales, float x_sum, const std::byte* group,
                         std::byte* sums) {
    for (std::int64_t i = 0; i < kPanelColumns; i += S::kWidth) {
      const std::int64_t at = i / kHalfColumns * kTileBytes + i % kHalfColumns * 4;
      auto* const to = reinterpret_cast<float*>(sums + at);
      const auto sum = S::load(reinterpret_cast<const float*>(group + at));
      auto total = S::fma(sum, S::load(scales + i), S::load(to));
      total = S::fma(S::set1(x_sum), S::load(scales + kPanelColumns + i), total);
      S::store(to, total);
    }
  }

  template <int kTiles>
  static void add_blocks(const std::byte* x0, const std::byte* x1, const std::byte* block,
                         std::int64_t count, std::byte* sums, bool is_first, const std::byte* next,
                         std::int64_t lines) {
    if (is_first) {
      S::template zero_tile<0>();
      S::template zero_tile<1>();
      if constexpr (kTiles == 2) {
        S::template zero_tile<2>();
        S::template zero_tile<3>();
      }
    } else {
      S::template load_tile<0>(sums, kRowBytes);
      S::template load_tile<1>(sums + kTileBytes, kRowBytes);
      if constexpr (kTiles == 2) {
        S::template load_tile<2>(sums + 2 * kTileBytes, kRowBytes);
        S::template load_tile<3>(sums + 3 * kTileBytes, kRowBytes);
      }
    }
    for (std::int64_t i = 0; i < count; ++i, block += kBlockBytes, x0 += kTileBytes) {
      for (std::int64_t line = 0; line < lines; ++line, next += 64) S::prefetch(next);
      S::template load_tile<6>(block, kRowBytes);
      S::template stream_tile<4>(x0, kRowBytes);
      S::template multiply_tiles<0, 4, 6>();
      S::template load_tile<7>(block + kTileBytes, kRowBytes);
      S::template multiply_tiles<1, 4, 7>();
      if constexpr (kTiles == 2) {
        S::template stream_tile<5>(x1, kRowBytes);
        S::template multiply_tiles<2, 5, 6>();
        S::template multiply_tiles<3, 5, 7>();
        x1 += kTileBytes;
      }
    }
    S::template store_tile<0>(sums, kRowBytes);
    S::template store_tile<1>(sums + kTileBytes, kRowBytes);
    if constexpr (kTiles == 2) {
      S::template store_tile<2>(sums + 2 * kTileBytes, kRowBytes);
      S::template store_tile<3>(sums + 3 * kTileBytes, kRowBytes);
    }
  }

  static void finish(const GemmTask& task, std::int64_t panel, const std::byte* sums) {
    for (std::int64_t row = 0; row < task.num_rows; ++row) {
      const std::byte* const from =
          sums + row / kTileRows * 2 * kTileBytes + row % kTileRows * kRowBytes;
      FinishColumns<S>::run(task, row, panel, reinterpret_cast<const float*>(from),
                            kTileBytes / static_cast<std::int64_t>(sizeof(float)));
    }
  }
};

}  // namespace quire
