#include "quire/ops/attention/index_snapshot.h"

#include <algorithm>

namespace quire {
namespace {

IndexView copy(const IndexView& view, std::vector<std::int64_t>& to) {
  to.resize(static_cast<std::size_t>(view.shape[0]));
  for (std::int64_t i = 0; i < view.shape[0]; ++i) to[i] = view.at(i);
  return contiguous_index_view(to.data(), {view.shape[0]});
}

// The first used(seq) entries of each row. The shape stays the caller's: entries that no sequence
// uses are never looked at.
template <class Used>
IndexView copy_used(const IndexView& view, std::vector<std::int64_t>& to, Used used) {
  const auto used_here = [&](std::int64_t seq) {
    return std::clamp<std::int64_t>(used(seq), 0, view.shape[1]);
  };
  std::int64_t columns = 0;
  for (std::int64_t seq = 0; seq < view.shape[0]; ++seq) {
    columns = std::max(columns, used_here(seq));
  }
  to.resize(static_cast<std::size_t>(view.shape[0] * columns));
  for (std::int64_t seq = 0; seq < view.shape[0]; ++seq) {
    const std::int64_t count = used_here(seq);
    for (std::int64_t column = 0; column < count; ++column) {
      to[seq * columns + column] = view.at(seq, column);
    }
  }
  IndexView copied = contiguous_index_view(to.data(), {view.shape[0], columns});
  copied.shape[1] = view.shape[1];
  return copied;
}

}  // namespace

PagedAttentionArgs IndexSnapshot::take(const PagedAttentionArgs& args) {
  PagedAttentionArgs copied = args;
  copied.seq_lens = copy(args.seq_lens, seq_lens);
  if (args.cu_seqlens_q) copied.cu_seqlens_q = copy(*args.cu_seqlens_q, cu_seqlens_q);
  const std::int64_t block_size = sizes_of(args).block_size;
  copied.block_tables = copy_used(args.block_tables, block_tables, [&](std::int64_t seq) {
    return seq_lens[seq] / block_size + (seq_lens[seq] % block_size > 0);
  });
  if (args.key_positions) {
    copied.key_positions = copy_used(*args.key_positions, key_positions,
                                     [&](std::int64_t seq) { return seq_lens[seq]; });
  }
  return copied;
}

}  // namespace quire
