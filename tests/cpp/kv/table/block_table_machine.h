// Operations on a pool and its tables, next to a plain model: each sequence a vector of tokens, and
// all counts worked out anew from what the tables say they hold; with open blocks what each token
// stands for by now as well. Numbers from outside choose each step: random ones, or the bytes of a
// fuzzer.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "kv/table/model_sequence.h"
#include "kv/table/straight_rows.h"
#include "kv/table/token_rows.h"
#include "quire/kv/table/block_table.h"

namespace quire::testing {

class BlockTableMachine {
 public:
  // A pool of float32, or one with open blocks: new_pool, new_open_pool or new_backed_open_pool.
  BlockTableMachine(std::shared_ptr<BlockPool> pool, std::function<std::uint32_t()> random)
      : pool_(std::move(pool)),
        block_size_(pool_->geometry().block_size),
        random_(std::move(random)) {}

  void step() {
    if (pool_->residency().is_limited() && below(25) == 0) return offload();
    const std::int64_t action = below(100);
    if (action < 45) {
      append();
    } else if (action < 53) {
      truncate();
    } else if (action < 57) {
      drop_before();
    } else if (action < 62) {
      keep();
    } else if (action < 67) {
      fork();
    } else if (action < 77) {
      sequences_.push_back({std::make_unique<BlockTable>(pool_), {}, {}, {}});
      if (has_open_blocks()) sequences_.back().opened.emplace(pool_->geometry());
    } else if (action < 89) {
      remove();
    } else if (action < 94) {
      retain();
    } else {
      release();
    }
    if (sequences_.size() > 12) remove();
  }

  void verify_counts() const {
    std::map<std::int32_t, std::int64_t> references, rows;
    for (const std::int32_t block : retained_) ++references[block];
    for (const ModelSequence& sequence : sequences_) {
      const std::vector<std::int32_t> blocks = sequence.table->blocks();
      const std::int64_t length = sequence.table->num_tokens();
      ASSERT_EQ(length, size_of(sequence));
      ASSERT_EQ(sequence.table->positions(), sequence.positions);
      ASSERT_EQ(sequence.table->next_position(), sequence.next_position);
      ASSERT_EQ(static_cast<std::int64_t>(blocks.size()), (length + block_size_ - 1) / block_size_);
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        ASSERT_EQ(blocks[i] == kHole, sequence.holes.contains(i));
        if (blocks[i] == kHole) continue;
        const std::int64_t here = std::min<std::int64_t>(block_size_, length - i * block_size_);
        ++references[blocks[i]];
        rows[blocks[i]] = std::max(rows[blocks[i]], here);
      }
      if (!sequence.replaced.is_there()) continue;
      ++references[sequence.replaced.block()];
      std::int64_t& most = rows[sequence.replaced.block()];
      most = std::max(most, sequence.replaced.length() % block_size_);
    }
    const std::vector<std::int32_t> counts = pool_->ref_counts();
    std::int64_t shared = 0, filled = 0;
    for (std::int32_t block = 0; block < pool_->geometry().num_blocks; ++block) {
      const auto found = references.find(block);
      ASSERT_EQ(counts[block], found == references.end() ? 0 : found->second);
      shared += counts[block] > 1;
    }
    for (const auto& [block, most] : rows) filled += most;
    const PoolStats stats = pool_->stats();
    ASSERT_EQ(stats.used, static_cast<std::int64_t>(references.size()));
    ASSERT_EQ(stats.free, stats.num_blocks - stats.used);
    ASSERT_EQ(stats.shared, shared);
    ASSERT_EQ(stats.reserved_tokens, static_cast<std::int64_t>(rows.size()) * block_size_);
    ASSERT_EQ(stats.filled_tokens, filled);
    ASSERT_EQ(stats.wasted_tokens, stats.reserved_tokens - filled);
    ASSERT_EQ(stats.copies_on_write, copies_);
    ASSERT_NO_THROW(pool_->check());
    if (has_open_blocks()) verify_open_blocks();
  }

