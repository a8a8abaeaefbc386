// The keys of a part, a tile at a time, each KV head in turn; meanwhile the lines that come next
// are asked for.
#pragma once

#include "quire/base/is_interrupted.h"
#include "quire/cpu/attention/line_queue.h"
#include "quire/cpu/attention/part_rows.h"
#include "quire/cpu/attention/tile_copies.h"

namespace quire {

// Where the tiles of a part begin and end: at its first key, and so many keys on.
template <int kKeys>
struct EvenTiles {
  // Keys and values that are asked for together, at most: those that are in use and those that come
  // next are to find room in the second-level cache.
  static constexpr std::int64_t kAskedBytes = 128 * 1024;
  // Of the tile that begins at `key`, if it is not the part's last.
  static std::int64_t end_of(std::int64_t key) { return key + kKeys; }
  // Where the next one begins.
  static std::int64_t after(std::int64_t end) { return end; }
};

template <class S, int kKeys>
struct TileWalk {
  using Rows = AttentionRows<S>;
  using Tile = KeyTile<S, kKeys>;
  using Copies = TileCopies<S, kKeys>;
  using Lines = LineQueue<S>;
  using Extents = TileExtents<S>;

  // Tiles between two looks for an interruption: a millisecond's at most, and no less than that a
  // look costs nothing.
  static constexpr int kTilesPerLook = 8;

  // Takes the keys of `part` into the states of its rows: prepare(), where there are any, and then
  // attend(), as run() calls it.
  template <class Prepare, class Work, class Attend>
  static void run_rows(const AttentionTask& read, const PartRows<S>& rows,
                       const AttentionPart& part, const AttentionPart* upcoming, Prepare prepare,
                       Work work_of_head, Attend attend) {
    if (part.key_begin >= part.key_end) return;
    prepare();
    run(read, part, upcoming, work_of_head, [&](const Tile& tile, std::int64_t head, Lines& lines) {
      attend(tile, head, lines);
      rows.after_tile(part, tile, head);
    });
  }

  // Calls attend(tile, KV head, lines) for every tile and head of `part`, which has keys, or, if it
  // takes that, attend(tile, first head, end of heads, lines) for all heads that are asked for
  // together. The tile's rows are read as `read` says, but in the second form as they are stored:
  // who takes several heads makes the copies of each. work_of_head(num_keys): what attend does of
  // such a tile and a head, in the units of lines.advance().
  //
  // As many heads as there is room for are asked for together, in the order of memory, while as
  // many before them are attended to. After the last tile comes the first of `upcoming`, if there
  // is one, as memory would rest otherwise. Ends early where the call is interrupted.
  template <class Work, class Attend, class Steps = EvenTiles<kKeys>>
  static void run(const AttentionTask& read, const AttentionPart& part,
                  const AttentionPart* upcoming, Work work_of_head, Attend attend,
                  Steps steps = {}) {
    const bool copied = read.stored != nullptr;
    const AttentionTask& task = copied ? *read.stored : read;
    const AttentionUnit& unit = part.unit;
    const std::int64_t together =
        Extents::heads_at_a_time(task, kKeys, unit.kv_head_end - unit.kv_head_begin,
                                 Steps::kAskedBytes);
    if (upcoming != nullptr && upcoming->key_begin >= upcoming->key_end) upcoming = nullptr;
    Tile tiles[2];
    Tile copies;
    Extents extents;
    int current = 0;
    int walked = 0;
    const auto end_of = [&](std::int64_t key) {
      return Rows::smaller(steps.end_of(key), part.key_end);
    };
    tiles[current].find(task, unit, part.key_begin, end_of(part.key_begin));
    std::int64_t next_key;
    for (std::int64_t key = part.key_begin; key < part.key_end; key = next_key) {
      next_key = steps.after(end_of(key));
      const Tile& tile = tiles[current];
      Tile& next = tiles[current ^ 1];
      const bool last = next_key >= part.key_end;
      const bool none = last && upcoming == nullptr;
      if (!last) next.find(task, unit, next_key, end_of(next_key));
      if (last && !none) {
        next.find(task, upcoming->unit, upcoming->key_begin, upcoming->key_end);
      }
      const AttentionUnit& next_unit = last && !none ? upcoming->unit : unit;
      const std::int64_t next_heads = next_unit.kv_head_end - next_unit.kv_head_begin;
      const std::int64_t work = work_of_head(tile.num_keys());
      for (std::int64_t head = unit.kv_head_begin; head < unit.kv_head_end;) {
        const std::int64_t end = Rows::smaller(head + together, unit.kv_head_end);
        if (end < unit.kv_head_end) {
          extents.assign(task, tile, end, Rows::smaller(together, unit.kv_head_end - end));
        } else if (!none) {
          extents.assign(task, next, next_unit.kv_head_begin, Rows::smaller(together, next_heads));
        } else {
          extents.clear();
        }
        Lines lines(extents, work * (end - head));
        if constexpr (requires { attend(tile, head, end, lines); }) {
          attend(tile, head, end, lines);
          head = end;
        } else {
          for (; head < end; ++head) {
            if (copied) Copies::make(task, unit, tile, head, read.staging, copies);
            attend(copied ? copies : tile, head, lines);
          }
        }
      }
      current ^= 1;
      if (++walked % kTilesPerLook == 0 && is_interrupted()) return;
    }
  }
};

}  // namespace quire
