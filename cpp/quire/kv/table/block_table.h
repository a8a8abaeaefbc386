// Block tables: which blocks of a pool hold the keys and values of one sequence.
//
//   table of 6 tokens, block_size 4      [ 7 | 2 ]     token 5 is row 1 of block 2,
//                                       ####  ##..     its slot is 2 * 4 + 1
//
// For a table in use, with block_size of its pool:
//
//   |blocks| = ceil(num_tokens / block_size): holes, and blocks, all different, each with a
//              reference of this table
//   a block with one reference, this table's, may be written by it; a shared block by nobody
//   a hole, -1, stands for a block whose tokens were dropped; the last block, unless full, is none
//
//   12 tokens, drop_before(10, 1)        [ 7 | -1 | 5 ]    one sink token keeps its block
//
// Of a pool with open blocks (open_blocks.h) the last columns are read open, in full precision:
//
//   columns      [ sealed ... sealed | open ... open ]
//
//   a column is read as what it is here, whatever others that share its block read: so what a
//   sequence is depends on it alone
//   the last ones stay open, as many as the pool is told: append seals all before them, extend
//   those before the last that were there, whose rows have been written since
//   a sealed last block that is to be written is copied to a new one, which is open: its numbers,
//   rounded to bfloat16
//   a table that is truncated to n tokens is, to the bit, what it was when it last had n, or would
//   have been had it never had more, as long as it has not had more than n + 64 since: for so long
//   the rows of columns that are sealed stay in their slots (column_history.h)
//   shorter than that is what it was with the fewest tokens that it could go back to, cut short:
//   what was sealed by then stays sealed
//
// What a table has is three plain values, in files of their own: its columns, and which of them are
// open (table_columns.h, column_history.h), and where its tokens stand (token_positions.h). What is
// done with them, file by file:
//
//   block_table.cpp      made, freed, asked, checked
//   grow_table.cpp       extend: room for more tokens, and the copy of a shared last block
//   append_table.cpp     append, where blocks are opened: rows come with their tokens, in parts
//   share_table.cpp      fork, explain
//   roll_back.cpp        truncate; savepoint.h, where a table fails while it grows
//   drop_tokens.cpp      drop_before, keep: holes and positions; compaction.cpp moves the rows
//   gather_tokens.cpp    gather
//   offload.cpp          offload, restore
//   open_columns.h       what opens and seals columns, for all of these
//
// Every method is safe to call from several threads. A table's lock is shared by those that read it
// (attention over HeldTables, held_tables.h, gather, fork) and had alone by those that change it.
// Locks are taken in this order: tables, by address; then that of who seals, or of open_room.h;
// then the residency's; then the pool's, which is never held while data moves.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "quire/kv/pool/block_pool.h"
#include "quire/kv/table/open_columns.h"
#include "quire/kv/table/savepoint.h"
#include "quire/kv/table/table_columns.h"
#include "quire/kv/table/table_layout.h"
#include "quire/kv/table/token_positions.h"

namespace quire {

// A column of a table.
struct ExplainedBlock {
  std::int32_t id = kHole;
  std::int64_t num_tokens = 0;  // rows that the table itself counts; 0 in a hole
  BlockHolders holders;         // of a hole: nobody
  bool is_resident = true;      // kept in memory, in all layers; of a hole: true
  bool is_open = false;         // read in full precision
};

class BlockTable {
 public:
  explicit BlockTable(std::shared_ptr<BlockPool> pool);
  // A table that has this of a sequence, in new blocks: the caller writes their rows before anybody
  // else has it, of int4 the tiles of sealed columns and the slots of open ones. Throws ValueError
  // for a layout that no table of the pool has, OutOfBlocks.
  BlockTable(std::shared_ptr<BlockPool> pool, TableLayout layout);
  ~BlockTable();
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  const std::shared_ptr<BlockPool>& pool() const { return pool_; }

  // All methods but pool, is_freed and close throw ValueError once the table is freed. After
  // whatever throws the table is what it was.
  std::int64_t num_tokens() const;
  std::vector<std::int32_t> blocks() const;

