// Memory for the arrays of a forward pass, kept from layer to layer and from call to call.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quire/base/aligned_buffer.h"
#include "quire/base/array_view.h"

namespace quire {

// Arrays are asked for one after the other, and each layer asks for the same ones: so the n-th has
// the n-th buffer, and only the first pass allocates. Two banks take turns, so that what a layer
// leaves behind is still there for the next one.
class Scratch {
 public:
  // Uninitialised, of up to kMaxDims axes.
  ArrayView array(DType dtype, std::span<const std::int64_t> shape) {
    Bank& bank = banks_[turn_];
    if (bank.next == bank.buffers.size()) bank.buffers.emplace_back();
    std::int64_t bytes = static_cast<std::int64_t>(size_of(dtype));
    for (const std::int64_t length : shape) bytes *= length;
    constexpr auto kFloat = static_cast<std::int64_t>(sizeof(float));
    return contiguous_view(bank.buffers[bank.next++].reserve((bytes + kFloat - 1) / kFloat), dtype,
                           shape);
  }

  // Which array comes next, to go back to when later ones are not needed any more.
  std::size_t mark() const { return banks_[turn_].next; }
  void go_back(std::size_t mark) { banks_[turn_].next = mark; }

  // An array that lasts for all layers; one.
  ArrayView lasting(std::int64_t rows, std::int64_t columns) {
    return contiguous_view(lasting_.reserve(rows, columns), DType::float32, {rows, columns});
  }

  // Arrays of the layer before the last one are lost.
  void next_layer() {
    turn_ = 1 - turn_;
    banks_[turn_].next = 0;
  }

  // Gives buffers back that have grown beyond what small batches need, so that a long prompt does
  // not hold memory for good.
  void keep_some() {
    lasting_.keep_at_most(kMostKept);
    for (Bank& bank : banks_) {
      bank.next = 0;
      for (AlignedBuffer& buffer : bank.buffers) buffer.keep_at_most(kMostKept);
    }
  }

 private:
  static constexpr std::int64_t kMostKept = 4 << 20;  // floats of one buffer

  struct Bank {
    std::vector<AlignedBuffer> buffers;
    std::size_t next = 0;
  };
  Bank banks_[2];
  AlignedBuffer lasting_;
  int turn_ = 0;
};

}  // namespace quire
