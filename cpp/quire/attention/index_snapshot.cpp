#include "quire/attention/index_snapshot.h"

#include <algorithm>

namespace quire {
namespace {

IndexView copy(const IndexView& view, std::vector<std::int64_t>& to) {
  to.resize(static_cast<std::size_t>(view.shape[0]));
  for (std::int64_t i = 0; i < view.shape[0]; ++i) to[i] = view.at(i);
  return contiguous_index_view(to.data(), {view.shape[0]});
}

}  // namespace

PagedAttentionArgs IndexSnapshot::take(const PagedAttentionArgs& args) {
  PagedAttentionArgs copied = args;
  copied.seq_lens = copy(args.seq_lens, seq_lens);
  if (args.cu_seqlens_q) copied.cu_seqlens_q = copy(*args.cu_seqlens_q, cu_seqlens_q);

  const IndexView& tables = args.block_tables;
  const std::int64_t block_size = sizes_of(args).block_size;
  const auto used_columns = [&](std::int64_t seq) {
    const std::int64_t used = seq_lens[seq] / block_size + (seq_lens[seq] % block_size > 0);
    return std::clamp<std::int64_t>(used, 0, tables.shape[1]);
  };
  std::int64_t columns = 0;
  for (std::int64_t seq = 0; seq < tables.shape[0]; ++seq) {
    columns = std::max(columns, used_columns(seq));
  }
  block_tables.resize(static_cast<std::size_t>(tables.shape[0] * columns));
  for (std::int64_t seq = 0; seq < tables.shape[0]; ++seq) {
    const std::int64_t used = used_columns(seq);
    for (std::int64_t column = 0; column < used; ++column) {
      block_tables[seq * columns + column] = tables.at(seq, column);
    }
  }
  // the shape stays the caller's: columns that no sequence uses are never looked at
  copied.block_tables = contiguous_index_view(block_tables.data(), {tables.shape[0], columns});
  copied.block_tables.shape[1] = tables.shape[1];
  if (args.key_positions) copied.key_positions = take_positions(*args.key_positions);
  return copied;
}

// The positions of keys that sequences have, by the copied seq_lens.
IndexView IndexSnapshot::take_positions(const IndexView& positions) {
  const auto tokens_of = [&](std::int64_t seq) {
    return std::clamp<std::int64_t>(seq_lens[seq], 0, positions.shape[1]);
  };
  std::int64_t columns = 0;
  for (std::int64_t seq = 0; seq < positions.shape[0]; ++seq) {
    columns = std::max(columns, tokens_of(seq));
  }
  key_positions.resize(static_cast<std::size_t>(positions.shape[0] * columns));
  for (std::int64_t seq = 0; seq < positions.shape[0]; ++seq) {
    for (std::int64_t key = 0; key < tokens_of(seq); ++key) {
      key_positions[seq * columns + key] = positions.at(seq, key);
    }
  }
  IndexView copied = contiguous_index_view(key_positions.data(), {positions.shape[0], columns});
  copied.shape[1] = positions.shape[1];
  return copied;
}

}  // namespace quire