  // Room for n more tokens; returns or fills their slots, block * block_size + row, in order; with
  // open blocks those of open ones, by their ids, to be written before the table is extended again.
  // A last block that has free rows and is shared is copied first, and the copy takes its place.
  // So is a sealed one, of a pool with open blocks; it stays the table's for as long as it may be
  // truncated to what it was, for which it takes a block more than its columns. Throws OutOfBlocks,
  // also where resident_bytes has no room for so many open blocks, as those of all n tokens are
  // open at once, and ValueError for n < 0. Write the slots before the table is forked, or inserted
  // into a cache with these tokens, and before another thread works with it: prefer append, which
  // takes the slots and writes them as one step. Where only a cache shares the last block and none
  // is left for the copy, the cache forgets it instead, unless the table reads it sealed.
  std::vector<std::int64_t> extend(std::int64_t n);
  void extend(std::span<std::int64_t> slots);
  // The same, of asked.value tokens: what is refused is what was asked for.
  std::vector<std::int64_t> extend(const Asked& asked);

  // Room for slots.size() more tokens, and write(slots), as one step: nobody sees or copies the
  // rows before they are written. What write throws is thrown again once the table is what it was,
  // in the blocks that it had. `write` must not use this table.
  //
  // With open blocks `write` gets parts of `slots` one after the other, kBlocksOpened blocks and
  // less at a time, each of which is sealed after it, but for what stays open: a part's slots are
  // another block's later. So the memory that they take does not grow with the number of slots;
  // what the table had open stays in memory beside it until all is written (savepoint.h).
  template <class Write>
  void append(std::span<std::int64_t> slots, Write&& write) {
    append(slots, std::forward<Write>(write), nullptr);
  }

  // The same, where with open blocks new ones that would not stay open are not opened:
  // write_sealed(blocks, first) writes the rows of slots from `first` on into the tiles of these
  // blocks, all of which they fill, with the bits that sealing would give them. With resident_bytes
  // they are opened all the same, as it is when they are sealed that room is made for their tiles.
  template <class Write, class Sealed>
  void append(std::span<std::int64_t> slots, Write&& write, Sealed&& write_sealed) {
    const BlockPool::Delivery delivery(*pool_);
    const std::lock_guard lock(mutex_);
    require_in_use("BlockTable.append");
    if (!columns_.history.opens()) return append_at_once(slots, std::forward<Write>(write));
    if constexpr (std::is_null_pointer_v<std::remove_cvref_t<Sealed>>) {
      append_in_parts(slots, std::ref(write), nullptr);
    } else {
      append_in_parts(slots, std::ref(write), std::ref(write_sealed));
    }
  }

  // A second table of the same tokens, which shares every block.
  std::unique_ptr<BlockTable> fork() const;

  // Forgets all but the first num_tokens tokens, and drops the blocks that only the others needed.
  // Those that stay are read with the bits that they had before the others came, and what is
  // appended next with those that it would have had without them: always in a pool without open
  // blocks, and in one that has some as long as the table, as it is or as what it was forked from,
  // has had at most 64 tokens more since; further back, what was sealed by then stays so. A table
  // that was matched, loaded or compacted goes back to what it was then, no further. The next token
  // stands where the first of those forgotten did, or at 0 where none is left. Throws ValueError
  // unless 0 <= num_tokens <= this->num_tokens(), and where the last token left would be in a hole
  // and not its last one: the next would have to be written there.
  void truncate(std::int64_t num_tokens);

  // Gives back the blocks whose tokens all stand before `position`, which a sliding window cannot
  // see any more, but for those that hold one of the first num_sink_tokens tokens. Holes take their
  // places: num_tokens() stays. Throws ValueError for num_sink_tokens < 0 and where `position` is
  // past that of the next token; before one below 0 stands nothing.
  void drop_before(std::int64_t position, std::int64_t num_sink_tokens = 0);

  // Forgets all tokens but those at these positions, which keep them: their rows move into the
  // leading blocks, and the others are given back. Blocks that somebody else holds, and holes, are
  // replaced by new ones. The next token stands where it would have stood. With open blocks all but
  // the last are sealed, and where truncate could go back to the first token that is taken out,
  // with the bits that the others would have if they had been appended without it; else rows move
  // as the table reads them. Throws ValueError for positions that do not grow, IndexError for one
  // where no token is or whose block is a hole, OutOfBlocks.
  void keep(std::span<const std::int64_t> positions);

  // Of each token, [num_tokens], and of the next.
  std::vector<std::int64_t> positions() const;
  std::int64_t next_position() const;

  // Every column, and who holds its block, all at one moment; which are in memory, just before it.
  std::vector<ExplainedBlock> explain() const;

