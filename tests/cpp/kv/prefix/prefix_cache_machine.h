// Lives of a pool, its tables and a prefix cache, next to a plain model that foretells every
// answer: what is found and where, who makes room, and when nobody can. Numbers from outside choose
// each step: random ones, or the bytes of a fuzzer.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kv/prefix/cached_sequence.h"
#include "kv/prefix/known_ids.h"
#include "kv/prefix/pinned_prefixes.h"
#include "kv/prefix/plain_prefix_cache.h"
#include "kv/prefix/prefix_rows.h"
#include "kv/table/open_rows.h"
#include "kv/table/replaced_block.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire::testing {

class PrefixCacheMachine {
 public:
  PrefixCacheMachine(const CacheShape& shape, std::function<std::uint32_t()> random)
      : num_blocks_(shape.num_blocks),
        block_size_(shape.block_size),
        pool_(shape.open ? new_open_pool(*shape.open, shape.num_blocks, shape.block_size)
                         : new_pool(shape.num_blocks, shape.block_size, 1)),
        cache_(pool_, shape.max_blocks),
        plain_(shape.block_size, shape.max_blocks,
               [this](auto block) { return holders(block) > 0; }),
        random_(std::move(random)) {}

  void step() {
    const std::int64_t action = below(112);
    if (action < 20) {
      match();
    } else if (action < 26) {
      start_anew();
    } else if (action < 44) {
      append();
    } else if (action < 64) {
      insert();
    } else if (action < 82) {
      remove();
    } else if (action < 86) {
      fork();
    } else if (action < 90) {
      truncate();
    } else if (action < 94) {
      allocate();
    } else if (action < 98) {
      release();
    } else if (action < 102) {
      pin();
    } else if (action < 104) {
      unpin();
    } else if (action < 110) {
      drop_before();
    } else if (action < 111 || below(10) > 0) {
      evict();
    } else {
      cache_.clear();
      plain_.clear();
      pins_.forget();
    }
    if (sequences_.size() > 5) remove();
  }
  void verify_counts() const {
    std::int64_t free = 0, cached = 0, pinned = 0;
    for (std::int32_t block = 0; block < num_blocks_; ++block) {
      free += holders(block) == 0 && !plain_.has(block);
      cached += plain_.is_idle(block);
      pinned += plain_.is_pinned(block);
    }
    const PoolStats stats = pool_->stats();
    ASSERT_EQ(stats.free, free);
    ASSERT_EQ(stats.cached, cached);
    ASSERT_EQ(stats.pinned, pinned);
    ASSERT_EQ(cache_.size(), static_cast<std::int64_t>(plain_.size()));
    const PrefixCacheStats counted = cache_.stats();
    ASSERT_EQ(counted.evictions, plain_.evictions);
    ASSERT_EQ(counted.hits, hits_);
    ASSERT_EQ(counted.misses, misses_);
    ASSERT_EQ(counted.tokens_matched, matched_);
    ASSERT_EQ(counted.tokens_asked, asked_);
    const PrefixCacheStats::Misses& why = counted.misses_by_reason;
    ASSERT_EQ(why.cold + why.short_ + why.evicted + why.other_namespace + why.preempted, misses_);
  }

  void verify_all() const {
    verify_counts();
    ASSERT_NO_THROW(pool_->check());
    OpenPlaces places;
    for (const CachedSequence& s : sequences_) {
      ASSERT_TRUE(holds(s));
      if (!has_open_blocks()) continue;
      ASSERT_NO_THROW(s.table->check());
      ASSERT_TRUE(places.add(*s.table, [&](auto column) { return s.is_open(column); }));
    }
    ASSERT_TRUE(!has_open_blocks() || places.are_all(*pool_, held_));
  }

  // Everybody lets go: nothing is left in use.
  void finish() {
    while (!sequences_.empty()) remove();
    pool_->release(held_);
    cache_.clear();
    EXPECT_EQ(pool_->num_used(), 0);
    pool_->check();
  }

