// The C++ library alone: a pool, one sequence, attention over it.
#include <cstdio>
#include <vector>

#include "quire/quire.h"

int main() {
  constexpr std::int64_t kTokens = 40, kHeads = 4, kKvHeads = 2, kDim = 64;
  const auto pool = quire::make_pool(
      {.num_blocks = 16, .num_kv_heads = kKvHeads, .head_dim = kDim, .v_head_dim = kDim});
  quire::BlockTable table(pool);

  // every key alike, values that count the tokens: attention is then their mean
  std::vector<float> k(kTokens * kKvHeads * kDim, 0.5f), v(k.size());
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i / (kKvHeads * kDim));
  quire::append(table, quire::view_of(k, {kTokens, kKvHeads, kDim}),
                quire::view_of(v, {kTokens, kKvHeads, kDim}));

  std::vector<float> q(kHeads * kDim, 1.0f), out(q.size());
  quire::attend(
      {.q = quire::view_of(q, {1, kHeads, kDim}), .out = quire::view_of(out, {1, kHeads, kDim})},
      table);
  std::printf("%lld tokens in %zu blocks, attention %.3f\n",
              static_cast<long long>(table.num_tokens()), table.blocks().size(),
              static_cast<double>(out[0]));
}
