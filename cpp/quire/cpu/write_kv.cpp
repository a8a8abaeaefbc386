#include "quire/attention/write_kv.h"

#include <cstring>
#include <vector>

#include "quire/attention/validate.h"
#include "quire/cpu/operations.h"
#include "quire/cpu/select_kernels.h"

namespace quire {
namespace {

// The rows of k, or of v, into their slots.
void write_rows(const ArrayView& rows, const ArrayView& cache, const WriteKvArgs& args,
                const Kernels& kernels) {
  const int token_axis = args.layout == Layout::NHD ? 1 : 2;
  const std::int64_t block_size = cache.shape[token_axis];
  const std::int64_t head_stride = cache.strides[3 - token_axis];
  const std::int64_t item = static_cast<std::int64_t>(size_of(cache.dtype));
  const std::int64_t row_item = static_cast<std::int64_t>(size_of(rows.dtype));
  std::int64_t heads = rows.shape[1];
  std::int64_t count = rows.shape[2];
  // heads that follow one another in both arrays are one long row
  if (head_stride == count * item && rows.strides[1] == count * row_item) {
    count *= heads;
    heads = 1;
  }
  for (std::int64_t i = 0; i < rows.shape[0]; ++i) {
    const std::int64_t slot = args.slot_mapping.at(i);
    if (slot < 0) continue;
    std::byte* to = cache.data + slot / block_size * cache.strides[0] +
                    slot % block_size * cache.strides[token_axis];
    const std::byte* from = rows.data + i * rows.strides[0];
    for (std::int64_t head = 0; head < heads; ++head) {
      if (rows.dtype == cache.dtype) {
        std::memcpy(to, from, static_cast<std::size_t>(count * item));
      } else {
        kernels.convert(from, rows.dtype, to, cache.dtype, count);
      }
      to += head_stride;
      from += rows.strides[1];
    }
  }
}

}  // namespace

void write_kv(const WriteKvArgs& args) { write_kv(args, selected_kernels()); }

void write_kv(const WriteKvArgs& args, const Kernels& kernels) {
  validate(args);
  // slots are copied, as another thread might change the caller's after they have been checked
  std::vector<std::int64_t> slots(static_cast<std::size_t>(args.slot_mapping.shape[0]));
  for (std::size_t i = 0; i < slots.size(); ++i) {
    slots[i] = args.slot_mapping.at(static_cast<std::int64_t>(i));
  }
  WriteKvArgs copied = args;
  copied.slot_mapping = contiguous_index_view(slots.data(), {args.slot_mapping.shape[0]});
  validate(copied);
  write_rows(args.k, args.k_cache, copied, kernels);
  write_rows(args.v, args.v_cache, copied, kernels);
}

}  // namespace quire
