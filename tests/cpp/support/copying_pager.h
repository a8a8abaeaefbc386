// Caches of which only the blocks of the stretch in use are there: the others are poison until they
// are asked for, and again when they are done with.
#pragma once

#include <cstring>
#include <optional>
#include <vector>

#include "quire/ops/attention/paged_attention.h"

namespace quire::testing {

class CopyingPager final : public KeyPager {
 public:
  // Attention over `args` with args() in their place, whose caches are copies.
  explicit CopyingPager(const PagedAttentionArgs& args) : args_(args) {
    const std::int64_t block_size = sizes_of(args).block_size;
    most_blocks_ = 253 / block_size + 2;  // whose first and last may have a token each
    planes_.reserve(4);                   // views into them stay
    hide(args_.k_cache);
    hide(args_.v_cache);
    if (args_.k_scale) hide(*args_.k_scale);
    if (args_.v_scale) hide(*args_.v_scale);
    args_.pager = this;
  }

  const PagedAttentionArgs& args() const { return args_; }

  std::int64_t most_blocks() const override { return most_blocks_; }
  bool start(const std::vector<std::vector<std::int32_t>>& stretches) override {
    stretches_ = stretches;
    return true;
  }
  void wait_for(std::size_t stretch) override {
    for (const std::int32_t block : stretches_[stretch]) {
      for (Plane& plane : planes_) {
        std::memcpy(plane.shown(block), plane.stored + block * plane.block_bytes,
                    plane.block_bytes);
      }
    }
  }
  void done_with(std::size_t stretch) override {
    for (const std::int32_t block : stretches_[stretch]) {
      for (Plane& plane : planes_) std::memset(plane.shown(block), kPoison, plane.block_bytes);
    }
  }

 private:
  static constexpr int kPoison = 0xff;  // NaN in every dtype that has one

  // Whole blocks, one after the other.
  struct Plane {
    const std::byte* stored;
    std::size_t block_bytes;
    std::vector<std::byte> memory;

    std::byte* shown(std::int32_t block) {
      return memory.data() + static_cast<std::size_t>(block) * block_bytes;
    }
  };

  void hide(ArrayView& view) {
    const auto block_bytes = static_cast<std::size_t>(view.strides[0]);
    planes_.push_back({view.data, block_bytes, {}});
    planes_.back().memory.resize(static_cast<std::size_t>(view.shape[0]) * block_bytes,
                                 static_cast<std::byte>(kPoison));
    view.data = planes_.back().memory.data();
  }

  PagedAttentionArgs args_;
  std::int64_t most_blocks_;
  std::vector<Plane> planes_;
  std::vector<std::vector<std::int32_t>> stretches_;
};

}  // namespace quire::testing
