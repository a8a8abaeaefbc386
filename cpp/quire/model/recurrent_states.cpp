#include "quire/model/recurrent_states.h"

#include <cstring>

#include "quire/base/check.h"

namespace quire {
namespace {

constexpr std::string_view kMake = "RecurrentStates";
constexpr auto kFloat = static_cast<std::int64_t>(sizeof(float));
constexpr std::int64_t kMostBytes = std::int64_t{1} << 50;  // more than any address space

std::int64_t checked_bytes(const RecurrentShape& shape, std::int64_t num_slots) {
  const struct {
    std::string_view name;
    std::int64_t size, least;
  } sizes[] = {{"num_slots", num_slots, 1},
               {"shape.num_layers", shape.num_layers, 1},
               {"shape.channels", shape.channels, 1},
               {"shape.past", shape.past, 0},
               {"shape.num_heads", shape.num_heads, 1},
               {"shape.key_dim", shape.key_dim, 1},
               {"shape.value_dim", shape.value_dim, 1}};
  double bytes = kFloat * static_cast<double>(num_slots) * static_cast<double>(shape.num_layers);
  for (const auto& [name, size, least] : sizes) {
    if (size >= least) continue;
    raise<ValueError>(place(kMake, name), "got ", size, ", expected >= ", least);
  }
  const auto product = [](std::initializer_list<std::int64_t> numbers) {
    double result = 1;
    for (const std::int64_t number : numbers) result *= static_cast<double>(number);
    return result;
  };
  bytes *= product({shape.channels, shape.past}) +
           product({shape.num_heads, shape.key_dim, shape.value_dim});
  if (bytes > static_cast<double>(kMostBytes)) throw std::bad_alloc();
  return static_cast<std::int64_t>(bytes);
}

}  // namespace

RecurrentStates::RecurrentStates(const RecurrentShape& shape, std::int64_t num_slots)
    : shape_(shape),
      num_slots_(num_slots),
      data_(std::make_unique<BlockMemory>(checked_bytes(shape, num_slots), num_slots,
                                          BlockMemory::Claim::addresses)) {}

std::int64_t RecurrentStates::convolution_bytes() const {
  return kFloat * shape_.channels * shape_.past;
}

std::int64_t RecurrentStates::layer_bytes() const {
  return convolution_bytes() + kFloat * shape_.num_heads * shape_.key_dim * shape_.value_dim;
}

std::int64_t RecurrentStates::bytes_per_slot() const { return layer_bytes() * shape_.num_layers; }

std::byte* RecurrentStates::at(std::int64_t slot, std::string_view function,
                               std::string_view argument) const {
  if (slot < 0 || slot >= num_slots_) {
    raise<IndexError>(place(function, argument), "got ", slot, ", expected 0 to ", num_slots_ - 1);
  }
  return data_->data() + slot * bytes_per_slot();
}

std::byte* RecurrentStates::layer_at(std::int64_t layer, std::string_view function) const {
  if (layer < 0 || layer >= shape_.num_layers) {
    raise<IndexError>(place(function, "layer"), "got ", layer, ", expected 0 to ",
                      shape_.num_layers - 1);
  }
  return data_->data() + layer * layer_bytes();
}

void RecurrentStates::clear(std::int64_t slot) {
  std::memset(at(slot, "RecurrentStates.clear", "slot"), 0,
              static_cast<std::size_t>(bytes_per_slot()));
}

void RecurrentStates::copy(std::int64_t from, std::int64_t to) {
  const std::byte* const source = at(from, "RecurrentStates.copy", "from");
  std::memmove(at(to, "RecurrentStates.copy", "to"), source,
               static_cast<std::size_t>(bytes_per_slot()));
}

ArrayView RecurrentStates::convolution(std::int64_t layer) const {
  ArrayView view = contiguous_view(layer_at(layer, "RecurrentStates.convolution"), DType::float32,
                                   {num_slots_, shape_.channels, shape_.past});
  view.strides[0] = bytes_per_slot();
  return view;
}

ArrayView RecurrentStates::matrices(std::int64_t layer) const {
  ArrayView view = contiguous_view(
      layer_at(layer, "RecurrentStates.matrices") + convolution_bytes(), DType::float32,
      {num_slots_, shape_.num_heads, shape_.key_dim, shape_.value_dim});
  view.strides[0] = bytes_per_slot();
  return view;
}

}  // namespace quire
