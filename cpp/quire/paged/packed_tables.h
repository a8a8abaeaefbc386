// What attention is told of tables: their block ids, lengths and positions as arrays of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "quire/kv/table/held_tables.h"
#include "quire/ops/attention/paged_attention.h"

namespace quire {

class PackedTables {
 public:
  PackedTables() = default;  // of no tables
  explicit PackedTables(const HeldTables& held)
      : num_seqs_(held.size()), max_blocks_(held.max_blocks()), max_tokens_(held.max_tokens()) {
    block_tables_.resize(static_cast<std::size_t>(num_seqs_ * max_blocks_));
    seq_lens_.resize(static_cast<std::size_t>(num_seqs_));
    held.pack(std::int64_t{-1}, block_tables_.data(), seq_lens_.data());
    if (!held.has_positions()) return;
    positions_.resize(static_cast<std::size_t>(num_seqs_ * max_tokens_));
    held.pack_positions(positions_.data());
  }

  bool operator==(const PackedTables&) const = default;

  const std::vector<std::int64_t>& block_tables() const { return block_tables_; }

  // The arguments that the tables are, as views of what this has.
  void describe(PagedAttentionArgs& args) const {
    args.block_tables = contiguous_index_view(block_tables_.data(), {num_seqs_, max_blocks_});
    args.seq_lens = contiguous_index_view(seq_lens_.data(), {num_seqs_});
    if (positions_.empty()) return;
    args.key_positions = contiguous_index_view(positions_.data(), {num_seqs_, max_tokens_});
  }

 private:
  std::int64_t num_seqs_ = 0, max_blocks_ = 0, max_tokens_ = 0;
  std::vector<std::int64_t> block_tables_;  // [num_seqs, max_blocks]
  std::vector<std::int64_t> seq_lens_;      // [num_seqs]
  std::vector<std::int64_t> positions_;     // [num_seqs, max_tokens] where some table has such
};

}  // namespace quire
