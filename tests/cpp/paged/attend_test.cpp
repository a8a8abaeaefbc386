#include "quire/paged/attend.h"

#include <gtest/gtest.h>

#include <vector>

#include "paged/paged_rows.h"
#include "quire/base/check.h"
#include "quire/kv/table/held_tables.h"

namespace quire::testing {
namespace {

struct Results {
  explicit Results(std::int64_t tokens)
      : out(static_cast<std::size_t>(tokens * kHeads * kValueDim)),
        lse(static_cast<std::size_t>(tokens * kHeads)) {}
  bool operator==(const Results&) const = default;

  std::vector<float> out, lse;
};

// Over tables it is what it is over the arrays that the tables stand for, in every implementation.
TEST(Attend, IsAttentionOverTheArraysOfThePool) {
  for (const DType dtype : {DType::bfloat16, DType::float8_e4m3fn, DType::int4}) {
    const auto pool = make_pool(small_geometry(dtype));
    const auto a = table_of(pool, 30, 1), b = table_of(pool, 7, 2);
    const std::vector<const BlockTable*> tables = {a.get(), b.get()};
    std::vector<float> q = random_floats(5 * kHeads * kHeadDim, 3);
    const std::vector<std::int32_t> cu = {0, 3, 5};
    for (const auto implementation :
         {Implementation::fused, Implementation::gather, Implementation::dense}) {
      Results got(5), expected(5);
      AttentionQuery query{.q = view_of(q, {5, kHeads, kHeadDim}),
                           .out = view_of(got.out, {5, kHeads, kValueDim}),
                           .lse = got.lse.data(),
                           .cu_seqlens_q = contiguous_index_view(cu.data(), {3}),
                           .sliding_window = 9};
      BlockMassResult mass;
      attend(query, tables, 1, implementation, default_execution(), &mass);
      EXPECT_EQ(mass.max_blocks, 8);

      PagedAttentionArgs args;
      query.out = view_of(expected.out, {5, kHeads, kValueDim});
      query.lse = expected.lse.data();
      static_cast<AttentionQuery&>(args) = query;
      args.k_cache = pool->storage().k_cache(1);
      args.v_cache = pool->storage().v_cache(1);
      if (is_quantised(dtype)) {
        args.k_scale = pool->storage().k_scale(1);
        args.v_scale = pool->storage().v_scale(1);
      }
      if (pool->geometry().opens_blocks()) {
        args.k_open = pool->open_blocks().k_open(1);
        args.v_open = pool->open_blocks().v_open(1);
      }
      std::vector<std::int32_t> ids(16), lengths(2);
      HeldTables("test", tables).pack(-1, ids.data(), lengths.data());
      args.block_tables = contiguous_index_view(ids.data(), {2, 8});
      args.seq_lens = contiguous_index_view(lengths.data(), {2});
      std::vector<float> block_mass(5 * kHeads * 8);
      args.block_mass = block_mass.data();
      paged_attention(args, implementation);
      EXPECT_TRUE(got == expected) << name_of(dtype) << " " << name_of(implementation);
      EXPECT_TRUE(std::equal(block_mass.begin(), block_mass.end(), mass.values.get()));
    }
  }
}

TEST(Attend, RefusesWhatItCannotRead) {
  const auto pool = make_pool(small_geometry(DType::bfloat16));
  const auto table = table_of(pool, 9, 1);
  std::vector<float> q(kHeads * kHeadDim), out(kHeads * kValueDim, 7.0f);
  const AttentionQuery query{.q = view_of(q, {1, kHeads, kHeadDim}),
                             .out = view_of(out, {1, kHeads, kValueDim})};
  EXPECT_THROW(attend(query, std::span<const BlockTable* const>()), ValueError);
  EXPECT_THROW(attend(query, *table, 2), IndexError);
  table->drop_before(8);
  EXPECT_THROW(attend(query, *table), IndexError);  // a query sees the hole
  table->free();
  EXPECT_THROW(attend(query, *table), ValueError);
  EXPECT_EQ(out, std::vector<float>(out.size(), 7.0f));
}

}  // namespace
}  // namespace quire::testing
