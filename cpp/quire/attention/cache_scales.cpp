#include "quire/attention/cache_scales.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

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
  const PagedAttentionSizes sizes = sizes_of(args);
  for (const auto& [argument, scale] :
       {std::pair{"k_scale", &args.k_scale}, std::pair{"v_scale", &args.v_scale}}) {
    if (!*scale || !is_dynamic(**scale)) continue;
    const BlockScales scales(function, argument, **scale);
    for (std::int64_t seq = 0; seq < sizes.num_seqs; ++seq) {
      const QueryRows rows = query_rows(args, seq);
      if (rows.begin == rows.end) continue;
      std::int64_t key = visible_keys(args, rows.position(0), rows.seq_len).begin;
      while (key < rows.seq_len) {
        const std::int64_t column = key / sizes.block_size;
        const std::int64_t first = column * sizes.block_size;
        const std::int64_t end = std::min(first + sizes.block_size, rows.seq_len);
        scales.check(args.block_tables.at(seq, column), key - first, end - first);
        key = end;
      }
    }
  }
}

}  // namespace quire
