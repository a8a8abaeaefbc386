#include "quire/attention/cache_scales.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "quire/base/check.h"

namespace quire {
namespace {

// Whether all of `count` floats, `stride` bytes apart, are positive and finite: 0 < bits <
// infinity's. Differences of which one is negative otherwise, so that a compiler makes vectors of
// neighbours.
bool all_positive(const std::byte* first, std::int64_t stride, std::int64_t count) {
  constexpr std::int64_t kAtOnce = 16;
  std::uint32_t bad = 0;  // in the highest bit
  const auto add = [&bad](const std::byte* from) {
    std::uint32_t bits;
    std::memcpy(&bits, from, sizeof bits);
    bad |= (bits - 1u) | (0x7f7fffffu - bits);
  };
  std::int64_t i = 0;
  if (stride == sizeof(float)) {
    for (; i + kAtOnce <= count; i += kAtOnce) {
      for (std::int64_t j = 0; j < kAtOnce; ++j) add(first + (i + j) * 4);
    }
  }
  for (; i < count; ++i) add(first + i * stride);
  return (bad >> 31) == 0;
}

// Slots [begin, end) of one block, all heads, the nearer axis inside.
class BlockScales {
 public:
  BlockScales(std::string_view function, std::string_view argument, const ArrayView& scale)
      : function_(function), argument_(argument), scale_(scale) {}

  // Asks for the first scale of each head.
  void prefetch(std::int64_t block) const {
    for (std::int64_t head = 0; head < scale_.shape[2]; ++head) {
      __builtin_prefetch(scale_.at(block, 0, head));
    }
  }

  void check(std::int64_t block, std::int64_t begin, std::int64_t end) const {
    const std::int64_t heads = scale_.shape[2];
    bool good = true;
    if (scale_.strides[1] <= scale_.strides[2]) {
      for (std::int64_t head = 0; head < heads; ++head) {
        good &= all_positive(scale_.at(block, begin, head), scale_.strides[1], end - begin);
      }
    } else {
      for (std::int64_t offset = begin; offset < end; ++offset) {
        good &= all_positive(scale_.at(block, offset), scale_.strides[2], heads);
      }
    }
    if (!good) refuse(block, begin, end);
  }

 private:
  void refuse(std::int64_t block, std::int64_t begin, std::int64_t end) const {
    for (std::int64_t offset = begin; offset < end; ++offset) {
      for (std::int64_t head = 0; head < scale_.shape[2]; ++head) {
        const float scale = *scale_at(scale_, block, offset, head);
        if (std::isfinite(scale) && scale > 0) continue;
        raise<ValueError>(place(function_, argument_), "got ", scale, " at block ", block,
                          ", offset ", offset, ", head ", head,
                          ", expected a positive finite number in each slot that is read");
      }
    }
  }

  std::string_view function_, argument_;
  const ArrayView& scale_;
};

// Those of keys and of values, as far as there are any.
class CacheScales {
 public:
  CacheScales(const PagedAttentionArgs& args, std::string_view function)
      : args_(args), block_size_(sizes_of(args).block_size) {
    if (args.k_scale && is_dynamic(*args.k_scale)) k_.emplace(function, "k_scale", *args.k_scale);
    if (args.v_scale && is_dynamic(*args.v_scale)) v_.emplace(function, "v_scale", *args.v_scale);
  }

  bool none() const { return !k_ && !v_; }

  void check(std::int64_t seq, const KeyRange& keys) const {
    constexpr std::int64_t kAhead = 3;  // blocks whose scales are asked for in advance
    const std::int64_t end_column = (keys.end + block_size_ - 1) / block_size_;
    for (std::int64_t column = keys.begin / block_size_; column < end_column; ++column) {
      const std::int64_t first = column * block_size_;
      const std::int64_t offset = std::max<std::int64_t>(keys.begin - first, 0);
      const std::int64_t end = std::min(block_size_, keys.end - first);
      const std::int64_t block = args_.block_tables.at(seq, column);
      const bool more = column + kAhead < end_column;
      for (const auto* scales : {&k_, &v_}) {
        if (!*scales) continue;
        if (more) (*scales)->prefetch(args_.block_tables.at(seq, column + kAhead));
        (*scales)->check(block, offset, end);
      }
    }
  }

 private:
  const PagedAttentionArgs& args_;
  const std::int64_t block_size_;
  std::optional<BlockScales> k_, v_;
};

}  // namespace

void check_dynamic_scales(const PagedAttentionArgs& args, std::string_view function) {
  const CacheScales scales(args, function);
  if (scales.none()) return;
  for (std::int64_t seq = 0; seq < sizes_of(args).num_seqs; ++seq) {
    const QueryRows rows = query_rows(args, seq);
    if (rows.begin == rows.end) continue;
    const VisibleKeys visible = visible_keys(args, rows, 0, rows.end - rows.begin);
    scales.check(seq, visible.sink_tokens);
    scales.check(seq, visible.window);
  }
}

void check_dynamic_scales(const PagedAttentionArgs& args, std::span<const SequenceKeys> some,
                          std::string_view function) {
  const CacheScales scales(args, function);
  if (scales.none()) return;
  for (const auto& [seq, keys] : some) scales.check(seq, keys);
}

}  // namespace quire
