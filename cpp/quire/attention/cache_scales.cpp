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

// Those of slots [begin, end) of one block and of some heads, the nearer axis inside.
class BlockScales {
 public:
  BlockScales(std::string_view function, std::string_view argument, const ArrayView& scale,
              std::int64_t head_begin, std::int64_t head_end)
      : function_(function),
        argument_(argument),
        scale_(scale),
        head_begin_(head_begin),
        head_end_(head_end) {}

  // Asks for the first scale of each head.
  void prefetch(std::int64_t block) const {
    for (std::int64_t head = head_begin_; head < head_end_; ++head) {
      __builtin_prefetch(scale_.at(block, 0, head));
    }
  }

  bool are_sound(std::int64_t block, std::int64_t begin, std::int64_t end) const {
    bool good = true;
    if (scale_.strides[1] <= scale_.strides[2]) {
      for (std::int64_t head = head_begin_; head < head_end_; ++head) {
        good &= all_positive(scale_.at(block, begin, head), scale_.strides[1], end - begin);
      }
    } else {
      for (std::int64_t offset = begin; offset < end; ++offset) {
        good &= all_positive(scale_.at(block, offset, head_begin_), scale_.strides[2],
                             head_end_ - head_begin_);
      }
    }
    return good;
  }

  void refuse(std::int64_t block, std::int64_t begin, std::int64_t end) const {
    for (std::int64_t offset = begin; offset < end; ++offset) {
      for (std::int64_t head = head_begin_; head < head_end_; ++head) {
        const float scale = *scale_at(scale_, block, offset, head);
        if (std::isfinite(scale) && scale > 0) continue;
        raise<ValueError>(place(function_, argument_), "got ", scale, " at block ", block,
                          ", offset ", offset, ", head ", head,
                          ", expected a positive finite number in each slot that is read");
      }
    }
  }

 private:
  std::string_view function_, argument_;
  const ArrayView& scale_;
  const std::int64_t head_begin_, head_end_;
};

// Those of keys and of values, as far as there are any.
class CacheScales {
 public:
  CacheScales(const PagedAttentionArgs& args, std::string_view function)
      : CacheScales(args, function, 0, sizes_of(args).num_kv_heads) {}

  CacheScales(const PagedAttentionArgs& args, std::string_view function, std::int64_t head_begin,
              std::int64_t head_end)
      : args_(args), block_size_(sizes_of(args).block_size) {
    const auto use = [&](const std::optional<ArrayView>& scale, const char* argument,
                         std::optional<BlockScales>& scales) {
      if (!scale || !is_dynamic(*scale)) return;
      scales.emplace(function, argument, *scale, head_begin, head_end);
    };
    use(args.k_scale, "k_scale", k_);
    use(args.v_scale, "v_scale", v_);
  }

  bool none() const { return !k_ && !v_; }

  void check(std::int64_t seq, const KeyRange& keys) const {
    for_blocks(seq, keys, [](const BlockScales& scales, auto... slots) {
      if (!scales.are_sound(slots...)) scales.refuse(slots...);
    });
  }

  bool are_sound(std::int64_t seq, const KeyRange& keys) const {
    bool sound = true;
    for_blocks(seq, keys, [&](const BlockScales& scales, auto... slots) {
      sound = scales.are_sound(slots...) && sound;
    });
    return sound;
  }

 private:
  // Calls visit(scales, block, first slot, end of slots).
  template <class Visit>
  void for_blocks(std::int64_t seq, const KeyRange& keys, Visit visit) const {
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
        visit(**scales, block, offset, end);
      }
    }
  }

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

bool dynamic_scales_are_sound(const PagedAttentionArgs& args, const SequenceKeys& some,
                              std::int64_t head_begin, std::int64_t head_end) {
  return CacheScales(args, {}, head_begin, head_end).are_sound(some.seq, some.keys);
}

}  // namespace quire
