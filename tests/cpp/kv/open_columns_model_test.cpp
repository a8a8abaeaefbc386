// Tables of int4 that share what they can, each next to a model that knows of no other.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "kv/int4_sequence.h"
#include "kv/temporary_path.h"

namespace quire::testing {
namespace {

// Operations by chance.
class Int4Machine {
 public:
  Int4Machine(std::shared_ptr<BlockPool> pool, std::uint32_t seed)
      : pool_(std::move(pool)), random_(seed) {}

  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      step();
      for (const auto& [table, model] : sequences_) ASSERT_TRUE(model.is_what(*table)) << i;
      verify_open_blocks();
      pool_->check();
    }
    EXPECT_GT(refusals_, 0);
    EXPECT_GT(pool_->stats().copies_on_write, 0);
    sequences_.clear();
    EXPECT_EQ(pool_->num_used(), 0);
    EXPECT_EQ(pool_->stats().open_blocks, 0);
    pool_->check();
  }

 private:
  struct Sequence {
    std::unique_ptr<BlockTable> table;
    Int4Sequence model;
  };

  std::int64_t below(std::int64_t n) { return random_() % n; }

  void step() {
    const std::int64_t action = below(100);
    if (sequences_.empty() || action < 6) {
      sequences_.push_back({std::make_unique<BlockTable>(pool_), Int4Sequence(pool_->geometry())});
    }
    const std::int64_t index = below(std::ssize(sequences_));
    auto& [table, model] = sequences_[index];
    if (action < 50) {
      const bool in_one_step = below(2) == 0;
      const Tokens tokens = tokens_from(
          next_, below(5) == 0 ? below(6 * pool_->geometry().block_size) : 1 + below(3));
      next_ += std::ssize(tokens);
      try {
        in_one_step ? append_open(*table, tokens) : extend_open(*table, tokens);
      } catch (const OutOfBlocks&) {
        ++refusals_;
        return;
      }
      in_one_step ? model.append(tokens) : model.extend(tokens);
    } else if (action < 60) {
      const std::int64_t length = below(model.size() + 1);
      if (length % pool_->geometry().block_size != 0 &&
          model.is_hole(length / pool_->geometry().block_size)) {
        return;
      }
      table->truncate(length);
      model.truncate(length);
    } else if (action < 75) {
      sequences_.push_back({table->fork(), model});
    } else if (action < 80) {
      if (table->next_position() != model.size()) return;  // tokens were removed
      const std::int64_t token = below(model.size() + 1);
      table->drop_before(token);
      model.drop_before(token);
    } else if (action < 88) {
      keep(*table, model);
    } else if (action < 92 && pool_->residency() != nullptr) {
      offload(*table);
    } else {
      sequences_.erase(sequences_.begin() + index);
    }
    if (sequences_.size() > 8) sequences_.erase(sequences_.begin() + below(8));
  }

  void keep(BlockTable& table, Int4Sequence& model) {
    const std::vector<std::int64_t> positions = table.positions();
    const std::int64_t same = below(2) * below(model.size() + 1), chance = below(5);
    std::vector<std::int64_t> indices, kept;
    for (std::int64_t t = 0; t < model.size(); ++t) {
      if (model.is_hole(t / pool_->geometry().block_size)) continue;
      if (t >= same && below(4) >= chance) continue;
      indices.push_back(t);
      kept.push_back(positions[t]);
    }
    try {
      table.keep(kept);
    } catch (const OutOfBlocks&) {
      ++refusals_;
      return;
    }
    model.keep(indices);
  }

  // What it takes along is where the file has it; whether all of it fits is known beforehand.
  void offload(BlockTable& table) {
    table.offload();
    if (below(2) == 0) return;
    try {
      table.restore();
    } catch (const ValueError&) {
      return;
    }
    for (const ExplainedBlock& block : table.explain()) ASSERT_TRUE(block.is_resident);
  }

  // Those that some table reads open, each at one place, however many tables.
  void verify_open_blocks() const {
    std::map<std::int32_t, std::int32_t> open;
    for (const auto& [table, model] : sequences_) {
      const std::vector<std::int32_t> ids = packed(*table), blocks = table->blocks();
      for (std::size_t column = 0; column < ids.size(); ++column) {
        if (blocks[column] == kHole || !model.is_open(column)) {
          ASSERT_EQ(ids[column], blocks[column]);
          continue;
        }
        ASSERT_GE(ids[column], pool_->geometry().num_blocks);
        const auto [found, is_new] = open.emplace(blocks[column], ids[column]);
        ASSERT_EQ(found->second, ids[column]);
      }
    }
    ASSERT_EQ(pool_->stats().open_blocks, std::ssize(open));
  }

  std::shared_ptr<BlockPool> pool_;
  std::mt19937 random_;
  std::vector<Sequence> sequences_;
  std::uint32_t next_ = 0;
  std::int64_t refusals_ = 0;
};

TEST(OpenColumnsModel, RandomOperationsNextToAModel) {
  for (std::uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    Int4Machine(new_int4_pool(24, 4), seed).run(600);
    Int4Machine(new_int4_pool(40, 1), seed).run(300);
    Int4Machine(new_int4_pool(12, 7), seed).run(300);
    if (HasFatalFailure()) return;
  }
}

// Blocks that come and go, and open ones that find no room, change nothing in what tables hold.
TEST(OpenColumnsModel, RandomOperationsInAFile) {
  for (std::uint32_t seed = 0; seed < 3; ++seed) {
    SCOPED_TRACE(seed);
    for (const std::int64_t slots : {4, 9, 30}) {
      const TemporaryPath path;
      const auto pool = new_backed_int4_pool(path.text(), slots < 30 ? 60 : 24, slots);
      Int4Machine(pool, seed).run(250);
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace quire::testing