  void verify_contents() const {
    for (const ModelSequence& sequence : sequences_) {
      if (sequence.opened) {
        ASSERT_NO_THROW(sequence.table->check());
        ASSERT_TRUE(sequence.opened->is_what(*sequence.table));
        continue;
      }
      if (sequence.holes.empty()) {
        ASSERT_TRUE(holds_tokens(*sequence.table, sequence.tokens));
        continue;
      }
      const std::vector<std::int32_t> blocks = sequence.table->blocks();
      for (std::int64_t t = 0; t < size_of(sequence); ++t) {
        const std::int64_t block = blocks[t / block_size_];
        if (block == kHole) continue;
        ASSERT_TRUE(slot_holds(pool_->storage(), block * block_size_ + t % block_size_,
                               sequence.tokens[t]));
      }
      // what comes before the first hole can be read
      const std::int64_t there = *sequence.holes.begin() * block_size_;
      std::vector<std::uint32_t> rows(size_of(sequence) * 6);
      ASSERT_EQ(sequence.table->gather(0, there, rows.data(), rows.data()), there);
      ASSERT_THROW(sequence.table->gather(0, there + 1, rows.data(), rows.data()), ValueError);
    }
  }

  // Everybody lets go: nothing is left in use.
  void finish() {
    sequences_.clear();
    pool_->release(retained_);
    retained_.clear();
    EXPECT_EQ(pool_->num_used(), 0);
    EXPECT_EQ(pool_->stats().open_blocks, 0);
    pool_->check();
  }

  const std::shared_ptr<BlockPool>& pool() const { return pool_; }
  std::int64_t copies() const { return copies_; }
  std::int64_t refusals() const { return refusals_; }
  std::int64_t refused_truncations() const { return refused_truncations_; }
  std::int64_t refused_keeps() const { return refused_keeps_; }
  // For want of memory for open blocks; and tables that were in memory again.
  std::int64_t refused_openings() const { return refused_openings_; }
  std::int64_t restored() const { return restored_; }

