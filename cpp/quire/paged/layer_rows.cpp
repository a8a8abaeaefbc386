#include "quire/paged/layer_rows.h"

#include <algorithm>
#include <vector>

#include "quire/base/check.h"
#include "quire/cpu/cache/row_magnitudes.h"
#include "quire/cpu/cache/whole_blocks.h"
#include "quire/cpu/operations.h"
#include "quire/format/cache_format.h"
#include "quire/ops/attention/validate.h"
#include "quire/ops/cache/write_kv.h"

namespace quire {
namespace {

// Open blocks are arrays of plain floats by themselves, and rows of a pool that has some go there.
WriteKvArgs write_args(const BlockPool& pool, std::int64_t layer, const LayerRows& rows,
                       std::span<const std::int64_t> slots) {
  WriteKvArgs args{};
  args.k = rows.k;
  args.v = rows.v;
  args.slot_mapping = contiguous_index_view(slots.data(), {std::ssize(slots)});
  args.names = kNamesOfPool;
  if (pool.geometry().opens_blocks()) {
    args.names.k_cache = args.names.k_open;
    args.names.v_cache = args.names.v_open;
    args.k_cache = pool.open_blocks().k_open(layer);
    if (rows.v) args.v_cache = pool.open_blocks().v_open(layer);
    return args;
  }
  const KvStorage& storage = pool.storage();
  args.k_cache = storage.k_cache(layer);
  if (rows.v) args.v_cache = storage.v_cache(layer);
  if (is_quantised(storage.geometry().dtype)) {
    args.k_scale = storage.k_scale(layer);
    if (rows.v) args.v_scale = storage.v_scale(layer);
  }
  return args;
}

// Where not all blocks are in memory: as many rows at a time as a stretch of blocks has, whose
// memory is there before they are written.
void write_resident(const BlockPool& pool, std::int64_t layer, const LayerRows& rows,
                    std::span<const std::int64_t> slots, const Execution& how,
                    std::string_view function) {
  Residency& residency = pool.residency();
  const std::int64_t block_size = pool.geometry().block_size;
  const std::int64_t most = (residency.stretch_blocks() - 1) * block_size;
  for (std::int64_t first = 0; first < rows.count(); first += most) {
    const std::int64_t count = std::min(most, rows.count() - first);
    const auto some = slots.subspan(first, count);
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
    write_kv(write_args(pool, layer, rows.some(first, count), some), how, function);
    residency.settle(slabs);
  }
}

}  // namespace

LayerRows LayerRows::some(std::int64_t first, std::int64_t count) const {
  const auto rows_of = [&](ArrayView view) {
    view.data = view.at(first);
    view.shape[0] = count;
    return view;
  };
  LayerRows rows{rows_of(k), std::nullopt};
  if (v) rows.v = rows_of(*v);
  return rows;
}

void check_has_values(const BlockPool& pool, bool has_values, std::string_view function) {
  const KvGeometry& geometry = pool.geometry();
  if (has_values != geometry.shared) return;
  if (has_values) {
    raise<ValueError>(place(function, "v"), "got an array, expected None: the pool's values are ",
                      "the first ", geometry.v_head_dim, " numbers of its keys (shared)");
  }
  raise<TypeError>(place(function, "v"),
                   "got None, expected an array: the pool's values are not shared with its keys");
}

void check_rows(const BlockPool& pool, std::int64_t layer, const LayerRows& rows,
                std::string_view where, const Execution& how, std::string_view function) {
  const DType dtype = pool.geometry().dtype;
  // Slots of rows that are skipped: those that they will have are not known yet.
  const std::vector<std::int64_t> slots(static_cast<std::size_t>(rows.count()), -1);
  const WriteKvArgs args = write_args(pool, layer, rows, slots);
  validate(args, function);
  if (!is_quantised(dtype)) return;
  // Where rows are written open first, and what is sealed holds less than that.
  const DType held = format_of(dtype).is_sealed_by_block() ? dtype : args.k_cache.dtype;
  require_finite_rows(function, "k", where, args.k, held, *how.kernels->cache, how.num_threads);
  if (!args.v) return;
  require_finite_rows(function, "v", where, *args.v, held, *how.kernels->cache, how.num_threads);
}

void write_rows(const BlockPool& pool, std::int64_t layer, const LayerRows& rows,
                std::span<const std::int64_t> slots, const Execution& how,
                std::string_view function) {
  if (!pool.geometry().opens_blocks()) {
    if (pool.residency().is_limited()) {
      return write_resident(pool, layer, rows, slots, how, function);
    }
    return write_kv(write_args(pool, layer, rows, slots), how, function);
  }
  // A table counts slots of open blocks from the end of the sealed ones.
  std::vector<std::int64_t> places(slots.begin(), slots.end());
  const std::int64_t first_open = pool.geometry().num_blocks * pool.geometry().block_size;
  for (std::int64_t& place : places) place -= first_open;
  write_kv(write_args(pool, layer, rows, places), how, function);
}

void write_sealed_rows(const BlockPool& pool, std::int64_t layer, const LayerRows& rows,
                       std::span<const std::int32_t> blocks, const Execution& how) {
  const KvStorage& storage = pool.storage();
  WholeBlocks args{{rows.k, storage.k_cache(layer), storage.k_scale(layer)}, std::nullopt, blocks};
  if (rows.v) args.v = WholeRows{*rows.v, storage.v_cache(layer), storage.v_scale(layer)};
  write_whole_blocks(args, pool.open_blocks().k_open(layer).dtype, *how.kernels->cache,
                     how.num_threads);
}

}  // namespace quire
