#include "quire/paged/step.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "paged/paged_rows.h"
#include "quire/base/check.h"
#include "quire/paged/layer_rows.h"

namespace quire::testing {
namespace {

using Tables = std::vector<std::shared_ptr<BlockTable>>;

Tables tables_of(const std::shared_ptr<BlockPool>& pool, const std::vector<std::int64_t>& lengths) {
  Tables tables;
  for (const std::int64_t length : lengths) {
    tables.push_back(table_of(pool, length, static_cast<std::uint32_t>(length)));
  }
  return tables;
}

std::vector<const BlockTable*> pointers(const Tables& tables) {
  std::vector<const BlockTable*> all;
  for (const auto& table : tables) all.push_back(table.get());
  return all;
}

std::vector<std::int64_t> lengths_of(const Tables& tables) {
  std::vector<std::int64_t> lengths;
  for (const auto& table : tables) lengths.push_back(table->num_tokens());
  return lengths;
}

// Layer by layer, with windows of their own, the bits are those of extend and attend; also where a
// table has holes and removed tokens, gets no token, or shares its blocks with another.
TEST(Step, HasTheBitsOfDoingItByHand) {
  const std::vector<std::int64_t> counts = {3, 1, 0, 6, 2};
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::int8, DType::float8_e4m3fn,
                            DType::float8_e5m2, DType::int4}) {
    const auto pool = make_pool(small_geometry(dtype));
    Tables by_step = tables_of(pool, {0, 5, 8, 33}), by_hand = tables_of(pool, {0, 5, 8, 33});
    for (Tables* tables : {&by_step, &by_hand}) {
      tables->push_back((*tables)[3]->fork());
      (*tables)[1]->keep(std::vector<std::int64_t>{0, 2, 4});
      (*tables)[3]->drop_before(12);
    }
    NewTokens rows(2, 12, 5);
    Step step(by_step, counts);
    EXPECT_EQ(step.num_tokens(), 12);
    std::int64_t first = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      EXPECT_EQ(step.cu_seqlens_q()[i], first);
      const std::vector<std::int64_t> slots = by_hand[i]->extend(counts[i]);
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        const LayerRows all{rows.k_of(layer), rows.v_of(layer)};
        write_rows(*pool, layer, all.some(first, counts[i]), slots, default_execution(), "test");
      }
      const std::vector<std::int64_t> positions = by_hand[i]->positions();
      EXPECT_TRUE(std::equal(positions.end() - counts[i], positions.end(),
                             step.positions().begin() + first));
      first += counts[i];
    }
    const std::vector<std::int32_t> cu(step.cu_seqlens_q().begin(), step.cu_seqlens_q().end());
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      std::vector<float> q = random_floats(12 * kHeads * kHeadDim, 11),
                         out(12 * kHeads * kValueDim), expected(out.size());
      AttentionQuery query{.q = view_of(q, {12, kHeads, kHeadDim}),
                           .out = view_of(out, {12, kHeads, kValueDim}),
                           .sliding_window = 4 + layer};
      step.attend(query, rows.k_of(layer), rows.v_of(layer), layer);
      query.out = view_of(expected, {12, kHeads, kValueDim});
      query.cu_seqlens_q = contiguous_index_view(cu.data(), {6});
      attend(query, pointers(by_hand), layer);
      EXPECT_EQ(out, expected) << name_of(dtype) << ", layer " << layer;
      // once more over rows that are there, in another implementation's place
      query.out = view_of(out, {12, kHeads, kValueDim});
      step.attend(query, layer, Implementation::dense);
      query.out = view_of(expected, {12, kHeads, kValueDim});
      attend(query, pointers(by_hand), layer, Implementation::dense);
      EXPECT_EQ(out, expected) << name_of(dtype) << ", layer " << layer;
    }
    pool->check();
  }
}

