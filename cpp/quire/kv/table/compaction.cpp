// Of BlockTable: moves the rows of chosen tokens into its leading blocks.
#include <algorithm>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "quire/kv/table/block_table.h"

namespace quire {
namespace {

constexpr std::string_view kKeep = "BlockTable.keep";

}  // namespace

// What keep does to each column of a table:
//
//   kept as it is     its tokens are the first ones, and stay where they are
//   written           a block that nobody else holds: rows move down in it, or into it from later
//   replaced          a hole, or a block that others hold: a new one is written in its place
//   given up          columns past the last token left
//
// Rows move to the same place or a lower one, in order, so that none is overwritten before it
// moved. With open blocks columns are written open, and sealed when they are full: what was in the
// tile had moved by then. Where the table could be truncated to the first token that goes, all rows
// from there on are in their slots still, and move as they were written; else, as they are read.
class BlockTable::Compaction {
 public:
  Compaction(BlockTable& table, std::vector<std::int64_t> sources)
      : table_(table), sources_(std::move(sources)), to_(table.columns_.blocks) {
    while (num_same_ < size() && sources_[num_same_] == num_same_) ++num_same_;
    const std::int64_t block_size = table.columns_.block_size;
    to_.resize(size() / block_size + (size() % block_size != 0));
    is_source_.resize(table.columns_.blocks.size());
    for (const std::int64_t token : sources_) is_source_[token / block_size] = true;
    is_replaced_.resize(table.columns_.blocks.size());
    new_blocks_.resize(to_.size());
    ids_.resize(to_.size());
    open_ids_.reserve(to_.size());
  }

  // Takes what is replaced, having given back what holds no chosen token; or changes nothing.
  void take_blocks() {
    const BlockPool::Books books(*table_.pool_);
    std::int64_t needed = 0, gained = 0;
    for (std::int64_t column = first_written(); column < num_columns(); ++column) {
      const std::int32_t block = to_[column];
      is_replaced_[column] = block == kHole || books->references(block) > 1;
      needed += is_replaced_[column];
    }
    for (std::int64_t column = 0; column < std::ssize(table_.columns_.blocks); ++column) {
      gained += is_given_up(column, false) &&
                books->is_shared_with_caches_alone(table_.columns_.blocks[column]);
    }
    if (!books.can_free(needed - gained)) {  // a cache is no reason for a table not to go on
      std::int64_t cached_alone = 0;
      for (std::int64_t column = 0; column < num_columns(); ++column) {
        cached_alone += is_of_caches_alone(books, column);
      }
      if (!books.can_free(needed - gained - cached_alone)) {
        books.require_free(needed, {kKeep, "positions", size()});  // which raises
      }
      for (std::int64_t column = 0; column < num_columns(); ++column) {
        if (!is_of_caches_alone(books, column)) continue;
        books->forget(to_[column]);
        is_replaced_[column] = false;
        --needed;
      }
    }
    table_.open_columns().leave_history(books, moves_as_written());
    give_up(books, false);
    books.require_free(needed, {kKeep, "positions", size()});
    new_blocks_.resize(needed);
    const bool ends = num_columns() > 0 && is_replaced_[num_columns() - 1];
    books->give_to_table(new_blocks_,
                         ends ? rows_after(num_columns() - 1) : table_.columns_.block_size);
    std::size_t next = 0;
    for (std::int64_t column = 0; column < num_columns(); ++column) {
      if (is_replaced_[column]) to_[column] = new_blocks_[next++];
    }
  }

  // Does not throw, as tables may be half written meanwhile.
  void move_rows() noexcept {
    const Uninterrupted whole;
    BlockPool& pool = *table_.pool_;
    pool.keep_resident(std::span(to_).subspan(first_written()));
    ids_ = to_;
    for (std::int64_t layer = 0; layer < pool.geometry().num_layers; ++layer) {
      move_columns({layer, layer + 1}, {first_written(), num_columns()});
    }
    pool.settle(table_.columns_.blocks);
  }

  // Gives back the rest, and makes the table that of the chosen tokens.
  void finish() {
    const BlockPool::Books books(*table_.pool_);
    for (std::int64_t column = 0; column < num_columns(); ++column) {
      const std::int32_t before = table_.columns_.blocks[column];
      if (!is_replaced_[column]) {
        books->recount(to_[column], rows_before(column), rows_after(column));
      } else if (before != kHole) {
        books->note_copy_on_write(before, to_[column]);
      }
    }
    give_up(books, true);
    table_.columns_.blocks.swap(to_);
    table_.columns_.history.begin(size(), std::move(open_ids_));
  }

