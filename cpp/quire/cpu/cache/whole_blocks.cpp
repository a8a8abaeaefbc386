#include "quire/cpu/cache/whole_blocks.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/format/cache_format.h"

namespace quire {
namespace {

// Numbers sealed that pay for one more thread.
constexpr std::int64_t kNumbersPerThread = 64 * 1024;

// Between rows of copies, so that those of one head do not all lie in the same few sets of a cache.
constexpr std::int64_t kGap = 64;

// Keys or values.
class Writer {
 public:
  Writer(const WholeRows& rows, DType open_dtype, bool is_key, const CacheKernels& kernels)
      : rows_(rows.rows),
        cache_(rows.cache),
        scale_(rows.scale),
        open_dtype_(open_dtype),
        is_key_(is_key),
        kernels_(kernels) {}

  // Of the copies of a block's rows.
  std::int64_t scratch_bytes() const {
    return rows_.dtype == open_dtype_ ? 0 : block_size() * copy_stride();
  }

  void write(std::int64_t first, std::int64_t block, std::byte* scratch) const {
    const ArrayView rows = rounded(first, scratch);
    const bool has_grids = format_of(cache_.dtype).scales == ScaleKind::grids;
    const int head_axis = is_key_ && has_grids ? 1 : 2;  // of what the numbers are multiplied by
    for (std::int64_t head = 0; head < rows.shape[1]; ++head) {
      const RowsToSeal from = {rows.at(0, head), rows.strides[0], rows.dtype, block_size(),
                               rows.shape[2]};
      const SealedRows to = {cache_.at(block, 0, head), cache_.strides[1],
                             scale_.at(block) + head * scale_.strides[head_axis],
                             scale_.strides[1]};
      if (is_key_) {
        kernels_.seal.seal_keys(from, cache_.dtype, to);
      } else {
        kernels_.seal.seal_values(from, cache_.dtype, to);
      }
    }
  }

 private:
  std::int64_t block_size() const { return cache_.shape[1]; }
  std::int64_t copy_stride() const {
    return rows_.shape[1] * rows_.shape[2] * static_cast<std::int64_t>(size_of(open_dtype_)) + kGap;
  }

  // A block's rows from `first` on, in the dtype that they would be open in. All heads of a token
  // at once where they lie together, as memory is read fastest in its order.
  ArrayView rounded(std::int64_t first, std::byte* scratch) const {
    ArrayView rows = rows_;
    rows.data = rows_.at(first);
    rows.shape[0] = block_size();
    if (rows_.dtype == open_dtype_) return rows;
    ArrayView copy = rows;
    copy.data = scratch;
    copy.dtype = open_dtype_;
    copy.strides[2] = static_cast<std::int64_t>(size_of(open_dtype_));
    copy.strides[1] = rows.shape[2] * copy.strides[2];
    copy.strides[0] = copy_stride();
    const bool is_one = rows.strides[1] == rows.shape[2] * rows.strides[2];
    for (std::int64_t head = 0; head < (is_one ? 1 : rows.shape[1]); ++head) {
      kernels_.convert({rows.at(0, head), rows.strides[0], copy.at(0, head), copy.strides[0],
                        block_size(), (is_one ? rows.shape[1] : 1) * rows.shape[2]},
                       rows.dtype, copy.dtype);
    }
    return copy;
  }

  ArrayView rows_, cache_, scale_;
  DType open_dtype_;
  bool is_key_;
  const CacheKernels& kernels_;
};

}  // namespace

void write_whole_blocks(const WholeBlocks& args, DType open_dtype, const CacheKernels& kernels,
                        int num_threads) {
  const Writer k(args.k, open_dtype, true, kernels);
  std::optional<Writer> v;
  std::int64_t row_size = args.k.rows.shape[2], scratch_bytes = k.scratch_bytes();
  if (args.v) {
    v.emplace(*args.v, open_dtype, false, kernels);
    row_size += args.v->rows.shape[2];
    scratch_bytes = std::max(scratch_bytes, v->scratch_bytes());
  }
  const std::int64_t block_size = args.k.cache.shape[1];
  const std::int64_t num_blocks = std::ssize(args.blocks);
  const std::int64_t numbers = num_blocks * block_size * args.k.rows.shape[1] * row_size;
  const Crew crew = crew_for(numbers, kNumbersPerThread, num_blocks, num_threads);
  const auto scratch = static_cast<std::size_t>(scratch_bytes);
  std::vector<std::byte> copies(static_cast<std::size_t>(crew.workers) * scratch);
  deal(crew, num_blocks, [&](std::int64_t i, int worker) {
    std::byte* const own = copies.data() + static_cast<std::size_t>(worker) * scratch;
    k.write(i * block_size, args.blocks[i], own);
    if (v) v->write(i * block_size, args.blocks[i], own);
  });
}

}  // namespace quire
