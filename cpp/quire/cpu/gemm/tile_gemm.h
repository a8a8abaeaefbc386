// Matrix products in AMX's tiles, of bfloat16 and of weights whose numbers are bfloat16s.
//
// A step multiplies one or two tiles of 16 rows of x with a block of the weight, 32 numbers of K by
// 32 columns, into up to four tiles of sums. A tile of few rows costs little more than the loads of
// the weight that it is multiplied with, so that one row goes through tiles as well (of int8 three:
// linear_launch.cpp). The hardware's order of sums (simd/tile_model.h) does not know in which tile
// a row is.
//
// Few rows stay in the second-level cache: then all of K is summed in tiles, and the weight is read
// once, from one end to the other (of numbers of 8 and of 4 bits: tile_stream.h). Many rows are
// cut: 512 numbers of K of some panels at a time, whose sums wait in the second-level cache.
// Numbers of 8 and of 4 bits become bfloat16s, exactly, before all rows are multiplied with these
// 512 of them.
#pragma once

#include "quire/cpu/gemm/tile_stream.h"

namespace quire {

template <class S>
struct TileGemm : private TileLayout<S> {
  // Tiles of x, and the sums of each row's groups where the weight has some.
  static std::int64_t packed_bytes(const GemmTask& task) {
    return x_bytes(task) + tiles(task) * kTileRows * groups(task) * std::int64_t{sizeof(float)};
  }

  // The sums of some panels; then blocks that are unpacked, and the sums of some groups.
  static std::int64_t scratch_bytes(const GemmTask& task, std::int64_t panels) {
    const std::int64_t sums = panels * tiles(task) * kBlockBytes;
    if (task.format == DType::bfloat16) return sums;
    const std::int64_t in_parts = (kPartSteps + 2 * Layout::kGroupRing) * kBlockBytes;
    return sums + std::max(TileStream<S>::scratch_bytes(), in_parts);
  }

  static std::int64_t panels_at_once(const GemmTask& task) { return are_few(task) ? 1 : 16; }

  static void multiply(const GemmTask& task, const std::byte* packed, const PanelRange& panels,
                       std::byte* scratch) {
    S::configure_tiles(static_cast<int>(std::min(task.num_rows, kTileRows)));
    if (are_few(task)) {
      for (std::int64_t i = 0; i < panels.count; ++i) {
        multiply_whole(task, packed, panels.data + i * task.panel_bytes, scratch);
        finish(task, panels.begin + i, 1, scratch);
      }
    } else {
      multiply_in_parts(task, packed, panels, scratch);
    }
    S::release_tiles();
  }

  static constexpr GemmPath kPath = {&packed_bytes, &scratch_bytes, &TileLayout<S>::pack_rows,
                                     &multiply, &panels_at_once};

 private:
  using Layout = TileLayout<S>;
  using Layout::are_few, Layout::finish, Layout::groups, Layout::kBlockBytes, Layout::kLine,
      Layout::kPartSteps, Layout::kTileBytes, Layout::steps, Layout::tiles, Layout::x_bytes,
      Layout::x_tile;
  // How many bytes before its use a weight that is read once is asked for, into the second-level
  // cache.
  static constexpr std::int64_t kAheadInStream = 2880;

  // All of K at once, of few rows.
  static void multiply_whole(const GemmTask& task, const std::byte* packed, const std::byte* panel,
                             std::byte* sums) {
    std::byte* const room = sums + tiles(task) * kBlockBytes;
    if (task.format == DType::int8 && task.has_groups) {
      TileStream<S>::template multiply<Int8InGroups>(task, packed, panel, sums, room);
    } else if (task.format == DType::int8) {
      TileStream<S>::template multiply<Int8>(task, packed, panel, sums, room);
    } else if (task.format == DType::int4) {
      TileStream<S>::template multiply<Int4Numbers>(task, packed, panel, sums, room);
    } else {
      add_steps(task, packed, {0, steps(task), panel, panel + kAheadInStream, task.panel_bytes},
                sums);
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
        if (task.has_groups) {
          add_groups(task, packed, part, from, sums, unpacked + kPartSteps * kBlockBytes);
        } else {
          add_steps(task, packed, part, sums);
        }
      }
    }
    finish(task, panels.begin, panels.count, scratch);
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
    if (!task.has_groups) return task.panel_bytes / task.depth * depth;
    const std::int64_t numbers = task.group_bytes - kGroupScaleBytes;
    return depth / task.group_depth * task.group_bytes +
           numbers / task.group_depth * (depth % task.group_depth);
  }

