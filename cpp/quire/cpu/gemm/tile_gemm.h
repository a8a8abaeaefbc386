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

  // As tiles of x: [parts of K][16 rows at a time][steps of 32 numbers][16 rows][32], so that what
  // is multiplied with a part of K lies together.
  static void pack_rows(const GemmTask& task, std::int64_t tile, std::byte* packed) {
    const std::int64_t rows = std::min(kTileRows, task.num_rows - tile * kTileRows);
    for (std::int64_t row = 0; row < kTileRows; ++row) {
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
      if (task.format == DType::int4) sum_groups(task, tile * kTileRows + row, packed);
    }
  }

  static void multiply(const GemmTask& task, const std::byte* packed, const PanelRange& panels,
                       std::byte* scratch) {
    S::configure_tiles(static_cast<int>(std::min(task.num_rows, kTileRows)));
    if (are_few(task) && task.format == DType::bfloat16) {
      for (std::int64_t i = 0; i < panels.count; ++i) {
        const std::byte* const panel = panels.data + i * task.panel_bytes;
        add_steps(task, packed, {0, steps(task), panel, panel + kAheadInStream, task.panel_bytes},
                  scratch);
        finish(task, {panels.begin + i, 1, nullptr}, scratch);
      }
    } else {
      multiply_in_parts(task, packed, panels, scratch);
    }
    S::release_tiles();
  }

  static constexpr GemmPath kPath = {&packed_bytes, &scratch_bytes, &pack_rows, &multiply,
                                     &panels_at_once};

 private:
  static constexpr std::int64_t kLine = 64;
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
  static std::int64_t steps(const GemmTask& task) { return task.depth / kBlockDepth; }
  static std::int64_t x_bytes(const GemmTask& task) {
    return tiles(task) * steps(task) * kTileBytes;
  }
  static bool are_few(const GemmTask& task) { return x_bytes(task) <= kFewBytes; }
  // The steps of a part of K; the last part may have fewer.
  static std::int64_t part_steps(const GemmTask& task) {
    return are_few(task) && task.format == DType::bfloat16 ? steps(task) : kPartSteps;
  }
  // Where 16 rows of a step are among the packed ones, in bytes.
  static std::int64_t x_tile(const GemmTask& task, std::int64_t tile, std::int64_t step) {
    const std::int64_t in_part = step % part_steps(task), begin = step - in_part;
    const std::int64_t count = std::min(part_steps(task), steps(task) - begin);
    return (begin * tiles(task) + tile * count + in_part) * kTileBytes;
  }
  static std::int64_t groups(const GemmTask& task) {
    return task.format == DType::int4 ? task.depth / task.group_depth : 0;
  }

  // Of a packed row.
  static void sum_groups(const GemmTask& task, std::int64_t row, std::byte* packed) {
    auto* const sums = reinterpret_cast<float*>(packed + x_bytes(task)) + row * groups(task);
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
    std::byte* const unpacked = sums_of(task, panels.count, scratch);
    for (std::int64_t begin = 0; begin < steps(task); begin += kPartSteps) {
      const std::int64_t count = std::min(kPartSteps, steps(task) - begin);
      for (std::int64_t i = 0; i < panels.count; ++i) {
        const std::byte* const from =
            panels.data + i * task.panel_bytes + bytes_of_steps(task, begin);
        Part part{begin, count, from, next_part(task, panels, begin + count, i),
                  bytes_of_steps(task, count)};
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
    finish(task, panels, scratch);
  }

  // What is read after a part of panel i that ends at step `end`: the same of the next panel; after
  // the last one the next part of the first, and at last the panels that follow these.
  static const std::byte* next_part(const GemmTask& task, const PanelRange& panels,
                                    std::int64_t end, std::int64_t i) {
    if (i + 1 < panels.count) {
      const std::int64_t begin = (end - 1) / kPartSteps * kPartSteps;
      return panels.data + (i + 1) * task.panel_bytes + bytes_of_steps(task, begin);
    }
    if (end < steps(task)) return panels.data + bytes_of_steps(task, end);
    return panels.data + panels.count * task.panel_bytes;
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

  // What is asked for while a tile of rows is multiplied with a part, lines for each step: the
  // weight that comes next, into the second-level cache, and the sums that wait there, into the
  // first. Without these each tile of sums is waited for: an eighth of the time.
  struct Ahead {
    const std::byte* weight;
    std::int64_t weight_lines;
    const std::byte* sums;
    std::int64_t sums_lines;
  };
  static std::int64_t lines_of(std::int64_t bytes, std::int64_t count) {
    return (bytes / kLine + count - 1) / count;
  }

  // Of all rows and the blocks of a part.
  static void add_steps(const GemmTask& task, const std::byte* packed, const Part& part,
                        std::byte* sums) {
    // the lines that are asked for are shared out among all steps
    const std::int64_t all_steps = part.count * ((tiles(task) + 1) / 2);
    Ahead ahead{part.next, lines_of(part.next_bytes, all_steps), nullptr, 0};
    for (std::int64_t tile = 0; tile < tiles(task); tile += 2) {
      if (part.count < steps(task)) {
        ahead.sums = sums + (tile + 2) * kBlockBytes;
        ahead.sums_lines = lines_of(2 * kBlockBytes, part.count);
      }
      const std::byte* const x = packed + x_tile(task, tile, part.begin);
      std::byte* const to = sums + tile * kBlockBytes;
      if (tile + 1 < tiles(task)) {
        add_blocks<2>(x, x + part.count * kTileBytes, part.blocks, part.count, to, part.begin == 0,
                      ahead);
      } else {
        add_blocks<1>(x, x, part.blocks, part.count, to, part.begin == 0, ahead);
      }
      ahead.weight += part.count * ahead.weight_lines * kLine;
    }
  }

  // The same of int4, group by group: the sums of a group leave the tiles, and are multiplied by
  // scales in vectors.
  static void add_groups(const GemmTask& task, const std::byte* packed, const Part& part,
                         const std::byte* panel_part, std::byte* sums, std::byte* room) {
    const std::int64_t group_steps = task.group_depth / kBlockDepth;
    if (part.begin == 0) {
      std::memset(sums, 0, static_cast<std::size_t>(tiles(task) * kBlockBytes));
    }
    const float* const x_sums = reinterpret_cast<const float*>(packed + x_bytes(task));
    for (std::int64_t tile = 0; tile < tiles(task); tile += 2) {
      const std::int64_t count = std::min<std::int64_t>(2, tiles(task) - tile);
      for (std::int64_t step = 0; step < part.count; step += group_steps) {
        const std::int64_t group = (part.begin + step) / group_steps;
        const std::byte* const x = packed + x_tile(task, tile, part.begin + step);
        const std::byte* const blocks = part.blocks + step * kBlockBytes;
        if (count == 2) {
          add_blocks<2>(x, x + part.count * kTileBytes, blocks, group_steps, room, true, {});
        } else {
          add_blocks<1>(x, x, blocks, group_steps, room, true, {});
        }
        const auto* const scales = reinterpret_cast<const float*>(
            panel_part + bytes_of_steps(task, step + group_steps) - 2 * kScaleBytes);
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
                         std::int64_t count, std::byte* sums, bool is_first, const Ahead& ahead) {
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
    // locals: what tiles write may be anything, `ahead` included
    const std::byte *weight = ahead.weight, *next_sums = ahead.sums;
    const std::int64_t weight_lines = ahead.weight_lines, sums_lines = ahead.sums_lines;
    for (std::int64_t i = 0; i < count; ++i, block += kBlockBytes, x0 += kTileBytes) {
      for (std::int64_t n = 0; n < weight_lines; ++n, weight += kLine) S::prefetch(weight);
      for (std::int64_t n = 0; n < sums_lines; ++n, next_sums += kLine) S::prefetch_near(next_sums);
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

  // Row after row, so that what lies together in out is written together.
  static void finish(const GemmTask& task, const PanelRange& panels, const std::byte* sums) {
    for (std::int64_t row = 0; row < task.num_rows; ++row) {
      const std::byte* from = sums + row / kTileRows * kBlockBytes + row % kTileRows * kRowBytes;
      for (std::int64_t i = 0; i < panels.count; ++i, from += tiles(task) * kBlockBytes) {
        FinishColumns<S>::run(task, row, panels.begin + i, reinterpret_cast<const float*>(from),
                              kTileBytes / static_cast<std::int64_t>(sizeof(float)));
      }
    }
  }
};

}  // namespace quire