  // With open blocks, instead of move_rows: so many columns at a time, which are open at once.
  void move_rows_open(std::int64_t columns_at_once) noexcept {
    const Uninterrupted whole;
    BlockPool& pool = *table_.pool_;
    const std::int64_t unmoved = std::min(first_written(), num_columns());
    for (std::int64_t column = 0; column < unmoved; ++column)
      ids_[column] = table_.columns_.read_id(column);
    close({0, unmoved});
    for (std::int64_t begin = unmoved; begin < num_columns(); begin += columns_at_once) {
      const Range columns{begin, std::min(num_columns(), begin + columns_at_once)};
      {
        const BlockPool::Books books(pool);
        for (std::int64_t column = columns.begin; column < columns.end; ++column) {
          const std::int32_t id =
              is_replaced_[column] ? to_[column] : table_.columns_.read_id(column);
          ids_[column] = table_.open_columns().to_write(books, to_[column], id);
        }
      }
      move_columns({0, pool.geometry().num_layers}, columns);
      close(columns);
    }
    pool.settle(table_.columns_.blocks);
    pool.tell_of(to_);
  }

  // The most columns that are not open yet, and will be.
  std::int64_t num_opened() const {
    const BlockPool::Books books(*table_.pool_);
    const std::int64_t first_in_slots =
        moves_as_written() ? table_.columns_.first_pinned() : table_.columns_.first_open();
    std::int64_t count = 0;
    for (std::int64_t column = first_written(); column < num_columns(); ++column) {
      const std::int32_t block = table_.columns_.blocks[column];
      count += block == kHole || column < first_in_slots || books->references(block) > 1;
    }
    return count;
  }

 private:
  struct Range {
    std::int64_t begin, end;
  };

  // Seals columns whose rows have moved, and stops reading them open, but for the last ones.
  void close(Range columns) noexcept {
    const std::int64_t sealed_end = std::clamp(num_columns() - table_.open_columns().stay(),
                                               columns.begin, std::max(columns.begin, columns.end));
    const auto is_open = [&](std::int64_t column) {
      return table_.pool_->open_blocks().is_open(ids_[column]);
    };
    table_.pool_->seal(std::span(to_).subspan(columns.begin, sealed_end - columns.begin));
    {
      const BlockPool::Books books(*table_.pool_);
      for (std::int64_t column = columns.begin; column < sealed_end; ++column) {
        if (is_open(column)) books->open_slots().unpin(to_[column], true);
      }
    }
    for (std::int64_t column = sealed_end; column < columns.end; ++column) {
      if (is_open(column)) open_ids_.push_back(ids_[column]);
    }
  }

  // Moves the rows of some columns, whose ids are known, in some layers. As many blocks at a time
  // as a stretch of a stream has, where not all are kept in memory. Who runs out of memory goes on
  // without.
  void move_columns(Range layers, Range columns) const noexcept {
    const Range tokens{columns.begin * table_.columns_.block_size,
                       std::min(size(), columns.end * table_.columns_.block_size)};
    const std::int64_t count = tokens.end - tokens.begin;
    std::int64_t moved = 0;  // rows, of one layer after the other
    const auto move_to = [&](std::int64_t end) {
      for (; moved < end; ++moved)
        move_row(layers.begin + moved / count, tokens.begin + moved % count);
    };
    try {
      const Strides strides = strides_of(layers, tokens);
      table_.pool_->use_in_order(strides.steps, [&](std::size_t i) { move_to(strides.ends[i]); });
    } catch (const std::bad_alloc&) {
      move_to((layers.end - layers.begin) * count);
    }
  }

