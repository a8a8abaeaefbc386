// Random lives of tables that are given drafts and have them taken back, each next to a twin in
// another pool that never sees one: whatever comes in between, both read the same bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kv/table/model_steps.h"
#include "kv/table/open_bits.h"
#include "kv/table/straight_rows.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "support/temporary_path.h"

namespace quire::testing {
namespace {

constexpr std::int64_t kTokens = ColumnHistory::kTokens;

enum class Way { extended, open, straight };

class Twins {
 public:
  Twins(std::shared_ptr<BlockPool> pool, std::shared_ptr<BlockPool> of_twins, std::uint32_t seed)
      : pool_(std::move(pool)),
        of_twins_(std::move(of_twins)),
        drafts_(pool_),
        cache_(pool_),
        cache_of_twins_(of_twins_),
        random_(seed) {}

  void step() {
    if (pairs_.empty())
      pairs_.push_back(
          {std::make_shared<BlockTable>(pool_), std::make_shared<BlockTable>(of_twins_)});
    Pair& pair = pairs_[below(std::ssize(pairs_))];
    const std::int64_t action = below(100);
    if (action < 35) {
      accept(pair);
    } else if (action < 75) {
      draft(pair);
    } else if (action < 80) {
      truncate(pair);
    } else if (action < 83) {
      drop_before(pair);
    } else if (action < 87) {
      keep(pair);
    } else if (action < 91) {
      insert(pair);
    } else if (action < 94) {
      match();
    } else if (action < 97) {
      pairs_.push_back({pair.table->fork(), pair.twin->fork(), pair.ids, pair.horizon});
    } else {
      std::swap(pair, pairs_.back());
      pairs_.pop_back();
    }
    if (pairs_.size() > 5) pairs_.erase(pairs_.begin());
  }

  void verify() const {
    for (const Pair& pair : pairs_) {
      ASSERT_EQ(pair.table->positions(), pair.twin->positions());
      ASSERT_EQ(read_bits(*pair.table), read_bits(*pair.twin));
      ASSERT_NO_THROW(pair.table->check());
      ASSERT_NO_THROW(pair.twin->check());
    }
    ASSERT_NO_THROW(pool_->check());
  }

  void finish() {
    pairs_.clear();
    cache_.clear();
    drafts_.clear();
    ASSERT_EQ(pool_->num_used(), 0);
    ASSERT_EQ(pool_->stats().open_blocks, 0);
    ASSERT_NO_THROW(pool_->check());
  }

  std::int64_t num_reopened() const { return num_reopened_; }
  std::int64_t num_matched() const { return num_matched_; }

 private:
  struct Pair {
    std::shared_ptr<BlockTable> table, twin;
    std::vector<std::int64_t> ids = {};  // of all tokens
    std::int64_t horizon = 0;            // the least length to which the table can be taken back

    std::int64_t size() const { return twin->num_tokens(); }
    void grew_to(std::int64_t size) { horizon = std::max(horizon, size - kTokens); }
  };

  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_() % n); }
  std::int64_t up_to(std::int64_t n) { return below(n + 1); }
  Tokens some_tokens(std::int64_t n) {
    Tokens tokens(n);
    for (std::uint32_t& token : tokens) token = next_token_++;
    return tokens;
  }

  static void add(BlockTable& table, const Tokens& tokens, Way way) {
    if (way == Way::extended) extend_open(table, tokens);
    if (way == Way::open) append_open(table, tokens);
    if (way == Way::straight) append_straight(table, tokens);
  }
  Way any_way() { return Way{static_cast<int>(below(3))}; }

  // The twin gets at once what is appended in two.
  void accept(Pair& pair) {
    const Tokens tokens = some_tokens(below(6) == 0 ? up_to(150) : up_to(9));
    const Way way = any_way();
    const auto middle = tokens.begin() + up_to(std::ssize(tokens));
    if (way == Way::extended) {
      add(*pair.table, tokens, way);
    } else {
      add(*pair.table, {tokens.begin(), middle}, any_append());
      add(*pair.table, {middle, tokens.end()}, any_append());
    }
    add(*pair.twin, tokens, way);
    pair.ids.insert(pair.ids.end(), tokens.begin(), tokens.end());
    pair.grew_to(pair.size());
  }
  Way any_append() { return below(2) == 0 ? Way::open : Way::straight; }

  void draft(Pair& pair) {
    const std::int64_t size = pair.size();
    const std::vector<std::string> before = read_bits(*pair.table);
    std::vector<std::int64_t> ids = pair.ids;
    std::vector<std::unique_ptr<BlockTable>> forks;
    for (std::int64_t left = below(3) == 0 ? kTokens : 1 + below(kTokens); left > 0;) {
      const Tokens tokens = some_tokens(1 + below(left));
      left -= std::ssize(tokens);
      add(*pair.table, tokens, any_way());
      ids.insert(ids.end(), tokens.begin(), tokens.end());
      if (below(4) == 0) forks.push_back(pair.table->fork());
      if (below(4) == 0 && !has_hole(pair)) {
        drafts_.insert(ids, *pair.table);
      }
      if (below(4) == 0) drafts_.evict(3);
      if (below(4) == 0 && pool_->residency().is_limited()) pair.table->offload();
      if (below(3) == 0) left = 0;
    }
    pair.grew_to(pair.table->num_tokens());
    const std::int64_t open = pool_->stats().open_blocks;
    pair.table->truncate(size);
    num_reopened_ += pool_->stats().open_blocks > open;
    ASSERT_EQ(read_bits(*pair.table), before);
    for (const auto& fork : forks) {
      if (below(2) == 0) add(*fork, some_tokens(up_to(3)), any_way());  // not too many
      if (fork->num_tokens() > size + kTokens) continue;
      fork->truncate(size);
      ASSERT_EQ(read_bits(*fork), before);
    }
  }

