// Forward passes over many sequences at once: a sequence's logits have the same bits in any batch,
// on any number of threads, in any slot of the states.
#include "quire/model/loaded_model.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "quire/kv/table/block_table.h"
#include "quire/model/load_model.h"
#include "quire/paged/make_pool.h"

namespace quire {
namespace {

using Ids = std::vector<std::int64_t>;

// Sequences that grow by steps, as an engine has them.
class Batch {
 public:
  Batch(const LoadedModel& model, std::int64_t num_sequences, std::int64_t num_slots)
      : model_(model), states_(model.make_states(num_slots)) {
    const KvShape shape = model.kv_shape();
    KvGeometry geometry;
    geometry.num_blocks = 64;
    geometry.num_kv_heads = shape.num_kv_heads;
    geometry.head_dim = shape.head_dim;
    geometry.v_head_dim = shape.value_dim;
    geometry.num_layers = shape.num_layers;
    geometry.dtype = model.rows();
    pool_ = make_pool(geometry);
    for (std::int64_t i = 0; i < num_sequences; ++i) {
      tables_.push_back(std::make_shared<BlockTable>(pool_));
    }
  }

  // Adds tokens to some sequences; the logits after the last token of each.
  std::vector<std::vector<float>> step(const std::vector<std::size_t>& sequences,
                                       const std::vector<Ids>& ids,
                                       const std::vector<std::int64_t>& slots, int num_threads) {
    std::vector<std::shared_ptr<BlockTable>> tables;
    std::vector<std::int64_t> counts, rows;
    Ids all;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      tables.push_back(tables_[sequences[i]]);
      counts.push_back(std::ssize(ids[i]));
      all.insert(all.end(), ids[i].begin(), ids[i].end());
      rows.push_back(std::ssize(all) - 1);
    }
    std::vector<float> logits(rows.size() * static_cast<std::size_t>(model_.vocab_size()), NAN);
    Step step(tables, counts);
    model_.forward({.step = step,
                    .token_ids = all,
                    .states = states_.get(),
                    .state_slots = slots,
                    .logit_rows = rows,
                    .logits = view_of(logits, {std::ssize(rows), model_.vocab_size()})},
                   default_execution(num_threads));
    std::vector<std::vector<float>> results;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto first = logits.begin() + static_cast<std::ptrdiff_t>(i) * model_.vocab_size();
      results.emplace_back(first, first + model_.vocab_size());
    }
    return results;
  }

  RecurrentStates* states() { return states_.get(); }
  std::shared_ptr<BlockTable> table(std::size_t i) { return tables_[i]; }

 private:
  const LoadedModel& model_;
  std::shared_ptr<RecurrentStates> states_;
  std::shared_ptr<BlockPool> pool_;
  std::vector<std::shared_ptr<BlockTable>> tables_;
};

Ids random_ids(std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  Ids ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(random() % 4096);
  return ids;
}

class LoadedModels : public ::testing::TestWithParam<const char*> {
 protected:
  static std::shared_ptr<const LoadedModel> load(std::optional<DType> weights) {
    return load_model(std::string(QUIRE_TEST_MODELS) + "/" + GetParam(), {weights, 1});
  }
};

INSTANTIATE_TEST_SUITE_P(All, LoadedModels, ::testing::Values("pystdlib-llama", "pystdlib-qwen3_5"),
                         [](const auto& info) {
                           return std::string(info.param).substr(std::string("pystdlib-").size());
                         });

TEST_P(LoadedModels, ASequencesBitsAreItsOwn) {
  for (const DType weights : {DType::float32, DType::bfloat16, DType::int4}) {
    const auto model = load(weights);
    const std::vector<Ids> prompts = {random_ids(19, 1), random_ids(1, 2), random_ids(40, 3)};
    std::vector<std::vector<std::vector<float>>> alone;  // of each step, of each sequence
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      Batch batch(*model, 1, 1);
      alone.push_back({});
      alone.back().push_back(batch.step({0}, {prompts[i]}, {0}, 1)[0]);
      alone.back().push_back(batch.step({0}, {{7}}, {0}, 1)[0]);
    }
    // prompts together, and then a prompt beside tokens that are decoded; slots are anywhere
    Batch batch(*model, 3, 5);
    const auto first = batch.step({1, 0}, {prompts[1], prompts[0]}, {4, 2}, 3);
    EXPECT_EQ(first[0], alone[1][0]);
    EXPECT_EQ(first[1], alone[0][0]);
    const auto second = batch.step({0, 2, 1}, {{7}, prompts[2], {7}}, {2, 0, 4}, 2);
    EXPECT_EQ(second[0], alone[0][1]);
    EXPECT_EQ(second[1], alone[2][0]);
    EXPECT_EQ(second[2], alone[1][1]);
    EXPECT_EQ(batch.step({2}, {{7}}, {0}, 1)[0], alone[2][1]);
  }
}

TEST_P(LoadedModels, StatesAndTablesAreCopied) {
  const auto model = load(std::nullopt);
  const Ids prompt = random_ids(20, 4);
  Batch batch(*model, 1, 2);
  batch.step({0}, {prompt}, {0}, 1);
  const std::shared_ptr<BlockTable> fork = batch.table(0)->fork();
  if (batch.states() != nullptr) batch.states()->copy(0, 1);
  const auto expected = batch.step({0}, {{9}}, {0}, 1)[0];
  batch.table(0)->truncate(20);
  const auto again = batch.step({0}, {{9}}, {1}, 1)[0];
  EXPECT_EQ(again, expected);
}

TEST_P(LoadedModels, RefuseWhatDoesNotFit) {
  const auto model = load(std::nullopt);
  Batch batch(*model, 1, 2);
  Step step({batch.table(0)}, std::vector<std::int64_t>{2});
  const Ids ids = {1, 2}, rows = {1}, slots = {0};
  std::vector<float> logits(4096);
  const ArrayView view = view_of(logits, {1, 4096});
  const Execution how = default_execution(1);
  const auto expect = [&](const ForwardArgs& args, const std::string& message) {
    try {
      model->forward(args, how);
      ADD_FAILURE() << "nothing thrown: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).rfind("forward: " + message, 0), 0u) << error.what();
    }
  };
  RecurrentStates* const states = batch.states();
  const Ids few = {1}, foreign = {1, 4096}, falling = {1, 0}, beyond = {2};
  expect({step, few, states, slots, rows, view}, "token_ids: got 1 ids, expected 2");
  expect({step, foreign, states, slots, rows, view}, "token_ids: got 4096 at 1");
  expect({step, ids, states, slots, falling, view}, "logit_rows: got 0 at 1, expected 2 to 1");
  expect({step, ids, states, slots, beyond, view}, "logit_rows: got 2 at 0");
  expect({step, ids, states, slots, ids, view}, "logit_rows: got 2 at 1");
  expect({step, ids, states, slots, rows, view_of(logits, {1, 4095})}, "logits: got shape");
  if (states == nullptr) return;
  const Ids two = {0, 1}, unknown = {2};
  expect({step, ids, nullptr, slots, rows, view}, "states: got none");
  expect({step, ids, states, two, rows, view}, "state_slots: got 2 slots, expected 1");
  expect({step, ids, states, unknown, rows, view}, "state_slots: got 2 at 0, expected 0 to 1");
}

}  // namespace
}  // namespace quire