TEST(Step, GivesAllTablesRoomOrNone) {
  const auto pool = make_pool(small_geometry(DType::bfloat16, 1, 6));
  const Tables tables = tables_of(pool, {4, 7, 3});
  const std::vector<float> before = gathered(*tables[1], 0);
  try {
    Step(tables, std::vector<std::int64_t>{5, 1, 2});
    ADD_FAILURE() << "there is no room";
  } catch (const OutOfBlocks& error) {
    EXPECT_STREQ(error.what(),
                 "Step: num_tokens: got 2 at index 2, which takes 1 block, expected at most the 0 "
                 "free");
  }
  EXPECT_EQ(lengths_of(tables), (std::vector<std::int64_t>{4, 7, 3}));
  EXPECT_EQ(gathered(*tables[1], 0), before);
  EXPECT_EQ(pool->num_used(), 4);
  pool->check();
  Step(tables, std::vector<std::int64_t>{5, 1, 1});
  EXPECT_EQ(lengths_of(tables), (std::vector<std::int64_t>{9, 8, 4}));
}

TEST(Step, IsTakenBackByAnException) {
  const auto pool = make_pool(small_geometry(DType::int4, 1));
  const Tables tables = tables_of(pool, {4, 13});
  const auto run = [&](bool fails) {
    Step step(tables, std::vector<std::int64_t>{2, 9});
    const Step::TakeBack guard(step);
    NewTokens rows(1, 11, 5);
    step.write(rows.k_of(0), rows.v_of(0));
    if (fails) throw std::runtime_error("of a model");
  };
  EXPECT_THROW(run(true), std::runtime_error);
  EXPECT_EQ(lengths_of(tables), (std::vector<std::int64_t>{4, 13}));
  pool->check();
  run(false);
  EXPECT_EQ(lengths_of(tables), (std::vector<std::int64_t>{6, 22}));
}

TEST(Step, TakesBackOnlyWhatIsStillThere) {
  const auto pool = make_pool(small_geometry(DType::bfloat16, 1));
  const Tables tables = tables_of(pool, {4, 5, 6});
  Step step(tables, std::vector<std::int64_t>{2, 2, 2});
  tables[0]->free();
  tables[1]->truncate(3);
  step.take_back();
  EXPECT_EQ(tables[1]->num_tokens(), 3);
  EXPECT_EQ(tables[2]->num_tokens(), 6);
  step.take_back();  // a second time there is nothing
  pool->check();
}

TEST(Step, RefusesTablesThatHaveChanged) {
  const auto pool = make_pool(small_geometry(DType::bfloat16, 1));
  const Tables tables = tables_of(pool, {4, 5});
  Step step(tables, std::vector<std::int64_t>{1, 1});
  NewTokens rows(1, 2, 5);
  step.write(rows.k_of(0), rows.v_of(0));
  tables[1]->extend(1);
  EXPECT_THROW(step.write(rows.k_of(0), rows.v_of(0)), ValueError);
  tables[1]->truncate(6);
  step.write(rows.k_of(0), rows.v_of(0));
}

TEST(Step, RefusesWhatMakesNoStep) {
  const auto pool = make_pool(small_geometry(DType::bfloat16, 1)),
             other = make_pool(small_geometry(DType::bfloat16, 1));
  const Tables tables = tables_of(pool, {4, 5});
  using Counts = std::vector<std::int64_t>;
  EXPECT_THROW(Step({}, Counts{}), ValueError);
  EXPECT_THROW(Step(tables, Counts{1}), ValueError);
  EXPECT_THROW(Step(tables, (Counts{1, -1})), ValueError);
  EXPECT_THROW(Step({tables[0], tables[0]}, (Counts{1, 1})), ValueError);
  EXPECT_THROW(Step({tables[0], table_of(other, 3, 1)}, (Counts{1, 1})), ValueError);
  Step step(tables, Counts{1, 1});
  NewTokens rows(1, 3, 5);
  EXPECT_THROW(step.write(rows.k_of(0), rows.v_of(0)), ValueError);  // three rows for two tokens
  NewTokens fitting(1, 2, 5);
  EXPECT_THROW(step.write(fitting.k_of(0), fitting.v_of(0), 1), IndexError);
  tables[0]->free();
  EXPECT_THROW(Step(tables, Counts{1, 1}), ValueError);
  EXPECT_EQ(tables[1]->num_tokens(), 6);
}

}  // namespace
}  // namespace quire::testing
