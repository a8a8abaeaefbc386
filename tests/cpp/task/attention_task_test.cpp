// Tasks go to code of other compilers and to other memory as they are: bytes.
#include "quire/task/attention_task.h"

#include <gtest/gtest.h>

#include <type_traits>

#include "quire/task/attention_state.h"
#include "quire/task/cache_task.h"

namespace quire {
namespace {

template <class T>
constexpr bool kIsPlain = std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T> &&
                          std::is_trivially_destructible_v<T>;

template <class T>
class Task : public ::testing::Test {};

using Tasks = ::testing::Types<RowsView, ScaleView, CacheView, BlockRow, AttentionTask, QueryToken,
                               AttentionUnit, AttentionPart, StateView, BlockMassView, RowsCopy,
                               RowsToSeal, SealedRows>;
TYPED_TEST_SUITE(Task, Tasks);

TYPED_TEST(Task, IsBytes) { EXPECT_TRUE(kIsPlain<TypeParam>); }

TEST(Task, OfAKindThatIsNotBytesIsRecognised) {
  struct Owner {
    ~Owner() {}  // NOLINT(modernize-use-equals-default): a default one would be trivial
    int* memory;
  };
  struct Derived : QueryToken {
    int more;
  };
  EXPECT_FALSE(kIsPlain<Owner>);
  EXPECT_FALSE(kIsPlain<Derived>);
}

}  // namespace
}  // namespace quire
