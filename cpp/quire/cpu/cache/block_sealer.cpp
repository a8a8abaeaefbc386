#include "quire/cpu/cache/block_sealer.h"

#include <algorithm>
#include <cstring>

#include "quire/base/check.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

// Numbers sealed that pay for one more thread.
constexpr std::int64_t kNumbersPerThread = 64 * 1024;

using RowsOfBlock = BlockSealer::RowsOfBlock;

// By block, and those of one block in their order.
std::vector<RowsOfBlock> rows_by_block(std::span<const std::int64_t> slots, std::int64_t num_blocks,
                                       std::int64_t block_size) {
  const std::int64_t num_slots = num_blocks * block_size;
  std::vector<RowsOfBlock> found;
  for (std::int64_t row = 0; row < static_cast<std::int64_t>(slots.size()); ++row) {
    if (slots[row] < 0 || slots[row] >= num_slots) continue;
    const std::int64_t block = slots[row] / block_size;
    if (!found.empty() && found.back().block == block && found.back().end == row) {
      ++found.back().end;
    } else {
      found.push_back({block, row, row + 1});
    }
  }
  std::sort(found.begin(), found.end(), [](const RowsOfBlock& a, const RowsOfBlock& b) {
    return a.block != b.block ? a.block < b.block : a.begin < b.begin;
  });
  return found;
}

}  // namespace

BlockSealer::BlockSealer(std::string_view function, const WriteKvArgs& args,
                         std::span<const std::int64_t> slots)
    : args_(args), block_size_(args.k_cache.shape[args.layout == Layout::NHD ? 1 : 2]) {
  const std::vector<RowsOfBlock> found = rows_by_block(slots, args.k_cache.shape[0], block_size_);
  const RowsOfBlock* const last = found.data() + found.size();
  for (const RowsOfBlock *some = found.data(), *end = some; some != last; some = end) {
    while (end != last && end->block == some->block) ++end;
    if (add({some, end}, slots)) continue;
    raise<ValueError>(place(function, "slot_mapping"), "got rows for some slots of block ",
                      some->block, ", the first at row ", some->begin, ", expected rows for all ",
                      block_size_, " or none: a block of int4 is written whole, unless it is open");
  }
}

// False where a slot has no row.
bool BlockSealer::add(std::span<const RowsOfBlock> some, std::span<const std::int64_t> slots) {
  constexpr std::int64_t kNone = -1;
  std::int64_t num_rows = 0;
  for (const RowsOfBlock& rows : some) num_rows += rows.end - rows.begin;
  if (num_rows < block_size_) return false;  // before room is made, as blocks may be huge
  const auto first = static_cast<std::int64_t>(rows_.size());
  rows_.resize(rows_.size() + static_cast<std::size_t>(block_size_), kNone);
  std::int64_t num_named = 0;
  for (const RowsOfBlock& rows : some) {
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      std::int64_t& last = rows_[first + slots[row] % block_size_];
      num_named += last == kNone;
      last = row;
    }
  }
  blocks_.push_back(some[0].block);
  return num_named == block_size_;
}

void BlockSealer::write(const CacheKernels& kernels, int num_threads) const {
  const std::int64_t heads = args_.k.shape[1];
  const ArrayView& v = *get_if(args_.v);  // a cache of int4 has values
  const std::int64_t most_length = std::max(args_.k.shape[2], v.shape[2]);
  const auto num_blocks = static_cast<std::int64_t>(blocks_.size());
  const std::int64_t numbers = num_blocks * block_size_ * heads * (args_.k.shape[2] + v.shape[2]);
  if (num_blocks == 0) return;
  const Crew crew = crew_for(numbers, kNumbersPerThread, num_blocks, num_threads);
  const auto scratch = static_cast<std::size_t>(
      block_size_ * most_length *
      static_cast<std::int64_t>(std::max(size_of(args_.k.dtype), size_of(v.dtype))));
  std::vector<std::byte> rows(static_cast<std::size_t>(crew.workers) * scratch);
  deal(crew, num_blocks, [&](std::int64_t i, int worker) {
    seal(i, kernels, rows.data() + static_cast<std::size_t>(worker) * scratch);
  });
}

// The rows of one block and head: where they are, if they follow each other, else copied together.
RowsToSeal BlockSealer::rows_of(std::int64_t index, const ArrayView& rows, std::int64_t head,
                                std::byte* scratch) const {
  const std::int64_t* const numbers = rows_.data() + index * block_size_;
  const std::int64_t length = rows.shape[2];
  if (numbers[block_size_ - 1] == numbers[0] + block_size_ - 1 &&
      std::is_sorted(numbers, numbers + block_size_)) {
    return {rows.at(numbers[0], head), rows.strides[0], rows.dtype, block_size_, length};
  }
  const std::int64_t bytes = length * static_cast<std::int64_t>(size_of(rows.dtype));
  for (std::int64_t i = 0; i < block_size_; ++i) {
    std::memcpy(scratch + i * bytes, rows.at(numbers[i], head), static_cast<std::size_t>(bytes));
  }
  return {scratch, bytes, rows.dtype, block_size_, length};
}

void BlockSealer::seal(std::int64_t index, const CacheKernels& kernels, std::byte* scratch) const {
  const std::int64_t block = blocks_[index];
  const ArrayView& k_grids = *get_if(args_.k_scale);
  const ArrayView& v_grids = *get_if(args_.v_scale);
  const ArrayView& v_cache = *get_if(args_.v_cache);
  const int token_axis = args_.layout == Layout::NHD ? 1 : 2;
  const auto codes = [&](const ArrayView& cache, std::int64_t head) {
    return cache.at(block) + head * cache.strides[3 - token_axis];
  };
  for (std::int64_t head = 0; head < args_.k.shape[1]; ++head) {
    kernels.seal.keys(rows_of(index, args_.k, head, scratch),
                      {codes(args_.k_cache, head), args_.k_cache.strides[token_axis],
                       k_grids.at(block, head), 0});
    kernels.seal.values(rows_of(index, *get_if(args_.v), head, scratch),
                        {codes(v_cache, head), v_cache.strides[token_axis],
                         v_grids.at(block, 0, head), v_grids.strides[1]});
  }
}

}  // namespace quire