  static void unpack(const GemmTask& task, const std::byte* block, std::byte* to) {
    if (task.format == DType::int8) {
      UnpackBlocks<S>::unpack(Int8{}, block, to);
    } else {
      UnpackBlocks<S>::unpack(Int4Numbers{}, block, to);
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

  // The same group by group: the sums of a group leave the tiles, and are multiplied by
  // scales in vectors.
  static void add_groups(const GemmTask& task, const std::byte* packed, const Part& part,
                         const std::byte* panel_part, std::byte* sums, std::byte* rooms) {
    const std::int64_t group_steps = task.group_depth / kBlockDepth;
    const std::int64_t of_part = part.count / group_steps;
    const std::int64_t count = of_part * ((tiles(task) + 1) / 2);
    if (part.begin == 0) {
      std::memset(sums, 0, static_cast<std::size_t>(tiles(task) * kBlockBytes));
    }
    Ahead ahead{part.next, lines_of(part.next_bytes, count * group_steps), nullptr, 0};
    // all groups of the part for one or two tiles of rows, then for the next
    for (std::int64_t n = 0; n < count + Layout::kGroupLead; ++n) {
      if (n < count) {
        const std::int64_t tile = n / of_part * 2, step = n % of_part * group_steps;
        const std::byte* const x = packed + x_tile(task, tile, part.begin + step);
        const std::byte* const blocks = part.blocks + step * kBlockBytes;
        std::byte* const room = Layout::group_room(rooms, n);
        if (tile + 1 < tiles(task)) {
          add_blocks<2>(x, x + part.count * kTileBytes, blocks, group_steps, room, true, ahead);
        } else {
          add_blocks<1>(x, x, blocks, group_steps, room, true, ahead);
        }
        ahead.weight += group_steps * ahead.weight_lines * kLine;
      }
      if (const std::int64_t last = n - Layout::kGroupLead; last >= 0) {
        const std::int64_t tile = last / of_part * 2, group = last % of_part;
        const std::byte* const scales =
            panel_part + (group + 1) * task.group_bytes - kGroupScaleBytes;
        Layout::add_scaled(task, packed, tile, part.begin / group_steps + group, scales,
                           Layout::group_room(rooms, last), sums + tile * kBlockBytes);
      }
    }
  }

  template <int kTiles>
  static void add_blocks(const std::byte* x0, const std::byte* x1, const std::byte* block,
                         std::int64_t count, std::byte* sums, bool is_first, const Ahead& ahead) {
    if (is_first) {
      Layout::template zero_sums<kTiles>();
    } else {
      Layout::template load_sums<kTiles>(sums);
    }
    // locals: what tiles write may be anything, `ahead` included
    const std::byte *weight = ahead.weight, *next_sums = ahead.sums;
    const std::int64_t weight_lines = ahead.weight_lines, sums_lines = ahead.sums_lines;
    for (std::int64_t i = 0; i < count; ++i, block += kBlockBytes) {
      for (std::int64_t n = 0; n < weight_lines; ++n, weight += kLine) S::prefetch(weight);
      for (std::int64_t n = 0; n < sums_lines; ++n, next_sums += kLine) S::prefetch_near(next_sums);
      Layout::template add_block<kTiles>(x0, x1, block);
      x0 += kTileBytes;
      x1 += kTileBytes;
    }
    Layout::template store_sums<kTiles>(sums);
  }
};

}  // namespace quire
