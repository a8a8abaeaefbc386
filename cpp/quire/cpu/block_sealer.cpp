#include "quire/cpu/block_sealer.h"

#include <algorithm>
#include <atomic>

#include "quire/attention/cache_scales.h"
#include "quire/base/check.h"
#include "quire/base/thread_pool.h"

namespace quire {
namespace {

// Numbers sealed that pay for waking one more thread.
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

void BlockSealer::write(const Kernels& kernels, int num_threads) const {
  const std::int64_t heads = args_.k.shape[1], head_dim = args_.k.shape[2];
  const std::int64_t v_head_dim = args_.v.shape[2];
  const auto num_blocks = static_cast<std::int64_t>(blocks_.size());
  const std::int64_t numbers = num_blocks * block_size_ * heads * (head_dim + v_head_dim);
  const std::int64_t useful = std::min(1 + numbers / kNumbersPerThread, num_blocks);
  if (useful == 0) return;
  const std::int64_t scratch = std::max(block_size_ * head_dim, v_head_dim);
  const int num_workers = static_cast<int>(std::min<std::int64_t>(useful, num_threads));
  std::vector<float> floats(static_cast<std::size_t>(num_workers * scratch));
  std::atomic<std::int64_t> next{0};
  run_on_threads(num_workers, [&](int worker) {
    const auto own = std::span(floats).subspan(static_cast<std::size_t>(worker * scratch),
                                               static_cast<std::size_t>(scratch));
    for (std::int64_t i = next++; i < num_blocks; i = next++) seal(i, kernels, own);
  });
}

void BlockSealer::seal(std::int64_t index, const Kernels& kernels, std::span<float> scratch) const {
  const std::int64_t block = blocks_[index];
  const auto load = [&](const ArrayView& from, std::int64_t row, std::int64_t head, float* to) {
    kernels.convert({from.at(row, head), 0, reinterpret_cast<std::byte*>(to), 0, 1, from.shape[2]},
                    from.dtype, DType::float32);
  };
  const int token_axis = args_.layout == Layout::NHD ? 1 : 2;
  const auto codes = [&](const ArrayView& cache, std::int64_t offset, std::int64_t head) {
    return cache.at(block) + offset * cache.strides[token_axis] +
           head * cache.strides[3 - token_axis];
  };
  const std::int64_t head_dim = args_.k.shape[2];
  const std::int64_t* const rows = rows_.data() + index * block_size_;
  for (std::int64_t head = 0; head < args_.k.shape[1]; ++head) {
    for (std::int64_t i = 0; i < block_size_; ++i) {
      load(args_.k, rows[i], head, scratch.data() + i * head_dim);
    }
    seal_keys(scratch.data(), block_size_, head_dim, codes(args_.k_cache, 0, head),
              args_.k_cache.strides[token_axis], key_grids_at(*get_if(args_.k_scale), block, head));
    for (std::int64_t i = 0; i < block_size_; ++i) {
      load(args_.v, rows[i], head, scratch.data());
      seal_value(scratch.data(), args_.v.shape[2], codes(args_.v_cache, i, head),
                 value_grid_at(*get_if(args_.v_scale), block, i, head));
    }
  }
}

}  // namespace quire
