// New keys and values into whole blocks of int4 caches.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "quire/cpu/cache/cache_kernels.h"
#include "quire/ops/cache/write_kv.h"

namespace quire {

// What WriteKvArgs says of the blocks of int4 caches that are not open.
class BlockSealer {
 public:
  // Throws ValueError, naming the block, for one of which some slots are named and others are not.
  BlockSealer(std::string_view function, const WriteKvArgs& args,
              std::span<const std::int64_t> slots);

  // Rows that go to no open block are in the blocks. The same bits whatever num_threads is.
  void write(const CacheKernels& kernels, int num_threads) const;

  // Rows [begin, end) that follow each other and go to one block.
  struct RowsOfBlock {
    std::int64_t block, begin, end;
  };

 private:
  bool add(std::span<const RowsOfBlock> some, std::span<const std::int64_t> slots);
  RowsToSeal rows_of(std::int64_t index, const ArrayView& rows, std::int64_t head,
                     std::byte* scratch) const;
  void seal(std::int64_t index, const CacheKernels& kernels, std::byte* scratch) const;

  const WriteKvArgs& args_;
  std::int64_t block_size_;
  std::vector<std::int64_t> blocks_;
  std::vector<std::int64_t> rows_;  // [blocks, block_size], of k and v
};

}  // namespace quire
