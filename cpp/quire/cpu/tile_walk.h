// The keys of a part, a tile at a time, each KV head in turn; meanwhile the lines that come next
// are asked for.
#pragma once

#include "quire/cpu/line_queue.h"
#include "quire/cpu/staged_tile.h"

namespace quire {

template <class S, int kKeys>
struct TileWalk {
  using Rows = AttentionRows<S>;
  using Tile = KeyTile<S, kKeys>;
  using Lines = LineQueue<S>;

  // Calls attend(tile, KV head, lines) for every tile and head of `part`, which has keys. The
  // tile's rows are read as `read` says. work_of_head(num_keys): what attend does of such a tile,
  // in the units of lines.advance().
  //
  // Where a head's rows of a block lie together, as in a pool, the next head is asked for. Where a
  // token's heads do, the next tile is, row by row: memory is fastest in its own order. After the
  // last tile comes the first of `upcoming`, if there is one, as memory would rest otherwise.
  template <class Work, class Attend>
  static void run(const AttentionTask& read, const AttentionPart& part,
                  const AttentionPart* upcoming, Work work_of_head, Attend attend) {
    const bool staged = read.stored != nullptr;
    const AttentionTask& task = staged ? *read.stored : read;
    const AttentionUnit& unit = part.unit;
    const std::int64_t heads = unit.kv_head_end - unit.kv_head_begin;
    const bool by_token = heads > 1 && heads_lie_together(task.k, task.head_dim) &&
                          heads_lie_together(task.v, task.v_head_dim);
    if (upcoming != nullptr && upcoming->key_begin >= upcoming->key_end) upcoming = nullptr;
    Tile tiles[2];
    Tile copies;
    typename Lines::Spans spans;
    int current = 0;
    tiles[current].find(task, unit, part.key_begin, part.key_end);
    for (std::int64_t key = part.key_begin; key < part.key_end; key += kKeys) {
      const Tile& tile = tiles[current];
      Tile& next = tiles[current ^ 1];
      const bool last = key + kKeys >= part.key_end;
      const bool none = last && upcoming == nullptr;
      if (!last) next.find(task, unit, key + kKeys, part.key_end);
      if (last && !none) {
        next.find(task, upcoming->unit, upcoming->key_begin, upcoming->key_end);
      }
      const AttentionUnit& next_unit = last && !none ? upcoming->unit : unit;
      const std::int64_t next_heads = next_unit.kv_head_end - next_unit.kv_head_begin;
      const std::int64_t work = work_of_head(tile.num_keys());
      Lines lines = Lines::of_tile(task, none ? tile : next, next_unit.kv_head_begin, next_heads,
                                   none || !by_token, work * heads, spans);
      for (std::int64_t head = unit.kv_head_begin; head < unit.kv_head_end; ++head) {
        if (!by_token) {
          const bool next_head = head + 1 < unit.kv_head_end;
          lines = Lines::of_tile(task, next_head || none ? tile : next,
                                 next_head ? head + 1 : next_unit.kv_head_begin, 1,
                                 none && !next_head, work, spans);
        }
        if (staged) StagedTile<S, kKeys>::make(task, tile, head, read.staging, copies);
        attend(staged ? copies : tile, head, lines);
      }
      current ^= 1;
    }
  }

 private:
  static bool heads_lie_together(const CacheView& cache, std::int64_t head_dim) {
    return cache.head_stride == Rows::row_bytes(cache.dtype, head_dim);
  }
};

}  // namespace quire
