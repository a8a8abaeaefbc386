// Keys and values that stay after their sequence, for others that begin with the same tokens.
//
//   inserted   [ system prompt | question ]      blocks stay when the table is freed
//   match      [ system prompt | other question ]
//                 shared ^      ^ rows of a block that begins alike are copied
//
// Sharing takes nothing away: any number of tables have the same blocks at once, and writing to a
// shared one copies it (block_table.h). A table that goes on in a block which it has inserted in
// part copies it as well.
//
// In a pool with open blocks what is cached is sealed, all of it, where the table that was inserted
// reads its last blocks open: so a sequence that begins with a match does not have the bits of one
// that was computed from its first token on. Full precision for what is cached would take several
// times the memory of what is sealed.
//
// Matching goes by token ids, all of them compared; a prefix in one namespace is unknown in every
// other. Blocks that nobody else holds are given back when the pool runs out, inside the allocation
// that needs them, those of the lowest priority first, of one priority those used least recently,
// and the end of a sequence before its beginning. What is pinned stays.
//
// Of a sequence with a window, whose old blocks were dropped, the others are cached at their
// places, and found by who asks with a window. A token id and a little more is kept for each
// dropped token before them.
//
// Memory: 136 bytes for a cached block of 16 tokens with ids in [0, 2^32) (prefix_nodes.h), and at
// most 16 times as much for one that is inserted again and again at other places (radix_tree.h), 4
// for every block of the pool, and 640 KiB to remember why something is missing (miss_memory.h).
//
// Every method is safe to call from several threads. The tree is guarded by the pool's lock, so
// that the order of locks stays as it is: tables, then the pool.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "quire/kv/pool/block_pool.h"
#include "quire/kv/prefix/prefix_snapshot.h"
#include "quire/kv/prefix/prefix_window.h"
#include "quire/kv/prefix/radix_tree.h"
#include "quire/kv/table/block_table.h"

namespace quire {

struct PrefixCacheStats {
  // Matches that found nothing, by what is remembered of their first block: see MissReason.
  struct Misses {
    std::int64_t cold = 0;
    std::int64_t short_ = 0;
    std::int64_t evicted = 0;
    std::int64_t other_namespace = 0;
    std::int64_t preempted = 0;
  };

  std::int64_t hits = 0;            // matches that found at least a token
  std::int64_t misses = 0;          // matches that found none
  std::int64_t tokens_matched = 0;  // found
  std::int64_t tokens_asked = 0;    // in all token_ids
  std::int64_t evictions = 0;       // cached blocks that had to go; not those of clear()
  Misses misses_by_reason;          // their sum is misses
};

class PrefixCache {
 public:
  // Holds at most max_blocks blocks; throws ValueError where that is below 0.
  explicit PrefixCache(std::shared_ptr<BlockPool> pool,
                       std::optional<std::int64_t> max_blocks = std::nullopt);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  const std::shared_ptr<BlockPool>& pool() const { return pool_; }
  std::optional<std::int64_t> max_blocks() const { return max_blocks_; }

  // A new table of the longest cached prefix, at most all tokens but the last: attention needs one
  // to start from. With open blocks it reads full blocks sealed, and the rows of a last one that it
  // has in part open: what they stand for when sealed, rounded to bfloat16. Any number is an id,
  // one below 0 as well. Throws OutOfBlocks where rows are to be copied and no block is free or
  // cached. Whatever throws has changed nothing.
  //
  // With a window that has a size, the longest prefix of which all is there that the next query
  // sees: the window's tokens before it, and the sink tokens. The table has these blocks, and holes
  // in place of the others, cached or not. Throws ValueError for a window with a number below 0.
  std::shared_ptr<BlockTable> match(TokenIds token_ids, std::string_view space = "",
                                    const PrefixWindow& window = {});

  // How many tokens match would find now. Takes nothing and counts nothing, and what is evicted
  // next stays the same.
  std::int64_t peek(TokenIds token_ids, std::string_view space = "",
                    const PrefixWindow& window = {}) const;

