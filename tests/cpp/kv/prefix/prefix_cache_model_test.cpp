// Random lives of a pool, its tables and a prefix cache, next to a plain model.
#include <gtest/gtest.h>

#include <ostream>
#include <random>
#include <string>

#include "kv/prefix/prefix_cache_machine.h"
#include "kv/table/model_steps.h"

namespace quire::testing {
namespace {

struct Life {
  CacheShape shape;
  std::uint32_t seed;
};

// "20_blocks_of_4_at_most_9_int4_2", for tests by their shape.
std::string name_of_life(const Life& life) {
  const CacheShape& shape = life.shape;
  return concat(shape.num_blocks, "_blocks_of_", shape.block_size, "_at_most_", shape.max_blocks,
                "_", shape.open ? name_of_kind(*shape.open) : "float32");
}
void PrintTo(const Life& life, std::ostream* out) { *out << name_of_life(life); }
constexpr auto kNameOfLife = [](const auto& info) { return name_of_life(info.param); };

class PrefixCacheModel : public ::testing::TestWithParam<Life> {};

TEST_P(PrefixCacheModel, AgreesWithAPlainMap) {
  PrefixCacheMachine machine(GetParam().shape, std::mt19937(GetParam().seed));
  const int steps = model_steps(20'000);
  for (int step = 0; step < steps; ++step) {
    ASSERT_NO_FATAL_FAILURE(machine.step()) << "at step " << step;
    ASSERT_NO_FATAL_FAILURE(machine.verify_counts()) << "at step " << step;
    if (step % 16 != 0) continue;
    ASSERT_NO_FATAL_FAILURE(machine.verify_all()) << "at step " << step;
  }
  EXPECT_GT(machine.hits(), 0);
  EXPECT_GT(machine.refusals(), 0);
  EXPECT_GT(machine.evictions(), 0);
  EXPECT_GT(machine.pins(), 0);
  EXPECT_EQ(machine.windowed() > 0, !GetParam().shape.open);
  if (GetParam().shape.max_blocks > 100) {
    EXPECT_GT(machine.left_places(), 0);
  }
  machine.finish();
}

INSTANTIATE_TEST_SUITE_P(Shapes, PrefixCacheModel,
                         ::testing::Values(Life{{20, 4, 1000}, 10}, Life{{14, 3, 1000}, 2},
                                           Life{{24, 2, 9}, 3}, Life{{16, 1, 1000}, 4},
                                           Life{{30, 4, 1000}, 5}, Life{{12, 3, 5}, 6}),
                         kNameOfLife);

INSTANTIATE_TEST_SUITE_P(OpenBlocks, PrefixCacheModel,
                         ::testing::Values(Life{{20, 4, 1000, OpenKind{DType::int4, 2}}, 1},
                                           Life{{14, 3, 1000, OpenKind{DType::int8, 2}}, 2},
                                           Life{{24, 2, 9, OpenKind{DType::float8_e4m3fn, 1}}, 3},
                                           Life{{12, 3, 5, OpenKind{DType::int4, 1}}, 6}),
                         kNameOfLife);

}  // namespace
}  // namespace quire::testing
