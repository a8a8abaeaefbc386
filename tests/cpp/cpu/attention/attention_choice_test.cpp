#include "quire/cpu/attention/attention_choice.h"

#include <gtest/gtest.h>

#include <string>

#include "quire/cpu/kernel_candidates.h"
#include "quire/cpu/kernel_list.h"
#include "quire/format/cache_format.h"

namespace quire {
namespace {

// Sets that nobody runs: what is chosen is told by the names of its tables.
KernelSet set_of(const char* name, bool multiplies_pairs) {
  KernelSet set{};
  set.name = name;
  set.multiplies_pairs = multiplies_pairs;
  AttentionKernels& attention = set.attention;
  for (FusedKernels* path : {&attention.codes, &attention.direct, &attention.packed}) {
    path->instruction_set = name;
  }
  if (multiplies_pairs) attention.packed_pairs.instruction_set = name;
  attention.gather.instruction_set = attention.block_mass.instruction_set = name;
  return set;
}

// "codes direct packed gather block_mass", and "+" where packed multiplies pairs of 8 bits.
std::string names(const KernelCandidates& candidates, DType cache) {
  const AttentionChoice choice = choose_attention(candidates, cache);
  const auto name = [](const auto* table) {
    return std::string(table == nullptr ? "-" : table->instruction_set);
  };
  std::string packed = name(choice.packed);
  for (const KernelSet* const set : candidates.sets) {
    if (choice.packed == &set->attention.packed_pairs) packed += "+";
  }
  return name(choice.codes) + " " + name(choice.direct) + " " + packed + " " + name(choice.gather) +
         " " + name(choice.block_mass);
}

TEST(AttentionChoice, APathOfItsOwnSet) {
  KernelSet tiles{};  // of one path alone, as a matrix unit is
  tiles.name = tiles.attention.packed.instruction_set = "tiles";
  KernelSet plain = set_of("plain", false);
  plain.attention.codes = {};
  const KernelSet* const sets[] = {&tiles, &plain};
  EXPECT_EQ(names({sets}, DType::bfloat16), "- plain tiles plain plain");
  EXPECT_EQ(names({std::span(sets).subspan(1), &plain}, DType::bfloat16),
            "- plain plain plain plain");
  EXPECT_EQ(names({sets, &tiles}, DType::bfloat16), "- plain tiles plain plain");
}

TEST(AttentionChoice, PairsWhereTheyAreFastOrCachesAreQuantised) {
  const KernelSet pairs = set_of("pairs", true), plain = set_of("plain", false);
  const KernelSet* const sets[] = {&pairs, &plain};
  const std::string of_pairs = "pairs pairs pairs pairs pairs";
  const std::string of_plain = "plain plain plain plain plain";
  const std::string fast = "pairs pairs pairs+ pairs pairs";
  for (const DType cache : {DType::float32, DType::float16, DType::bfloat16}) {
    EXPECT_EQ(names({sets}, cache), of_plain);
    EXPECT_EQ(names({sets, nullptr, true}, cache), fast);
    EXPECT_EQ(names({sets, &pairs}, cache), of_pairs) << "asked for by name";
  }
  for (const DType cache : {DType::int8, DType::float8_e4m3fn, DType::float8_e5m2, DType::int4}) {
    EXPECT_EQ(names({sets}, cache), of_pairs);
    EXPECT_EQ(names({sets, nullptr, true}, cache), fast);
  }
}

TEST(AttentionChoice, TilesComeFirstWhereTheyAreNamedAndCachesAreBFloat16) {
  KernelSet tiles{};
  tiles.name = tiles.attention.tiles.instruction_set = "tiles";
  tiles.attention.tiles.takes = [](const AttentionTask& task, std::int64_t) {
    return task.q.dtype == DType::bfloat16;
  };
  KernelSet plain = set_of("plain", false);
  plain.attention.codes = {};
  plain.attention.direct.takes = [](const AttentionTask&, std::int64_t) { return true; };
  const KernelSet* const sets[] = {&tiles, &plain};
  AttentionTask task{};
  task.q.dtype = DType::bfloat16;
  for (const DType cache : {DType::float32, DType::bfloat16, DType::int8}) {
    const AttentionChoice unasked = choose_attention({sets}, cache);
    EXPECT_EQ(unasked.tiles, nullptr);
    EXPECT_FALSE(unasked.is_chunk_invariant());
    const AttentionChoice asked = choose_attention({sets, &tiles}, cache);
    EXPECT_EQ(asked.is_chunk_invariant(), cache == DType::bfloat16);
    EXPECT_EQ(asked.instruction_set(), cache == DType::bfloat16 ? "tiles" : "plain");
    EXPECT_EQ(asked.direct->instruction_set, std::string("plain"));
    if (cache != DType::bfloat16) continue;
    EXPECT_EQ(&asked.fused(task, 1000), asked.tiles);
    AttentionTask other = task;
    other.q.dtype = DType::float32;
    other.head_dim = 128;
    EXPECT_EQ(&asked.fused(other, 1), asked.direct);
  }
}

// The rows of the paths, as they were measured: one row a sequence is direct, many are packed; of
// int4 codes are multiplied where there are whole numbers.
TEST(AttentionChoice, RowsDecideTheWay) {
  for (const KernelSource& source : kernel_list()) {
    const KernelSet* const sets[] = {source.kernels};
    const AttentionKernels& offered = source.kernels->attention;
    if (offered.direct.instruction_set == nullptr) continue;  // of tiles alone
    for (const DType cache : {DType::bfloat16, DType::int4}) {
      const AttentionChoice choice = choose_attention({sets, source.kernels}, cache);
      AttentionTask task{};
      task.k.dtype = cache;
      task.k.scale.kind = format_of(cache).scales;
      task.head_dim = 128;
      const FusedKernels& few =
          cache == DType::int4 && choice.codes != nullptr ? offered.codes : offered.direct;
      for (const std::int64_t rows : {1, 4, 8}) EXPECT_EQ(&choice.fused(task, rows), &few) << rows;
      for (const std::int64_t rows : {17, 64}) {
        EXPECT_EQ(&choice.fused(task, rows), &offered.packed) << rows;
      }
      const FusedKernels& some = &few == &offered.codes ? offered.codes : offered.packed;
      for (const std::int64_t rows : {9, 16}) EXPECT_EQ(&choice.fused(task, rows), &some) << rows;
      task.head_dim = 64;  // of which packing costs half
      if (&few == &offered.codes) continue;
      EXPECT_EQ(&choice.fused(task, 5), &offered.packed);
    }
  }
}

}  // namespace
}  // namespace quire
