// The C++ library alone: a pool, one sequence, attention over it.
#include <cstdio>
#include <vector>

#include "quire/quire.h"

int main() {
  constexpr std::int64_t kTokens = 40, kHeads = 4, kKvHeads = 2, kDim = 64;
  const auto pool =
      std::make_shared<quire::BlockPool>(quire::KvGeometry{.num_blocks = 16,
                                                           .block_size = 16,
                                                           .num_kv_heads = kKvHeads,
                                                           .head_dim = kDim,
                                                           .v_head_dim = kDim,
                                                           .num_layers = 1,
                                                           .dtype = quire::DType::bfloat16});
  const quire::ArrayView k_cache = pool->storage().k_cache(0);
  const quire::ArrayView v_cache = pool->storage().v_cache(0);

  // every key alike, values that count the tokens: attention is then their mean
  std::vector<float> k(kTokens * kKvHeads * kDim, 0.5f);
  std::vector<float> v(k.size());
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i / (kKvHeads * kDim));
  quire::BlockTable table(pool);
  std::vector<std::int64_t> slots(kTokens);
  table.append(slots, [&](std::span<const std::int64_t> taken) {
    const auto f32 = quire::DType::float32;
    quire::write_kv({quire::contiguous_view(k.data(), f32, {kTokens, kKvHeads, kDim}),
                     quire::contiguous_view(v.data(), f32, {kTokens, kKvHeads, kDim}), k_cache,
                     v_cache, quire::contiguous_index_view(taken.data(), {kTokens}),
                     quire::Layout::NHD});
  });

  std::vector<float> q(kHeads * kDim, 1.0f);
  std::vector<float> out(q.size());
  const std::vector<std::int32_t> blocks = table.blocks();
  const std::int64_t seq_len = table.num_tokens();
  quire::PagedAttentionArgs args;
  args.q = quire::contiguous_view(q.data(), quire::DType::float32, {1, kHeads, kDim});
  args.out = quire::contiguous_view(out.data(), quire::DType::float32, {1, kHeads, kDim});
  args.k_cache = k_cache;
  args.v_cache = v_cache;
  args.block_tables =
      quire::contiguous_index_view(blocks.data(), {1, static_cast<std::int64_t>(blocks.size())});
  args.seq_lens = quire::contiguous_index_view(&seq_len, {1});
  quire::paged_attention(args);

  std::printf("%lld tokens in %zu blocks, attention %.3f\n", static_cast<long long>(seq_len),
              blocks.size(), static_cast<double>(out[0]));
}
