// The keys and values that BlockTable.append is given.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "numpy_view.h"
#include "quire/attention/write_kv.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/select_kernels.h"
#include "quire/kv/block_pool.h"

namespace quire::python {

// [n, Hkv, D] for a pool of one layer, [num_layers, n, Hkv, D] for one of several: layer by layer.
class AppendedRows {
 public:
  static constexpr const char* kFunction = "BlockTable.append";

  // Throws TypeError, ValueError, and OutOfBlocks for more than the whole pool has room for.
  AppendedRows(const BlockPool& pool, pybind11::handle k, pybind11::handle v);

  std::int64_t count() const { return k_.view.shape[stacked_ ? 1 : 0]; }

  // Everything that write can refuse, before the table is touched; slots are -1, one a row.
  void check(const std::vector<std::int64_t>& slots) const;

  // Rows from `first` on into slots that the table gave for them.
  void write(std::span<const std::int64_t> slots, std::int64_t first) const;
  // Rows from `first` on into whole blocks that are sealed with it.
  void write_sealed(std::span<const std::int32_t> blocks, std::int64_t first) const;

 private:
  void check_shape(const char* name, const ArrayView& view, std::int64_t head_dim) const;
  void write_kept(std::span<const std::int64_t> slots, std::int64_t layer,
                  Residency& residency) const;
  WriteKvArgs layer_args(std::span<const std::int64_t> slots, std::int64_t first,
                         std::int64_t layer) const;
  ArrayView layer_of(const ArrayView& stack, std::int64_t layer) const;

  const BlockPool& pool_;
  const KvStorage& storage_;
  const FloatArray k_, v_;
  const bool stacked_;
  // under the GIL, as both read the environment
  const int num_threads_ = default_num_threads();
  const Kernels& kernels_ = selected_kernels();
};

}  // namespace quire::python
