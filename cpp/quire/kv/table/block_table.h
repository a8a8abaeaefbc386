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
//   drop_before(10, 1)                   [ 7 | -1 | 2 ]    one sink token keeps its block
//
//   position(i) = i where no token was removed by keep; else it grows with i, and is what it was
//   position of the next token = num_tokens + tokens removed
//
// Of a pool with open blocks (open_blocks.h):
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
// Every method is safe to call from several threads. A table's lock is shared by those that read it
// (attention over a HeldTables, gather, fork) and had alone by those that change it. Locks are
// taken in this order: tables, by address; then that of who seals, or of open_room.h; then the
// residency's; then the pool's, which is never held while data moves.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string_view>
#include <vector>

#include "quire/kv/pool/block_pool.h"
#include "quire/kv/table/column_history.h"
#include "quire/kv/table/table_layout.h"

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

  // All methods but is_freed and close throw ValueError once the table is freed. Whatever throws
  // has changed nothing.
  std::int64_t num_tokens() const;
  std::vector<std::int32_t> blocks() const;

  // Room for n more tokens; returns or fills their slots, block * block_size + row, in order; with
  // open blocks those of open ones, by their ids, to be written before the table is extended again.
  // A last block that has free rows and is shared is copied first, and the copy takes its place.
  // So is a sealed one, of a pool with open blocks; it stays the table's for as long as it may be
  // truncated to what it was, for which it takes a block more than its columns. Throws OutOfBlocks,
  // also where resident_bytes has no room for so many open blocks, all of which are open at once,
  // and ValueError for n < 0. Write the slots before the table is forked, or
  // inserted into a cache with these tokens, and before another thread works with it; append makes
  // one step of both. Where only a cache shares the last block and none is left for the copy, the
  // cache forgets it instead, unless the table reads it sealed.
  std::vector<std::int64_t> extend(std::int64_t n);
  void extend(std::span<std::int64_t> slots);

  // Room for slots.size() more tokens, and write(slots), as one step: nobody sees or copies the
  // rows before they are written. What write throws is thrown again once the table has its old
  // length; a shared last block stays copied. `write` must not use this table.
  //
  // With open blocks `write` gets parts of `slots` one after the other, kBlocksOpened blocks and
  // less at a time, each of which is sealed after it, but for what stays open: a part's slots are
  // another block's later. So the memory that they take does not grow with the number of slots. A
  // table gets its old length as by truncate: beyond 64 tokens, what was sealed stays sealed.
  template <class Write>
  void append(std::span<std::int64_t> slots, Write&& write) {
    const BlockPool::Delivery delivery(*pool_);
    const std::lock_guard lock(mutex_);
    require_in_use("BlockTable.append");
    if (pool_->open_blocks() != nullptr) return append_in_parts(slots, std::ref(write), nullptr);
    const std::int64_t num_tokens = num_tokens_;
    grow({"BlockTable.append", "k", std::ssize(slots)}, slots);
    try {
      write(std::span<const std::int64_t>(slots));
    } catch (...) {
      shrink(num_tokens);
      throw;
    }
  }

  // The same of a pool with open blocks, where new blocks that would not stay open are not opened:
  // write_sealed(blocks, first) writes the rows of slots from `first` on into the tiles of these
  // blocks, all of which they fill, with the bits that sealing would give them. With resident_bytes
  // they are opened all the same, as it is when they are sealed that room is made for their tiles.
  template <class Write, class WriteSealed>
  void append(std::span<std::int64_t> slots, Write&& write, WriteSealed&& write_sealed) {
    const BlockPool::Delivery delivery(*pool_);
    const std::lock_guard lock(mutex_);
    require_in_use("BlockTable.append");
    append_in_parts(slots, std::ref(write), std::ref(write_sealed));
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

  // Verifies the equations of column_history.h; throws InvariantError on the first that fails.
  void check() const;

  // Gives all blocks back. A second free() throws; close() then does nothing, nor does it in
  // another process than the pool's.
  void free();
  void close() noexcept;
  bool is_freed() const;

 private:
  friend class HeldTables;
  friend class PrefixCache;
  class Compaction;

  void require_in_use(std::string_view function) const;
  // Tokens in the last block, 1 to block_size; 0 where there is no block.
  std::int64_t last_rows() const;
  // Of n more tokens: how many the last block takes, and the blocks that the others need.
  std::int64_t fit_in_last(std::int64_t n) const;
  std::int64_t new_blocks(std::int64_t n) const;
  // That all of the first num_tokens tokens are there; throws ValueError, starting with `where`.
  void require_no_hole(std::string_view where, std::int64_t num_tokens) const;
  // That they are the sequence's first, none between them removed; there or not.
  void require_beginning(std::string_view where, std::int64_t num_tokens) const;
  std::int64_t position_of(std::int64_t token) const {
    return positions_.empty() ? token : positions_[token];
  }
  // The first token that stands at `position` or later; num_tokens where there is none.
  std::int64_t token_from(std::int64_t position) const;
  // The tokens that stand at positions; throws as keep does.
  std::vector<std::int64_t> tokens_at(std::span<const std::int64_t> positions) const;
  // Moves these tokens into the leading columns, and gives the others back.
  void compact(std::vector<std::int64_t> tokens);
  // What is asked for here is a number of tokens, that of slots.
  void require_within_pool(const Asked& asked) const;
  void grow(const Asked& asked, std::span<std::int64_t> slots);
  // Of grow: takes blocks for these tokens, and copies a shared last one; then counts tokens, whose
  // blocks are there, and fills in their slots.
  void take_blocks(const Asked& asked);
  void count_tokens(std::span<std::int64_t> slots);
  void shrink(std::int64_t num_tokens) noexcept;
  void gather_real(const ArrayView& cache, const ArrayView& scale, std::int64_t begin,
                   std::int64_t end, float* to) const;
  void fill_slots(std::int64_t first, std::span<std::int64_t> slots) const;

  static constexpr std::int64_t kTokensPerLook = 64;  // between two looks for an interruption

  // Of pools with open blocks, in open_columns.cpp.
  using WritePart = std::function<void(std::span<const std::int64_t>)>;
  using WriteSealed = std::function<void(std::span<const std::int32_t>, std::int64_t)>;
  static constexpr std::int64_t kBlocksOpened = 8;  // that append has open at once, about
  std::int64_t stays_open() const { return pool_->geometry().num_open(); }  // blocks
  std::int64_t first_pinned() const { return std::ssize(blocks_) - history_.num_pinned(); }
  std::int64_t first_open() const { return std::ssize(blocks_) - history_.num_open(); }
  // As attention knows the block of a column.
  std::int32_t read_id(std::int64_t column) const {
    return column < first_open() ? blocks_[column] : history_.ids()[column - first_pinned()];
  }
  void append_in_parts(std::span<std::int64_t> slots, const WritePart& write,
                       const WriteSealed& write_sealed);
  // Room for what so many more tokens open, all at once; and 1 where the last block is among it,
  // else 0. Columns that nobody else reads open. All only where there is a limit.
  OpenRoom::Claim claim_to_grow(const Asked& asked) const;
  std::int64_t opens_last_for(std::int64_t n) const;
  std::int64_t least_opened_for(std::int64_t n) const;
  // Opens the last columns, new ones from `first` on, which are holes or the table's alone.
  void open_columns(std::int64_t first) noexcept;
  // Makes a block that is the table's alone, and which it reads as `id`, one that it may write, and
  // returns the id that it has then. Rows are moved there afterwards.
  std::int32_t open_to_write(const BlockPool::Books& books, std::int32_t block,
                             std::int32_t id) const noexcept;
  // Seals columns below `end`, and reads them sealed from now on, as the table has grown from so
  // many tokens.
  void seal_before(std::int64_t end, std::int64_t from_tokens) noexcept;
  // Lets go of what is kept for a table of fewer tokens than these alone.
  void advance_to(std::int64_t horizon) noexcept;
  // The pins of columns: of a second table, which holds what was replaced as well; and of those in
  // [begin, end), before their blocks are dropped.
  void pin(const BlockPool::Books& books) const noexcept;
  void unpin(const BlockPool::Books& books, std::int64_t begin, std::int64_t end) const noexcept;
  // Reads columns in [begin, end) open again, which are pinned.
  void read_again(const BlockPool::Books& books, std::int64_t begin,
                  std::int64_t end) const noexcept;
  void drop_replaced(const BlockPool::Books& books) noexcept;
  // Reads all pinned columns open, or unpins those that it does not; and forgets what was replaced.
  void leave_history(const BlockPool::Books& books, bool reopens) noexcept;
  void gather_opened(std::int64_t layer, std::int64_t tokens, float* k, float* v) const;

  const std::shared_ptr<BlockPool> pool_;
  const std::int64_t block_size_;
  mutable CallMutex mutex_;  // guards what follows
  std::vector<std::int32_t> blocks_;
  ColumnHistory history_;  // of the last columns, with open blocks
  std::int64_t num_tokens_ = 0;
  std::int64_t num_removed_ = 0;         // tokens that keep has taken out
  std::vector<std::int64_t> positions_;  // [num_tokens] where there are such, else empty
  bool freed_ = false;
  // Of a table that found nothing in a cache: gone once the table is freed.
  std::shared_ptr<void> lease_;
};