  void truncate(Pair& pair) {
    const std::int64_t size = pair.horizon + up_to(pair.size() - pair.horizon);
    const std::vector<std::int32_t> blocks = pair.twin->blocks();
    const std::int64_t block_size = pool_->geometry().block_size;
    if (size % block_size != 0 && blocks[size / block_size] == kHole) return;
    pair.table->truncate(size);
    pair.twin->truncate(size);
    pair.ids.resize(size);
    pair.horizon = std::min(pair.horizon, size);
  }

  void drop_before(Pair& pair) {
    const std::int64_t position = up_to(pair.twin->next_position());
    const std::int64_t sinks = up_to(8);
    pair.table->drop_before(position, sinks);
    pair.twin->drop_before(position, sinks);
  }
  static bool has_hole(const Pair& pair) {
    const std::vector<std::int32_t> blocks = pair.twin->blocks();
    return std::find(blocks.begin(), blocks.end(), kHole) != blocks.end();
  }

  // Of a fork some drafts are kept, which that of the twin is given alone; positions differ.
  void keep(const Pair& pair) {
    if (has_hole(pair)) return;
    const std::unique_ptr<BlockTable> table = pair.table->fork(), twin = pair.twin->fork();
    const Tokens drafts = some_tokens(up_to(kTokens));
    add(*table, drafts, any_append());
    std::vector<std::int64_t> positions = twin->positions();
    Tokens accepted;
    for (std::int64_t i = 0; i < std::ssize(drafts); ++i) {
      if (below(3) > 0) continue;
      positions.push_back(pair.size() + i);
      accepted.push_back(drafts[i]);
    }
    if (accepted.empty()) return;
    table->keep(positions);
    add(*twin, accepted, Way::open);
    ASSERT_EQ(read_bits(*table), read_bits(*twin));
    const std::int64_t size = table->num_tokens();
    for (const std::int64_t count : {below(kTokens), below(kTokens)}) {
      add(*table, some_tokens(count), any_way());
      table->truncate(size);
      ASSERT_EQ(read_bits(*table), read_bits(*twin));
      ASSERT_NO_THROW(table->check());
    }
    const Tokens more = some_tokens(up_to(100));
    add(*table, more, Way::straight);
    add(*twin, more, Way::open);
    ASSERT_EQ(read_bits(*table), read_bits(*twin));
  }

  void insert(Pair& pair) {
    if (has_hole(pair)) return;
    const std::vector<std::int64_t> ids(pair.ids.begin(), pair.ids.begin() + up_to(pair.size()));
    cache_.insert(ids, *pair.table);
    cache_of_twins_.insert(ids, *pair.twin);
    if (!ids.empty()) known_.push_back(ids);
    if (known_.size() < 30) return;
    cache_.clear();
    cache_of_twins_.clear();
    known_.clear();
  }

  void match() {
    if (known_.empty()) return;
    std::vector<std::int64_t> ids = known_[below(std::ssize(known_))];
    if (below(2) == 0) ids.push_back(0);
    Pair made{cache_.match(ids), cache_of_twins_.match(ids)};
    ASSERT_EQ(made.table->num_tokens(), made.size());
    ids.resize(made.size());
    made.ids = ids;
    made.horizon = made.size();
    num_matched_ += made.size() > 0;
    pairs_.push_back(std::move(made));
  }

  const std::shared_ptr<BlockPool> pool_, of_twins_;
  PrefixCache drafts_;  // the older one, which makes room first
  PrefixCache cache_, cache_of_twins_;
  std::mt19937 random_;
  std::vector<Pair> pairs_;
  std::vector<std::vector<std::int64_t>> known_;
  std::uint32_t next_token_ = 1;
  std::int64_t num_reopened_ = 0, num_matched_ = 0;
};

class RollBackModel : public ::testing::TestWithParam<OpenKind> {
 protected:
  void live(Twins& twins, int usual) {
    const int steps = model_steps(usual);
    for (int step = 0; step < steps; ++step) {
      ASSERT_NO_FATAL_FAILURE(twins.step()) << "at step " << step;
      ASSERT_NO_FATAL_FAILURE(twins.verify()) << "at step " << step;
    }
    num_reopened_ += twins.num_reopened();
    num_matched_ += twins.num_matched();
    ASSERT_NO_FATAL_FAILURE(twins.finish());
  }

  std::int64_t num_reopened_ = 0, num_matched_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Kinds, RollBackModel, ::testing::ValuesIn(kOpenKinds), NameOfKind());

TEST_P(RollBackModel, DraftsLeaveNoTrace) {
  for (const std::int64_t block_size : {1, 4, 7, 16, 32, 64, 100}) {
    SCOPED_TRACE(block_size);
    const std::int64_t num_blocks = 40 + 20000 / block_size;
    Twins twins(new_open_pool(GetParam(), num_blocks, block_size),
                new_open_pool(GetParam(), num_blocks, block_size), 3);
    live(twins, 250);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(num_reopened_, 0);
  EXPECT_GT(num_matched_, 0);
}

// Where blocks come and go; the twin's stay in memory.
TEST_P(RollBackModel, DraftsLeaveNoTraceInAFile) {
  for (const std::int64_t block_size : {4, 16}) {
    SCOPED_TRACE(block_size);
    const std::int64_t num_blocks = 40 + 20000 / block_size;
    const TemporaryPath path;
    Twins twins(
        new_backed_open_pool(GetParam(), path.text(), num_blocks, 1600 / block_size, block_size),
        new_open_pool(GetParam(), num_blocks, block_size), 5);
    live(twins, 150);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(num_reopened_, 0);
  EXPECT_GT(num_matched_, 0);
}

}  // namespace
}  // namespace quire::testing
