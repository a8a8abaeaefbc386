#include "quire/paged/append.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "paged/paged_rows.h"
#include "quire/base/check.h"

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
