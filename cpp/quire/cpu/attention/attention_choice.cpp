#include "quire/cpu/attention/attention_choice.h"

#include "quire/cpu/kernel_candidates.h"

namespace quire {

AttentionChoice choose_attention(const KernelCandidates& candidates, DType cache) {
  const auto first = [&](auto table) {
    return candidates.first(
        [table](const KernelSet& set) -> const auto& { return set.attention.*table; }, cache);
  };
  AttentionChoice choice{};
  // By name alone: a few rows of a long context take longer than they do one by one in vectors.
  const KernelSet* const wanted = candidates.wanted;
  if (wanted != nullptr && wanted->attention.tiles.instruction_set != nullptr &&
      cache == DType::bfloat16) {
    choice.tiles = &wanted->attention.tiles;
  }
  choice.codes = first(&AttentionKernels::codes);
  choice.direct = first(&AttentionKernels::direct);
  choice.packed = first(&AttentionKernels::packed);
  choice.gather = first(&AttentionKernels::gather);
  choice.block_mass = first(&AttentionKernels::block_mass);
  // Numbers of 8 bits are bfloat16s too, of which a product has two: worth it where it takes no
  // longer than one of floats.
  const FusedKernels* const pairs =
      candidates.has_fast_pairs ? first(&AttentionKernels::packed_pairs) : nullptr;
  if (pairs != nullptr) choice.packed = pairs;
  return choice;
}

}  // namespace quire