// Tables held still for as long as this lives: nobody extends, truncates or frees one, so that
// their blocks can be read without a lock of the pool. It holds their locks, shared, which costs
// the same whatever the length of a table; a reference to each block instead would cost as much as
// a fork.
//
// The caller keeps the tables alive, and before this is gone must not call a method of one, nor
// wait for a thread that does.
class HeldTables {
 public:
  // Throws ValueError, starting "function: tables", for a freed table or tables of two pools. A
  // table may be named twice.
  HeldTables(std::string_view function, std::span<const BlockTable* const> tables);

  // The tables' pool; null where there are no tables.
  const BlockPool* pool() const { return tables_.empty() ? nullptr : tables_[0]->pool_.get(); }

  std::int64_t size() const { return static_cast<std::int64_t>(tables_.size()); }

  // Blocks of the longest table.
  std::int64_t max_blocks() const { return max_blocks_; }

  // Whether a table has tokens at other positions than their index, and the most tokens of one.
  bool has_positions() const { return has_positions_; }
  std::int64_t max_tokens() const { return max_tokens_; }

  // What the table at `index` has of its sequence.
  TableLayout layout(std::int64_t index) const;

  // Writes positions [size(), max_tokens()], 0 after the end of each table.
  void pack_positions(std::int64_t* positions) const;

  // Writes block_tables [size(), max_blocks()], `pad` after the end of each, and seq_lens [size()],
  // as std::int32_t or std::int64_t. Open blocks have the ids of open_blocks.h.
  template <class Id>
  void pack(Id pad, Id* block_tables, Id* seq_lens) const;

 private:
  std::vector<const BlockTable*> tables_;
  std::vector<std::shared_lock<CallMutex>> locks_;
  std::int64_t max_blocks_ = 0;
  std::int64_t max_tokens_ = 0;
  bool has_positions_ = false;
};

}  // namespace quire
