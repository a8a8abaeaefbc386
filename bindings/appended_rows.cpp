#include "appended_rows.h"

#include <algorithm>
#include <string>

#include "quire/attention/validate.h"
#include "quire/base/check.h"
#include "quire/cpu/operations.h"
#include "quire/cpu/row_magnitudes.h"
#include "quire/cpu/whole_blocks.h"

namespace quire::python {
namespace py = pybind11;

AppendedRows::AppendedRows(const BlockPool& pool, py::handle k, py::handle v)
    : pool_(pool),
      storage_(pool.storage()),
      k_(to_float_array({kFunction, "k"}, k)),
      v_(to_float_array({kFunction, "v"}, v)),
      stacked_(pool.geometry().num_layers > 1) {
  const KvGeometry& geometry = storage_.geometry();
  check_shape("k", k_.view, geometry.head_dim);
  check_shape("v", v_.view, geometry.v_head_dim);
  const std::int64_t room = geometry.num_blocks * geometry.block_size;
  if (count() > room) {  // before memory for as many slots is asked for
    raise<OutOfBlocks>(place(kFunction, "k"), "got ", counted(count(), "token"),
                       ", expected at most ", room, ", the room of the whole pool");
  }
}

void AppendedRows::check(const std::vector<std::int64_t>& slots) const {
  const DType dtype = storage_.geometry().dtype;
  for (std::int64_t layer = 0; layer < storage_.geometry().num_layers; ++layer) {
    const WriteKvArgs args = layer_args(slots, 0, layer);
    validate(args, kFunction);
    if (!is_quantised(dtype)) continue;
    const std::string where = stacked_ ? concat("layer ", layer, ", ") : "";
    // of int4 the limit is lower than that of its open blocks, where they are written
    const DType held = dtype == DType::int4 ? dtype : args.k_cache.dtype;
    require_finite_rows(kFunction, "k", where, args.k, held, kernels_, num_threads_);
    require_finite_rows(kFunction, "v", where, args.v, held, kernels_, num_threads_);
  }
}

void AppendedRows::write(std::span<const std::int64_t> slots, std::int64_t first) const {
  std::vector<std::int64_t> places;
  if (pool_.open_blocks() != nullptr) {  // as slots of open blocks alone, which are plain arrays
    const KvGeometry& geometry = storage_.geometry();
    places.assign(slots.begin(), slots.end());
    for (std::int64_t& slot : places) slot -= geometry.num_blocks * geometry.block_size;
    slots = places;
  }
  for (std::int64_t layer = 0; layer < storage_.geometry().num_layers; ++layer) {
    if (pool_.residency() != nullptr && pool_.open_blocks() == nullptr) {
      write_kept(slots, layer, *pool_.residency());
    } else {
      write_kv(layer_args(slots, first, layer), num_threads_, kernels_, kFunction);
    }
  }
}

void AppendedRows::write_sealed(std::span<const std::int32_t> blocks, std::int64_t first) const {
  const KvGeometry& geometry = storage_.geometry();
  const auto rows_of = [&](const ArrayView& all, std::int64_t layer) {
    ArrayView rows = layer_of(all, layer);
    rows.data = rows.at(first);
    rows.shape[0] = std::ssize(blocks) * geometry.block_size;
    return rows;
  };
  for (std::int64_t layer = 0; layer < geometry.num_layers; ++layer) {
    write_whole_blocks(
        {rows_of(k_.view, layer), rows_of(v_.view, layer), storage_.k_cache(layer),
         storage_.v_cache(layer), storage_.k_scale(layer), storage_.v_scale(layer), blocks},
        pool_.open_blocks()->k_open(layer).dtype, kernels_, num_threads_);
  }
}

// Where not all blocks are in memory: as many rows at a time as a stretch has.
void AppendedRows::write_kept(std::span<const std::int64_t> slots, std::int64_t layer,
                              Residency& residency) const {
  const std::int64_t block_size = storage_.geometry().block_size;
  const std::int64_t step = (residency.stretch_blocks() - 1) * block_size;
  for (std::int64_t first = 0; first < count(); first += step) {
    const auto some = slots.subspan(first, std::min(step, count() - first));
    std::vector<std::int32_t> blocks;
    for (const std::int64_t slot : some) {
      const auto block = static_cast<std::int32_t>(slot / block_size);
      if (blocks.empty() || blocks.back() != block) blocks.push_back(block);
    }
    const std::vector<std::int64_t> slabs = residency.slabs(layer, blocks);
    const auto missing = residency.missing(slabs);
    residency.keep(slabs);
    residency.ask_for(missing);
    residency.bring_in(missing);
    write_kv(layer_args(some, first, layer), num_threads_, kernels_, kFunction);
    residency.settle(slabs);
  }
}

void AppendedRows::check_shape(const char* name, const ArrayView& view,
                               std::int64_t head_dim) const {
  const KvGeometry& geometry = storage_.geometry();
  const auto axis = [&](int i) { return view.shape[stacked_ ? i + 1 : i]; };
  const bool v_of_other_length = &view == &v_.view && axis(0) != count();
  if (view.ndim == (stacked_ ? 4 : 3) && (!stacked_ || view.shape[0] == geometry.num_layers) &&
      !v_of_other_length && axis(1) == geometry.num_kv_heads && axis(2) == head_dim) {
    return;
  }
  raise<ValueError>(place(kFunction, name), "got shape ", shape_text(view), ", expected [",
                    stacked_ ? concat(geometry.num_layers, ", ") : "",
                    v_of_other_length ? std::to_string(count()) : "n", ", ", geometry.num_kv_heads,
                    ", ", head_dim, "]", v_of_other_length ? ", tokens as k" : "");
}

WriteKvArgs AppendedRows::layer_args(std::span<const std::int64_t> slots, std::int64_t first,
                                     std::int64_t layer) const {
  const auto rows = static_cast<std::int64_t>(slots.size());
  WriteKvArgs args{};
  args.k = layer_of(k_.view, layer);
  args.v = layer_of(v_.view, layer);
  if (rows != count()) {
    for (ArrayView* view : {&args.k, &args.v}) {
      view->data = view->at(first);
      view->shape[0] = rows;
    }
  }
  args.slot_mapping = contiguous_index_view(slots.data(), {rows});
  args.names = kNamesOfPool;
  if (const OpenBlocks* const open = pool_.open_blocks()) {
    args.names.k_cache = args.names.k_open;
    args.names.v_cache = args.names.v_open;
    args.k_cache = open->k_open(layer);
    args.v_cache = open->v_open(layer);
    return args;
  }
  args.k_cache = storage_.k_cache(layer);
  args.v_cache = storage_.v_cache(layer);
  if (is_quantised(storage_.geometry().dtype)) {
    args.k_scale = storage_.k_scale(layer);
    args.v_scale = storage_.v_scale(layer);
  }
  return args;
}

ArrayView AppendedRows::layer_of(const ArrayView& stack, std::int64_t layer) const {
  if (!stacked_) return stack;
  ArrayView view = stack;
  view.data = stack.at(layer);
  view.ndim = 3;
  std::copy(stack.shape.begin() + 1, stack.shape.end(), view.shape.begin());
  std::copy(stack.strides.begin() + 1, stack.strides.end(), view.strides.begin());
  return view;
}

}  // namespace quire::python
