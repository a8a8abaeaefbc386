// Matrix products of bfloat16 in AMX's tiles.
//
// All numbers of rows go through tiles, one row too: a tile of few rows costs little more than the
// loads of the weight that it is multiplied with. A step multiplies one or two tiles of 16 rows of
// x with a block of the weight, 32 numbers of K by 32 columns, into up to four tiles of sums. The
// hardware's order of sums (simd/tile_model.h) does not know in which tile a row is.
//
// Few rows stay in the second-level cache: then all of K is summed in tiles, and the weight is read
// once, from one end to the other. Many rows are cut: 512 numbers of K of some panels at a time,
// whose sums wait in the second-level cache.
#pragma once

#include <algorithm>
#include <cstring>

#include "quire/cpu/gemm/finish_columns.h"

namespace quire {

template <class S>
struct TileGemm {
  static std::int64_t packed_bytes(const GemmTask& task) { return tiles(task) * tile_stride(task); }

  static std::int64_t scratch_bytes(const GemmTask& task, std::int64_t panels) {
    return (are_few(task) ? 1 : panels) * tiles(task) * 2 * kTileBytes;
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
    }
  }

  static void multiply(const GemmTask& task, const std::byte* packed, const PanelRange& panels,
                       std::byte* scratch) {
    S::configure_tiles(static_cast<int>(std::min(task.num_rows, kTileRows)));
    if (are_few(task)) {
      for (std::int64_t i = 0; i < panels.count; ++i) {
        const std::int64_t steps = task.depth / kBlockDepth;
        add_steps(task, packed, panels.data + i * task.panel_bytes, 0, steps, kAheadInStream,
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
  static constexpr std::int64_t kBlockBytes = 2 * kTileBytes;  // of the weight
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
  static bool are_few(const GemmTask& task) { return packed_bytes(task) <= kFewBytes; }

  static void multiply_in_parts(const GemmTask& task, const std::byte* packed,
                                const PanelRange& panels, std::byte* scratch) {
    const std::int64_t steps = task.depth / kBlockDepth;
    for (std::int64_t step = 0; step < steps; step += kPartSteps) {
      for (std::int64_t i = 0; i < panels.count; ++i) {
        // what comes next is the same part of the next panel
        add_steps(task, packed, panels.data + i * task.panel_bytes, step,
                  std::min(kPartSteps, steps - step), task.panel_bytes, sums_of(task, i, scratch));
      }
    }
    for (std::int64_t i = 0; i < panels.count; ++i) {
      finish(task, panels.begin + i, sums_of(task, i, scratch));
    }
  }

  static std::byte* sums_of(const GemmTask& task, std::int64_t panel, std::byte* scratch) {
    return scratch + panel * tiles(task) * 2 * kTileBytes;
  }

  // Of all rows and one panel, `count` blocks from `step` on.
  static void add_steps(const GemmTask& task, const std::byte* packed, const std::byte* panel,
                        std::int64_t step, std::int64_t count, std::int64_t ahead,
                        std::byte* sums) {
    const std::byte* const blocks = panel + step * kBlockBytes;
    // The lines of these blocks, shared out among all steps.
    const std::int64_t all_steps = count * ((tiles(task) + 1) / 2);
    const std::int64_t lines = (count * kBlockBytes / 64 + all_steps - 1) / all_steps;
    const std::byte* next = blocks + ahead;
    for (std::int64_t tile = 0; tile < tiles(task); tile += 2) {
      const std::byte* const x = packed + tile * tile_stride(task) + step * kTileBytes;
      std::byte* const to = sums + tile * 2 * kTileBytes;
      if (tile + 1 < tiles(task)) {
        add_blocks<2>(x, x + tile_stride(task), blocks, count, to, step == 0, next, lines);
      } else {
        add_blocks<1>(x, x, blocks, count, to, step == 0, next, lines);
      }
      next += count * lines * 64;
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