  // Copies the keys and values of the first tokens, at most max_tokens of them, to k [tokens,
  // num_kv_heads, head_dim] and v [tokens, num_kv_heads, v_head_dim], contiguous and of the pool's
  // dtype; where that is quantised they are real numbers, as float32, with open blocks those that
  // the table reads. Returns how many. Throws IndexError for an unknown layer, ValueError where one
  // of them was dropped.
  std::int64_t gather(std::int64_t layer, std::int64_t max_tokens, void* k, void* v) const;

  // Moves the sequence out of memory: writes its blocks to the pool's file where that is needed,
  // and gives their memory back. Blocks that somebody else holds, a cache apart, stay, and are the
  // next to go when room is needed and nobody has used them. The table stays what it is: attention
  // streams it, and what is written to it is in memory again. Returns how many blocks went. Throws
  // ValueError where the pool has no backing file with resident_bytes.
  std::int64_t offload();
  // Moves it back in, others out, and returns how many blocks came. Throws ValueError as well where
  // all of its blocks do not fit.
  std::int64_t restore();

  // Verifies the equations above and those of table_columns.h, column_history.h and
  // token_positions.h; throws InvariantError on the first that fails.
  void check() const;

  // Gives all blocks back. A second free() throws; close() then does nothing, nor does it in
  // another process than the pool's.
  void free();
  void close() noexcept;
  bool is_freed() const;

 private:
  friend class BlockTableTest;
  friend class HeldTables;
  friend class PrefixCache;
  class Compaction;
  using WritePart = std::function<void(std::span<const std::int64_t>)>;
  using WriteSealed = std::function<void(std::span<const std::int32_t>, std::int64_t)>;

  void require_in_use(std::string_view function) const;
  // The equations of columns and positions, and that the pool's books say the same of up to so many
  // columns; and what of it is looked at after each change.
  void check_books(std::int64_t most_columns) const;
  void check_changed() const { check_books(kSmallBooks / 16); }
  // What moves columns between open and sealed, while this table's lock is held.
  OpenColumns open_columns() { return {*pool_, columns_}; }

  // Longer, by so many tokens as were asked for or as there are slots: grow_table.cpp.
  void require_within_pool(const Asked& asked) const;
  // Both return the last block where it was shared and is copied: put_back, or else let_go_of.
  CopiedBlock grow(const Asked& asked, std::span<std::int64_t> slots);
  CopiedBlock take_blocks(const Asked& asked);
  void count_tokens(std::span<std::int64_t> slots);  // whose blocks are there; fills in slots

  // Longer, with rows that come at the same time: append_table.cpp.
  template <class Write>
  void append_at_once(std::span<std::int64_t> slots, Write&& write);
  void append_in_parts(std::span<std::int64_t> slots, const WritePart& write,
                       const WriteSealed& write_sealed);

  // Shorter: roll_back.cpp. Where the table has its old length, put_back makes a block that was
  // copied its last one again.
  void shrink(std::int64_t num_tokens) noexcept;
  void put_back(const CopiedBlock& copied) noexcept;
  void let_go_of(const CopiedBlock& copied) noexcept {
    if (copied.is_there()) let_go_of_some(copied);
  }
  void let_go_of_some(const CopiedBlock& copied) noexcept;

  // With fewer tokens in between: drop_tokens.cpp, compaction.cpp.
  std::vector<std::int64_t> tokens_at(std::span<const std::int64_t> positions) const;
  void compact(std::vector<std::int64_t> tokens);
  void require_beginning(std::string_view where, std::int64_t num_tokens) const;

  const std::shared_ptr<BlockPool> pool_;
  mutable CallMutex mutex_;   // guards what follows
  TableColumns columns_;      // the blocks, how each is read, and how many tokens they hold
  TokenPositions positions_;  // of these tokens
  bool freed_ = false;
  // Of a table that found nothing in a cache: gone once the table is freed.
  std::shared_ptr<void> lease_;
};

template <class Write>
void BlockTable::append_at_once(std::span<std::int64_t> slots, Write&& write) {
  const std::int64_t num_tokens = columns_.num_tokens;
  const CopiedBlock copied = grow({"BlockTable.append", "k", std::ssize(slots)}, slots);
  try {
    write(std::span<const std::int64_t>(slots));
  } catch (...) {
    shrink(num_tokens);
    put_back(copied);
    throw;
  }
  let_go_of(copied);
}

}  // namespace quire