  const std::shared_ptr<BlockPool>& pool() const { return pool_; }
  PrefixCache& cache() { return cache_; }
  std::int64_t hits() const { return hits_; }
  std::int64_t refusals() const { return refusals_; }
  std::int64_t evictions() const { return plain_.evictions; }
  std::int64_t windowed() const { return windowed_; }  // matches that gave a table with holes
  std::int64_t pins() const { return pins_.made(); }
  std::int64_t left_places() const { return plain_.left_places; }

 private:
  bool has_open_blocks() const { return pool_->geometry().opens_blocks(); }
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_() % n); }

  std::int64_t holders(std::int32_t block) const {
    std::int64_t count = std::count(held_.begin(), held_.end(), block);
    for (const CachedSequence& s : sequences_) {
      count += std::count(s.blocks.begin(), s.blocks.end(), block);
      count += s.replaced.is_there() && s.replaced.block() == block;
    }
    return count;
  }
  std::int64_t num_free() const {
    std::int64_t free = 0;
    for (std::int32_t b = 0; b < num_blocks_; ++b) free += holders(b) == 0 && !plain_.has(b);
    return free;
  }
  bool can_free(std::int64_t blocks) const {
    for (std::int32_t b = 0; b < num_blocks_; ++b) {
      blocks -= holders(b) == 0 && !plain_.is_pinned(b);
    }
    return blocks <= 0;
  }
  void reclaim(std::int64_t blocks) {
    while (num_free() < blocks) ASSERT_TRUE(plain_.evict_one());
  }
  // Somebody let go of blocks, in this order, which the books of the test do not name any more.
  void note_dropped(std::int32_t block) {
    if (plain_.is_idle(block)) plain_.note_idle(block);
  }
  void drop_last_block(CachedSequence& sequence) {
    const std::int32_t block = sequence.blocks.back();
    sequence.blocks.pop_back();
    if (block != kHole) note_dropped(block);
  }
  void let_go_of_replaced(CachedSequence& sequence) {
    if (!has_open_blocks()) return;
    if (const auto block = sequence.replaced.let_go(*sequence.opened)) note_dropped(*block);
  }
  CachedSequence* any() {
    return sequences_.empty() ? nullptr : &sequences_[below(sequences_.size())];
  }

  Ids some_ids() {
    return known_.some([this](auto n) { return below(n); });
  }

  void match() {
    const std::string space = below(5) == 0 ? "other" : "";
    const Ids ids = some_ids();
    const Ids wanted(ids.begin(), ids.begin() + (ids.empty() ? 0 : ids.size() - 1));
    PrefixWindow window;
    if (!has_open_blocks() && below(3) == 0) window = {1 + below(3 * block_size_), below(3)};
    const PlainPrefixCache::Found found = plain_.find(space, wanted, window);
    std::int64_t kept = 0;
    for (const std::int32_t block : found.blocks) kept += plain_.is_idle(block);
    ASSERT_EQ(cache_.peek(ids, space, window),
              static_cast<std::int64_t>(found.blocks.size() * block_size_ + found.rows));
    const bool copies = found.rows > 0;
    kept += copies && plain_.is_idle(found.rest);
    // every block that is kept would have counted as one that can be freed
    if (copies && !can_free(1 + kept)) {
      ASSERT_THROW(cache_.match(ids, space, window), OutOfBlocks);
      ++refusals_;
      return;
    }
    auto table = cache_.match(ids, space, window);
    const std::size_t length = found.blocks.size() * block_size_ + found.rows;
    ASSERT_EQ(table->num_tokens(), static_cast<std::int64_t>(length));
    sequences_.push_back({space, {ids.begin(), ids.begin() + length}, table, found.blocks});
    CachedSequence& made = sequences_.back();
    if (has_open_blocks()) {
      made.opened.emplace(pool_->geometry());
      made.opened->append(Tokens(length));
      made.opened->seal_full_blocks();
    }
    if (copies) {
      held_.push_back(found.rest);  // while the rows are copied
      reclaim(1);
      held_.pop_back();
      made.blocks.push_back(table->blocks().back());
      ASSERT_EQ(holders(made.blocks.back()), 1);
      note_dropped(found.rest);
    }
    ASSERT_EQ(table->blocks(), made.blocks);
    ASSERT_TRUE(holds(made));
    windowed_ += made.has_holes();
    ++(length > 0 ? hits_ : misses_);
    matched_ += static_cast<std::int64_t>(length);
    asked_ += static_cast<std::int64_t>(ids.size());
  }

  // Of tokens that the cache may know: so its blocks and those of tables differ.
  void start_anew() {
    sequences_.push_back({"", {}, std::make_shared<BlockTable>(pool_), {}});
    if (has_open_blocks()) sequences_.back().opened.emplace(pool_->geometry());
  }

  void append() {
    CachedSequence* sequence = any();
    if (sequence == nullptr) return;
    Ids ids = sequence->ids;
    const Ids known = known_.any([this](auto n) { return below(n); });
    if (common_prefix(ids, known) == ids.size() && below(4) > 0) {
      ids = known;
    } else {
      for (std::int64_t n = below(block_size_ + 2); n > 0; --n) ids.push_back(below(3) - 1);
    }
    const auto n = static_cast<std::int64_t>(ids.size() - sequence->ids.size());
    const std::int64_t rows = static_cast<std::int64_t>(sequence->ids.size()) % block_size_;
    const std::int64_t into_last = rows == 0 ? 0 : std::min(n, block_size_ - rows);
    const std::int64_t more = (n - into_last + block_size_ - 1) / block_size_;
    const std::int32_t last = sequence->blocks.empty() ? -1 : sequence->blocks.back();
    const bool replaces = sequence->opened && ReplacedBlock::is_made(*sequence->opened, n);
    bool copies = replaces || (into_last > 0 && holders(last) + plain_.has(last) > 1);
    if (copies && !replaces && !can_free(more + 1) && can_free(more) && holders(last) == 1 &&
        !plain_.is_pinned(last)) {
      plain_.forget(last);
      copies = false;
    }
    if (!can_free(more + copies)) {
      ASSERT_THROW(append_rest(*sequence->table, ids, sequence->space), OutOfBlocks);
      ++refusals_;
      return;
    }
    reclaim(more + copies);
    append_rest(*sequence->table, ids, sequence->space);
    if (has_open_blocks()) sequence->opened->append(Tokens(n));
    if (replaces) sequence->replaced.set(last, std::ssize(sequence->ids));
    sequence->ids = ids;
    sequence->blocks = sequence->table->blocks();
    if (copies) note_dropped(last);
    let_go_of_replaced(*sequence);
    known_.add(ids);
  }

  void insert() {
    const CachedSequence* sequence = any();
    if (sequence == nullptr) return;
    Ids ids = sequence->ids;
    if (below(4) == 0) ids.resize(below(ids.size() + 1));
    Ids kept(ids.begin(), ids.begin() + (has_open_blocks()  // full blocks alone
                                             ? ids.size() / block_size_ * block_size_
                                             : ids.size()));
    while (!kept.empty() && sequence->blocks[(kept.size() - 1) / block_size_] == kHole) {
      kept.resize((kept.size() - 1) / block_size_ * block_size_);
    }
    const std::int64_t priority = below(2) == 0 ? 0 : 50 * (below(5) - 2);
    const auto insert_into = [&](const std::string& space) {
      cache_.insert(ids, *sequence->table, space, priority);
      plain_.insert(space, kept, sequence->blocks, priority);
    };
    // nobody asks for most of the others; their blocks leave places, and these as well
    for (std::int64_t n = below(8) == 0 ? below(25) : 0; n > 0; --n) {
      insert_into(concat("space ", below(40)));
    }
    insert_into(sequence->space);
  }

  void fork() {
    const CachedSequence* parent = any();
    if (parent == nullptr) return;
    sequences_.push_back({parent->space, parent->ids, parent->table->fork(), parent->blocks,
                          parent->opened, parent->replaced});
  }

  void truncate() {
    CachedSequence* sequence = any();
    if (sequence == nullptr) return;
    const std::int64_t length = below(sequence->ids.size() + 1);
    if (length % block_size_ > 0 && sequence->blocks[length / block_size_] == kHole) {
      ASSERT_THROW(sequence->table->truncate(length), ValueError);
      return;
    }
    sequence->table->truncate(length);
    sequence->ids.resize(length);
    while (static_cast<std::int64_t>(sequence->blocks.size()) * block_size_ >=
           length + block_size_) {
      drop_last_block(*sequence);
    }
    if (!has_open_blocks()) return;
    sequence->opened->truncate(length);
    const std::int64_t column = sequence->replaced.length() / block_size_;
    if (std::ssize(sequence->blocks) > column && sequence->replaced.is_there() &&
        length <= sequence->replaced.length()) {  // it comes back
      const std::int32_t block = sequence->replaced.block();
      drop_last_block(*sequence);
      sequence->blocks.push_back(block);
      sequence->replaced.forget();
      ASSERT_EQ(sequence->table->blocks(), sequence->blocks);
    }
    let_go_of_replaced(*sequence);
  }

  // In pools without open blocks, whose model has no holes.
  void drop_before() {
    CachedSequence* sequence = any();
    if (sequence == nullptr || has_open_blocks()) return;
    const std::int64_t end = below(sequence->ids.size() + 1), sinks = below(3);
    sequence->table->drop_before(end, sinks);
    for (std::int64_t column = end / block_size_;
         column-- > (sinks + block_size_ - 1) / block_size_;) {
      const std::int32_t block = std::exchange(sequence->blocks[column], kHole);
      if (block != kHole) note_dropped(block);
    }
    ASSERT_EQ(sequence->table->blocks(), sequence->blocks);
  }

  void remove() {
    if (sequences_.empty()) return;
    const auto sequence = sequences_.begin() + below(sequences_.size());
    sequence->table->free();
    while (!sequence->blocks.empty()) drop_last_block(*sequence);
    if (has_open_blocks()) sequence->opened->truncate(0);
    let_go_of_replaced(*sequence);
    sequences_.erase(sequence);
  }

  void allocate() {
    const std::int64_t n = below(num_blocks_ / 3);
    if (!can_free(n)) {
      ASSERT_THROW(pool_->allocate(n), OutOfBlocks);
      ++refusals_;
      return;
    }
    reclaim(n);
    for (const std::int32_t block : pool_->allocate(n)) held_.push_back(block);
    if (const CachedSequence* sequence = any();
        sequence != nullptr && !sequence->has_holes() && below(4) == 0) {
      pool_->retain(sequence->blocks);
      held_.insert(held_.end(), sequence->blocks.begin(), sequence->blocks.end());
    }
  }

  void release() {
    for (std::int64_t n = below(num_blocks_); n > 0 && !held_.empty(); --n) {
      const std::int32_t block = held_.back();
      held_.pop_back();
      pool_->release(std::vector{block});
      note_dropped(block);
    }
  }

  void pin() {
    if (pins_.size() > 3) return unpin();
    pins_.pin(below(5) == 0 ? "other" : "", some_ids());
  }
  void unpin() {
    if (pins_.size() > 0 && below(6) > 0) return pins_.unpin(below(pins_.size()));
    pins_.try_unpin(some_ids());
  }

  void evict() {
    const std::int64_t wanted = below(4);
    const std::int64_t before = num_free();
    while (num_free() - before < wanted && plain_.evict_one()) continue;
    ASSERT_EQ(cache_.evict(wanted), num_free() - before);
  }

  const std::int64_t num_blocks_, block_size_;
  const std::shared_ptr<BlockPool> pool_;
  PrefixCache cache_;
  PlainPrefixCache plain_;
  PinnedPrefixes pins_{cache_, plain_};
  std::function<std::uint32_t()> random_;
  std::vector<CachedSequence> sequences_;
  std::vector<std::int32_t> held_;
  KnownIds known_{block_size_};
  std::int64_t hits_ = 0, misses_ = 0, matched_ = 0, asked_ = 0, refusals_ = 0, windowed_ = 0;
};

}  // namespace quire::testing