 private:
  static std::int64_t size_of(const ModelSequence& sequence) {
    return static_cast<std::int64_t>(sequence.tokens.size());
  }
  bool has_open_blocks() const { return pool_->geometry().opens_blocks(); }
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_() % n); }
  ModelSequence* any() {
    return sequences_.empty() ? nullptr : &sequences_[below(sequences_.size())];
  }

  void verify_open_blocks() const {
    OpenPlaces places;
    for (const ModelSequence& sequence : sequences_) {
      ASSERT_TRUE(places.add(*sequence.table,
                             [&](auto column) { return sequence.opened->is_open(column); }));
    }
    ASSERT_TRUE(places.are_all(*pool_, retained_));
  }

  // Of pools with open blocks: rows that are written once the table is extended, or first and in
  // open blocks, or straight where they stay.
  enum class Way { extended, open, straight };

  void add(BlockTable& table, const std::vector<std::uint32_t>& tokens, Way way) {
    if (!has_open_blocks()) return append_tokens(table, tokens);
    if (way == Way::extended) extend_open(table, tokens);
    if (way == Way::open) append_open(table, tokens);
    if (way == Way::straight) append_straight(table, tokens);
  }

  // Foretells what appending n tokens takes, and so whether it is refused for want of blocks.
  void append() {
    ModelSequence* sequence = any();
    if (sequence == nullptr) return;
    const std::int64_t n = below(4) == 0 ? below(4 * block_size_) : below(3);
    const std::int64_t length = size_of(*sequence);
    const std::vector<std::int32_t> before = sequence->table->blocks();
    const bool copies = n > 0 && length % block_size_ != 0 && pool_->ref_count(before.back()) > 1;
    const bool replaces = sequence->replaces(n);
    const std::int64_t total = (length + n + block_size_ - 1) / block_size_;
    const std::int64_t takes = total - std::ssize(before) + (copies || replaces);

    std::vector<std::uint32_t> tokens(n);
    for (std::uint32_t& token : tokens) token = next_token_++;
    const Way way = has_open_blocks() ? Way{static_cast<int>(below(3))} : Way::open;
    if (takes > pool_->num_free()) {
      ++refusals_;
      ASSERT_THROW(add(*sequence->table, tokens, way), OutOfBlocks);
      ASSERT_EQ(sequence->table->blocks(), before);
      return;
    }
    const std::int64_t opens = takes + 1;  // at once: with a last block that was sealed
    const std::int64_t least = OpenRoom::least_slots(pool_->geometry());
    if (finds_no_room(*sequence->table, way == Way::extended ? opens : std::min(opens, least),
                      [&] { add(*sequence->table, tokens, way); })) {
      ++refused_openings_;
      return;
    }
    if (sequence->opened && way != Way::extended) sequence->opened->append(tokens);
    if (sequence->opened && way == Way::extended) sequence->opened->extend(tokens);
    sequence->tokens.insert(sequence->tokens.end(), tokens.begin(), tokens.end());
    for (std::int64_t i = 0; i < n; ++i) {
      sequence->positions.push_back(sequence->next_position++);
    }
    copies_ += copies;
    std::vector<std::int32_t> after = sequence->table->blocks();
    ASSERT_EQ(after.size(), static_cast<std::size_t>(total));
    after.resize(before.size());
    if (replaces) sequence->replaced.set(before.back(), length);
    if (sequence->opened) sequence->replaced.let_go(*sequence->opened);
    if (copies || replaces) {
      ASSERT_NE(after.back(), before.back());
      after.back() = before.back();
    }
    ASSERT_EQ(after, before);
  }

  void truncate() {
    ModelSequence* sequence = any();
    if (sequence == nullptr) return;
    const std::int64_t length = below(size_of(*sequence) + 1);
    if (length % block_size_ != 0 && sequence->holes.contains(length / block_size_)) {
      ++refused_truncations_;
      ASSERT_THROW(sequence->table->truncate(length), ValueError);
      return;
    }
    sequence->table->truncate(length);
    if (sequence->opened) {
      sequence->opened->truncate(length);
      const std::optional<std::int32_t> back = sequence->replaced.let_go(*sequence->opened);
      if (back && length > sequence->replaced.length() / block_size_ * block_size_) {
        ASSERT_EQ(sequence->table->blocks().back(), *back);
      }
    }
    if (length < size_of(*sequence)) {
      sequence->next_position = length == 0 ? 0 : sequence->positions[length];
    } else if (length == 0) {
      sequence->next_position = 0;
    }
    sequence->tokens.resize(length);
    sequence->positions.resize(length);
    const std::int64_t columns = (length + block_size_ - 1) / block_size_;
    std::erase_if(sequence->holes, [&](std::int64_t column) { return column >= columns; });
  }

  void drop_before() {
    ModelSequence* sequence = any();
    if (sequence == nullptr) return;
    const std::int64_t position = below(sequence->next_position + 2) - 1;
    const std::int64_t sink_tokens = below(2) * below(2 * block_size_ + 2);
    sequence->table->drop_before(position, sink_tokens);
    for (std::int64_t column = 0; (column + 1) * block_size_ <= size_of(*sequence); ++column) {
      const std::int64_t first = column * block_size_, last = first + block_size_ - 1;
      if (sequence->positions[last] < position && sequence->positions[first] >= sink_tokens) {
        sequence->holes.insert(column);
        if (sequence->opened) sequence->opened->drop(column);
        if (sequence->replaced.length() / block_size_ == column) sequence->replaced.forget();
      }
    }
  }

  // Some tokens, each with a chance of its own for the call, and maybe all of the first. Foretells
  // what that takes: a block for each column that changes and is a hole or shared, once the columns
  // without a chosen token are given back.
  void keep() {
    ModelSequence* sequence = any();
    if (sequence == nullptr) return;
    const std::int64_t chance = below(5), same = below(2) * below(size_of(*sequence) + 1);
    ModelSequence after{nullptr, {}, {}, {}, sequence->next_position};
    std::vector<std::int64_t> kept;
    std::set<std::int64_t> sources;
    std::int64_t moved_from = size_of(*sequence);
    for (std::int64_t t = 0; t < size_of(*sequence); ++t) {
      if (sequence->holes.contains(t / block_size_) || (t >= same && below(4) >= chance)) continue;
      if (t != size_of(after)) moved_from = std::min(moved_from, size_of(after));
      kept.push_back(t);
      after.tokens.push_back(sequence->tokens[t]);
      after.positions.push_back(sequence->positions[t]);
      sources.insert(t / block_size_);
    }
    const std::vector<std::int32_t> before = sequence->table->blocks();
    const std::int64_t columns = (size_of(after) + block_size_ - 1) / block_size_;
    const std::int64_t first = moved_from < size_of(after) ? moved_from / block_size_ : columns;
    std::int64_t takes = 0, copies = 0, gives = 0;
    for (std::int64_t column = 0; column < static_cast<std::int64_t>(before.size()); ++column) {
      const bool hole = before[column] == kHole;
      const bool shared = !hole && pool_->ref_count(before[column]) > 1;
      if (column >= first && column < columns && (hole || shared)) {
        ++takes;
        copies += shared;
      } else if (column >= columns && !hole && !shared && !sources.contains(column)) {
        ++gives;
      }
    }
    if (takes > pool_->num_free() + gives) {
      ++refused_keeps_;
      ASSERT_THROW(sequence->table->keep(after.positions), OutOfBlocks);
      ASSERT_EQ(sequence->table->blocks(), before);
      return;
    }
    if (finds_no_room(*sequence->table, pool_->geometry().num_open() + 1,
                      [&] { sequence->table->keep(after.positions); })) {
      ++refused_openings_;
      return;
    }
    std::int64_t same_columns = std::min(first, columns);
    // the first tokens alone, as truncate leaves them
    if (sequence->replaced.is_there() && size_of(after) <= sequence->replaced.length()) {
      same_columns = std::min(same_columns, sequence->replaced.length() / block_size_);
    }
    if (std::ssize(kept) < size_of(*sequence)) sequence->replaced.forget();
    if (sequence->opened) sequence->opened->keep(kept);
    copies_ += copies;
    sequence->tokens = after.tokens;
    sequence->positions = after.positions;
    sequence->holes.clear();
    const std::vector<std::int32_t> blocks = sequence->table->blocks();
    ASSERT_TRUE(std::equal(blocks.begin(), blocks.begin() + same_columns, before.begin()));
  }

  // What leaves memory is where the file has it. What is shared stays, and is not seen here.
  void offload() {
    ModelSequence* sequence = any();
    if (sequence == nullptr) return;
    BlockTable& table = *sequence->table;
    table.offload();
    if (below(2) == 0) return;
    try {
      table.restore();
    } catch (const ValueError&) {  // more than there is memory for
      ASSERT_GT(std::ssize(table.blocks()) * pool_->geometry().num_layers,
                pool_->residency().capacity());
      return;
    }
    ++restored_;
    for (const ExplainedBlock& block : table.explain()) ASSERT_TRUE(block.is_resident);
  }

  void fork() {
    ModelSequence* sequence = any();
    if (sequence == nullptr) return;
    ModelSequence child{sequence->table->fork(), sequence->tokens,        sequence->holes,
                        sequence->positions,     sequence->next_position, sequence->opened,
                        sequence->replaced};
    sequences_.push_back(std::move(child));
  }

  void remove() {
    if (sequences_.empty()) return;
    const auto position = sequences_.begin() + below(sequences_.size());
    if (below(2) == 0) position->table->free();
    sequences_.erase(position);
  }

  // One block, of a table or of nobody yet.
  void retain() {
    ModelSequence* sequence = any();
    if (retained_.size() > 6) return;
    if (sequence == nullptr || sequence->tokens.empty() || below(2) == 0) {
      if (pool_->num_free() > 0) retained_.push_back(pool_->allocate()[0]);
    } else {
      const std::vector<std::int32_t> blocks = sequence->table->blocks();
      const std::int32_t block = blocks[below(blocks.size())];
      if (block == kHole) return;
      retained_.push_back(block);
      pool_->retain(std::span(retained_).last(1));
    }
  }

  void release() {
    if (retained_.empty()) return;
    std::swap(retained_[below(retained_.size())], retained_.back());
    pool_->release(std::span(retained_).last(1));
    retained_.pop_back();
  }

  std::shared_ptr<BlockPool> pool_;
  std::int64_t block_size_;
  std::function<std::uint32_t()> random_;
  std::vector<ModelSequence> sequences_;
  std::vector<std::int32_t> retained_;  // one reference of ours for each entry
  std::uint32_t next_token_ = 1;
  std::int64_t copies_ = 0;
  std::int64_t refusals_ = 0;
  std::int64_t refused_truncations_ = 0;
  std::int64_t refused_keeps_ = 0;
  std::int64_t refused_openings_ = 0;
  std::int64_t restored_ = 0;
};

}  // namespace quire::testing
