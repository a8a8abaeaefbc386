// The keys of a part, a tile at a time, each KV head in turn; meanwhile the lines that come next
// are asked for.
#pragma once

#include "quire/cpu/line_queue.h"

namespace quire {

template <class S, int kKeys>
struct TileWalk {
  using Rows = AttentionRows<S>;
  using Tile = KeyTile<S, kKeys>;
  using Lines = LineQueue<S>;

  // Calls attend(tile, KV head, lines) for every tile of keys [key_begin, key_end) and head.
  // work_of_head(num_keys): what attend does of such a tile, in the units of lines.advance().
  //
  // Where a head's rows of a block lie together, as in a pool, the next head is asked for. Where a
  // token's heads do, the next tile is, row by row: memory is fastest in its own order.
  template <class Work, class Attend>
  static void run(const AttentionTask& task, const AttentionUnit& unit, std::int64_t key_begin,
                  std::int64_t key_end, Work work_of_head, Attend attend) {
    if (key_begin >= key_end) return;
    const std::int64_t heads = unit.kv_head_end - unit.kv_head_begin;
    const bool by_token = heads > 1 && heads_lie_together(task.k, task.head_dim) &&
                          heads_lie_together(task.v, task.v_head_dim);
    Tile tiles[2];
    int current = 0;
    tiles[current].find(task, unit, key_begin, key_end);
    for (std::int64_t key = key_begin; key < key_end; key += kKeys) {
      const bool last = key + kKeys >= key_end;
      const Tile& tile = tiles[current];
      const Tile& next = last ? tile : tiles[current ^ 1];
      if (!last) tiles[current ^ 1].find(task, unit, key + kKeys, key_end);
      const std::int64_t work = work_of_head(tile.num_keys());
      Lines lines = Lines::of_tile(task, next, unit.kv_head_begin, heads, last, work * heads);
      for (std::int64_t head = unit.kv_head_begin; head < unit.kv_head_end; ++head) {
        if (!by_token) {
          const bool next_head = head + 1 < unit.kv_head_end;
          lines = Lines::of_tile(task, next_head ? tile : next,
                                 next_head ? head + 1 : unit.kv_head_begin, 1, last && !next_head,
                                 work);
        }
        attend(tile, head, lines);
      }
      current ^= 1;
    }
  }

 private:
  static bool heads_lie_together(const CacheView& cache, std::int64_t head_dim) {
    return cache.head_stride == head_dim * Rows::item_size(cache.dtype);
  }
};

}  // namespace quire
