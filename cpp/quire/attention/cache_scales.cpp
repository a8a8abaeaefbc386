#include "quire/attention/cache_scales.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "quire/attention/visible_keys.h"
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

}  // namespace

void check_dynamic_scales(const PagedAttentionArgs& args, std::string_view function) {
  constexpr std::int64_t kAhead = 3;  // blocks whose scales are asked for in advance
  std::optional<BlockScales> k, v;
  if (args.k_scale && is_dynamic(*args.k_scale)) k.emplace(function, "k_scale", *args.k_scale);
  if (args.v_scale && is_dynamic(*args.v_scale)) v.emplace(function, "v_scale", *args.v_scale);
  if (!k && !v) return;
  const PagedAttentionSizes sizes = sizes_of(args);
  for (std::int64_t seq = 0; seq < sizes.num_seqs; ++seq) {
    const QueryRows rows = query_rows(args, seq);
    if (rows.begin == rows.end) continue;
    const VisibleKeys visible = visible_keys(args, rows, 0, rows.end - rows.begin);
    for (const KeyRange& keys : {visible.sink_tokens, visible.window}) {
      const std::int64_t end_column = (keys.end + sizes.block_size - 1) / sizes.block_size;
      for (std::int64_t column = keys.begin / sizes.block_size; column < end_column; ++column) {
        const std::int64_t first = column * sizes.block_size;
        const std::int64_t offset = std::max<std::int64_t>(keys.begin - first, 0);
        const std::int64_t end = std::min(sizes.block_size, keys.end - first);
        const std::int64_t block = args.block_tables.at(seq, column);
        const bool more = column + kAhead < end_column;
        for (const auto* scales : {&k, &v}) {
          if (!*scales) continue;
          if (more) (*scales)->prefetch(args.block_tables.at(seq, column + kAhead));
          (*scales)->check(block, offset, end);
        }
      }
    }
  }
}

}  // namespace quire