  bool moves_as_written() const { return num_same_ >= table_.columns_.history.horizon(); }
  std::int64_t size() const { return static_cast<std::int64_t>(sources_.size()); }
  std::int64_t num_columns() const { return static_cast<std::int64_t>(to_.size()); }
  std::int64_t first_written() const {
    return num_same_ == size() ? num_columns() : num_same_ / table_.columns_.block_size;
  }
  // Rows that are moved together: where each stride of them ends, and the blocks that it uses.
  struct Strides {
    std::vector<std::int64_t> ends;
    std::vector<BlockPool::Step> steps;
  };
  Strides strides_of(Range layers, Range tokens) const {
    const auto most = static_cast<std::size_t>(table_.pool_->residency().stretch_blocks());
    Strides strides;
    std::int64_t rows = 0;
    for (std::int64_t layer = layers.begin; layer < layers.end; ++layer) {
      std::int32_t last_from = kHole, last_to = kHole;
      for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const std::int32_t from = source_of(token).block, to = target_of(token).block;
        const std::size_t more = (from != last_from) + (to != last_to);
        const bool begins = token == tokens.begin;
        if (begins || strides.steps.back().blocks.size() + more > most) {
          strides.steps.push_back({layer, {}});
          strides.ends.push_back(rows);
          last_from = last_to = kHole;
        }
        std::vector<std::int32_t>& blocks = strides.steps.back().blocks;
        if (from != last_from) blocks.push_back(last_from = from);
        if (to != last_to) blocks.push_back(last_to = to);
        strides.ends.back() = ++rows;
      }
    }
    return strides;
  }
  void move_row(std::int64_t layer, std::int64_t token) const {
    const RowPlace from = source_of(token), to = target_of(token);
    if (from.block == to.block && from.row == to.row) return;
    table_.pool_->copy_rows(layer, from, to, 1);
  }
  // As the table reads a token's block, and will.
  RowPlace source_of(std::int64_t token) const {
    const std::int64_t source = sources_[token];
    return {table_.columns_.read_id(source / table_.columns_.block_size),
            source % table_.columns_.block_size};
  }
  RowPlace target_of(std::int64_t token) const {
    return {ids_[token / table_.columns_.block_size], token % table_.columns_.block_size};
  }
  std::int64_t rows_before(std::int64_t column) const {
    return std::min(table_.columns_.block_size,
                    table_.columns_.num_tokens - column * table_.columns_.block_size);
  }
  std::int64_t rows_after(std::int64_t column) const {
    return std::min(table_.columns_.block_size, size() - column * table_.columns_.block_size);
  }
  // Whether a column is to be replaced only because caches have its block, which others do not.
  bool is_of_caches_alone(const BlockPool::Books& books, std::int64_t column) const {
    return is_replaced_[column] && is_source_[column] &&
           books->is_shared_with_caches_alone(to_[column]);
  }

  // References to old blocks that the table will not have; those that rows are moved from only once
  // they are. Backwards, as a table lets go of its blocks.
  void give_up(const BlockPool::Books& books, bool sources) const {
    for (auto column = static_cast<std::int64_t>(table_.columns_.blocks.size()); column-- > 0;) {
      if (!is_given_up(column, sources)) continue;
      table_.open_columns().unpin(books, column, column + 1);
      books->drop({&table_.columns_.blocks[column], 1}, rows_before(column));
    }
  }
  bool is_given_up(std::int64_t column, bool sources) const {
    const bool stays = column < num_columns() && !is_replaced_[column];
    return !stays && is_source_[column] == sources && table_.columns_.blocks[column] != kHole;
  }

  BlockTable& table_;
  const std::vector<std::int64_t> sources_;  // of each token left, which it was before
  std::int64_t num_same_ = 0;                // leading tokens that stay where they are
  std::vector<std::int32_t> to_;             // the table's blocks after it
  std::vector<bool> is_source_;              // columns with a chosen token
  std::vector<bool> is_replaced_;            // columns
  std::vector<std::int32_t> new_blocks_;
  std::vector<std::int32_t> ids_;       // of columns after it, as the table reads them
  std::vector<std::int32_t> open_ids_;  // the last of them, the table's after it
};

void BlockTable::compact(std::vector<std::int64_t> sources) {
  const std::int64_t size = std::ssize(sources), stay = open_columns().stay();
  constexpr std::int64_t kAtOnce = OpenColumns::kBlocksOpened;
  Compaction compaction(*this, std::move(sources));
  const std::int64_t opened = compaction.num_opened();
  const OpenRoom::Claim claim(pool_->open_room(), {kKeep, "positions", size},
                              std::min(opened, 1 + stay), std::min(opened, kAtOnce + stay));
  compaction.take_blocks();
  if (columns_.history.opens()) {
    const bool is_few = claim.slots() == std::min(opened, kAtOnce + stay);
    compaction.move_rows_open(is_few ? kAtOnce : claim.slots() - stay);
  } else {
    compaction.move_rows();
  }
  compaction.finish();
}

}  // namespace quire
