#include "quire/paged/append.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>

#include "paged/paged_rows.h"
#include "quire/base/check.h"
#include "quire/paged/step.h"

namespace quire::testing {
namespace {

constexpr DType kAll[] = {DType::float32,       DType::float16,     DType::bfloat16, DType::int8,
                          DType::float8_e4m3fn, DType::float8_e5m2, DType::int4};

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

// In one call, in several, and from rows that lie apart: the same numbers.
TEST(Append, IsTheSameInPieces) {
  for (const DType dtype : kAll) {
    const auto pool = make_pool(small_geometry(dtype));
    NewTokens rows(2, 23, 7);
    BlockTable whole(pool), pieces(pool);
    append(whole, rows.k_view(), rows.v_view());
    for (const auto& [first, count] : {std::pair{0, 1}, std::pair{1, 10}, std::pair{11, 12}}) {
      ArrayView k = rows.k_view(), v = rows.v_view();
      for (ArrayView* view : {&k, &v}) {
        view->data = view->at(0, first);
        view->shape[1] = count;
      }
      append(pieces, k, v);
    }
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      EXPECT_EQ(gathered(whole, layer), gathered(pieces, layer)) << name_of(dtype);
    }
    pool->check();
  }
}

// A pool that seals with kernels on threads has the bits of one that seals with plain loops.
TEST(Append, SealsAsPlainLoopsDo) {
  for (const DType dtype : {DType::int8, DType::float8_e4m3fn, DType::float8_e5m2, DType::int4}) {
    KvGeometry geometry = small_geometry(dtype);
    geometry.open_blocks = 1;
    Execution two_threads = default_execution();
    two_threads.num_threads = 2;
    const auto fast = make_pool(geometry, {}, two_threads);
    const auto plain = std::make_shared<BlockPool>(geometry);
    NewTokens rows(2, 61, 3);
    BlockTable a(fast), b(plain);
    append(a, rows.k_view(), rows.v_view(), two_threads);
    append(b, rows.k_view(), rows.v_view(), two_threads);
    EXPECT_EQ(gathered(a, 1), gathered(b, 1)) << name_of(dtype);
  }
}

// Values that are the beginnings of their keys: append and Step take keys alone.
TEST(Append, TakesKeysAloneWhereValuesAreShared) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::int8}) {
    KvGeometry geometry = small_geometry(dtype);
    geometry.shared = true;
    const auto pool = make_pool(geometry);
    const auto table = std::make_shared<BlockTable>(pool);
    NewTokens rows(2, 23, 7), more(2, 2, 8);
    append(*table, rows.k_view());
    Step step({table}, std::vector<std::int64_t>{2});
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      std::vector<float> q = random_floats(2 * kHeads * kHeadDim, 11), out(2 * kHeads * kValueDim),
                         expected(out.size());
      AttentionQuery query{.q = view_of(q, {2, kHeads, kHeadDim}),
                           .out = view_of(out, {2, kHeads, kValueDim})};
      step.attend(query, more.k_of(layer), std::nullopt, layer);
      query.out = view_of(expected, {2, kHeads, kValueDim});
      step.attend(query, layer);
      EXPECT_EQ(out, expected) << name_of(dtype);
      const std::vector<float> all = gathered(*table, layer);
      const auto* const numbers = reinterpret_cast<const std::byte*>(all.data());
      const std::size_t item = is_quantised(dtype) ? sizeof(float) : size_of(dtype);
      for (std::int64_t row = 0; row < 25 * kKvHeads; ++row) {
        EXPECT_EQ(std::memcmp(numbers + row * kHeadDim * item,
                              numbers + (25 * kKvHeads * kHeadDim + row * kValueDim) * item,
                              kValueDim * item),
                  0);
      }
    }
    EXPECT_EQ(message_of([&] { append(*table, rows.k_view(), rows.v_view()); }),
              "BlockTable.append: v: got an array, expected None: the pool's values are the first "
              "16 numbers of its keys (shared)");
    EXPECT_EQ(table->num_tokens(), 25);
    pool->check();
  }
  BlockTable apart(make_pool(small_geometry(DType::bfloat16)));
  NewTokens rows(2, 3, 2);
  EXPECT_EQ(message_of([&] { append(apart, rows.k_view()); }),
            "BlockTable.append: v: got None, expected an array: the pool's values are not shared "
            "with its keys");
}

TEST(Append, RefusesAndChangesNothing) {
  const auto pool = make_pool(small_geometry(DType::int8, 2, 4));
  const auto table = table_of(pool, 5, 1);
  const std::vector<float> before = gathered(*table, 0);
  NewTokens rows(2, 3, 2), more(2, 12, 2), most(2, 17, 2);
  ArrayView flat = rows.k_of(0);
  EXPECT_EQ(message_of([&] { append(*table, flat, rows.v_view()); }),
            "BlockTable.append: k: got shape [3, 2, 24], expected [2, n, 2, 24]");
  EXPECT_EQ(message_of([&] { append(*table, rows.k_view(), more.v_view()); }),
            "BlockTable.append: v: got shape [2, 12, 2, 16], expected [2, 3, 2, 16], tokens as k");
  EXPECT_THROW(append(*table, more.k_view(), more.v_view()), OutOfBlocks);
  EXPECT_THROW(append(*table, most.k_view(), most.v_view()), OutOfBlocks);
  rows.k[100] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(append(*table, rows.k_view(), rows.v_view()), ValueError);
  EXPECT_EQ(table->num_tokens(), 5);
  EXPECT_EQ(gathered(*table, 0), before);
  pool->check();
}

}  // namespace
}  // namespace quire::testing
