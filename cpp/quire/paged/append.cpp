#include "quire/paged/append.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "quire/paged/layer_rows.h"

namespace quire {
namespace {

constexpr std::string_view kFunction = "BlockTable.append";

// The rows of all layers, as they are given: with an axis for layers where the pool has several.
class AppendedRows {
 public:
  // Throws ValueError for wrong shapes, OutOfBlocks for more than the whole pool has room for.
  AppendedRows(const BlockPool& pool, const ArrayView& k, const std::optional<ArrayView>& v)
      : pool_(pool), k_(k), v_(v), stacked_(pool.geometry().num_layers > 1) {
    const KvGeometry& geometry = pool.geometry();
    check_has_values(pool, v.has_value(), kFunction);
    check_shape("k", k_, geometry.head_dim);
    if (v_) check_shape("v", *v_, geometry.v_head_dim);
    const std::int64_t room = geometry.num_blocks * geometry.block_size;
    if (count() > room) {  // before memory for as many slots is asked for
      raise<OutOfBlocks>(place(kFunction, "k"), "got ", counted(count(), "token"),
                         ", expected at most ", room, ", the room of the whole pool");
    }
  }

  std::int64_t count() const { return k_.shape[stacked_ ? 1 : 0]; }

  LayerRows of_layer(std::int64_t layer) const {
    LayerRows rows{layer_of(k_, layer), std::nullopt};
    if (v_) rows.v = layer_of(*v_, layer);
    return rows;
  }

  // How the message of a wrong number names its layer.
  std::string where(std::int64_t layer) const {
    return stacked_ ? concat("layer ", layer, ", ") : "";
  }

 private:
  void check_shape(const char* name, const ArrayView& view, std::int64_t head_dim) const {
    const KvGeometry& geometry = pool_.geometry();
    const auto axis = [&](int i) { return view.shape[stacked_ ? i + 1 : i]; };
    const bool v_of_other_length = &view == get_if(v_) && axis(0) != count();
    if (view.ndim == (stacked_ ? 4 : 3) && (!stacked_ || view.shape[0] == geometry.num_layers) &&
        !v_of_other_length && axis(1) == geometry.num_kv_heads && axis(2) == head_dim) {
      return;
    }
    raise<ValueError>(place(kFunction, name), "got shape ", shape_text(view), ", expected [",
                      stacked_ ? concat(geometry.num_layers, ", ") : "",
                      v_of_other_length ? std::to_string(count()) : "n", ", ",
                      geometry.num_kv_heads, ", ", head_dim, "]",
                      v_of_other_length ? ", tokens as k" : "");
  }

  ArrayView layer_of(const ArrayView& stack, std::int64_t layer) const {
    if (!stacked_) return stack;
    ArrayView view = stack;
    view.data = stack.at(layer);
    view.ndim = 3;
    std::copy(stack.shape.begin() + 1, stack.shape.end(), view.shape.begin());
    std::copy(stack.strides.begin() + 1, stack.strides.end(), view.strides.begin());
    return view;
  }

  const BlockPool& pool_;
  const ArrayView k_;
  const std::optional<ArrayView> v_;
  const bool stacked_;
};

}  // namespace

void append(BlockTable& table, const ArrayView& k, const std::optional<ArrayView>& v,
            const Execution& how) {
  const BlockPool& pool = *table.pool();
  const std::int64_t num_layers = pool.geometry().num_layers;
  const AppendedRows rows(pool, k, v);
  for (std::int64_t layer = 0; layer < num_layers; ++layer) {
    check_rows(pool, layer, rows.of_layer(layer), rows.where(layer), how, kFunction);
  }
  std::vector<std::int64_t> slots(static_cast<std::size_t>(rows.count()));
  const auto write = [&](std::span<const std::int64_t> taken) {
    const std::int64_t first = taken.data() - slots.data();
    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
      const LayerRows some = rows.of_layer(layer).some(first, std::ssize(taken));
      write_rows(pool, layer, some, taken, how, kFunction);
    }
  };
  table.append(slots, write, [&](std::span<const std::int32_t> blocks, std::int64_t first) {
    const std::int64_t count = std::ssize(blocks) * pool.geometry().block_size;
    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
      write_sealed_rows(pool, layer, rows.of_layer(layer).some(first, count), blocks, how);
    }
  });
}

}  // namespace quire