  // Makes the table's first token_ids.size() tokens matchable, which must have been written. The
  // table stays as it is. What is there already stays too; where max_blocks are cached and all in
  // use, only the first blocks are kept. Where the table has holes, what stands after them is found
  // by a match with a window, and a block that comes later fills them. Throws ValueError for more
  // ids than the table has tokens, a table of which keep has removed some, a freed one, or one of
  // another pool.
  // With open blocks only full ones are kept, which are sealed, for others than the table: what is
  // matched later reads them so, and has other bits than the table while it reads them open. A
  // block that is at RadixTree::kMaxPlaces places leaves the one where it was inserted longest ago.
  //
  // What nobody else holds is evicted by its priority, -100 to 100, the lowest first: of a block
  // that is inserted several times it is the highest, until it is evicted. What is in use anyway,
  // and makes room for what is in use, is decided without it. Throws ValueError for another number.
  void insert(TokenIds token_ids, const BlockTable& table, std::string_view space = "",
              std::int64_t priority = 0);

  // Keeps what is cached of these tokens, all that a match of them and one more would find, from
  // eviction until it is unpinned as often as it was pinned: whatever the pool runs out of. Returns
  // how many tokens that are. With a block that begins like them it keeps all of the block, and
  // where max_blocks are cached, pinned ones count as in use. Throws ValueError where none of them
  // is cached.
  std::int64_t pin(TokenIds token_ids, std::string_view space = "");
  // Takes back a pin of exactly these tokens, the latest. Throws ValueError where there is none, as
  // after clear().
  void unpin(TokenIds token_ids, std::string_view space = "");

  // Gives up to num_blocks blocks that only caches hold back to the pool, and says how many. Throws
  // ValueError below 0.
  std::int64_t evict(std::int64_t num_blocks);

  // Forgets all, what is pinned too. Blocks that tables hold stay theirs.
  void clear();

  // All that is cached but what stands after holes, with a reference of a user to each block:
  // nobody can evict or write it until the caller releases it. That the oldest are released first
  // keeps their order.
  PrefixSnapshot snapshot() const;

  // The block of each node of a snapshot that is cached here, with a reference of a user for each
  // node, and -1 for the others.
  std::vector<std::int32_t> hold_blocks_of(const PrefixSnapshot& snapshot);

  // Caches what a snapshot holds, the newest first, and says how many blocks were added. What is
  // here already stays; where max_blocks are cached and all in use, only the first are kept. The
  // caller holds the blocks, has written them, and releases them afterwards, the oldest first.
  std::int64_t restore(const PrefixSnapshot& snapshot);

  // Who hears of every event from now on (prefix_events.h); null: nobody. Returns who did so far,
  // and may yet hear of events that another thread is delivering.
  std::shared_ptr<PrefixListener> set_listener(std::shared_ptr<PrefixListener> listener);

  // Cached blocks; one that stands at two places, as in two namespaces, counts twice. At most
  // RadixTree::kMaxPlaces times the blocks of the pool.
  std::int64_t size() const;
  PrefixCacheStats stats() const;

 private:
  // The ids of a namespace: its bytes and an end, so that none begins with another.
  static std::vector<std::int64_t> ids_of(std::string_view space);
  static std::vector<std::vector<std::int64_t>> ids_of_spaces(const PrefixSnapshot& snapshot);
  void count_miss(MissReason reason);
  std::int64_t end_of_blocks(const BlockTable& table, std::int64_t tokens) const;

  const std::shared_ptr<BlockPool> pool_;
  const std::int64_t block_size_;
  const std::optional<std::int64_t> max_blocks_;
  std::unique_ptr<RadixTree> tree_;  // this and stats_ under the pool's lock
  PrefixCacheStats stats_;
  const std::shared_ptr<PrefixEvents> events_ = std::make_shared<PrefixEvents>();
};

}  // namespace quire
