#include "quire/ops/cache/cache_scales.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "quire/base/check.h"
#include "quire/format/cache_format.h"

namespace quire {
namespace {

// What lies beside a cache, 4 bytes each.
enum class Entry { scale, key_grid, value_grid };
constexpr std::int64_t kEntryBytes = 4;

std::uint32_t bits_at(const std::byte* from) {
  std::uint32_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

// What is wrong in the highest bit, by differences of which one is negative then, so that a
// compiler makes vectors of neighbours. Of a scale: unless 0 < bits < infinity's. Of a grid the
// step likewise, and the middle without its sign; the step comes first, and so is the lower half.
static_assert(std::endian::native == std::endian::little);
struct ScaleFault {
  static std::uint32_t of(std::uint32_t bits) { return (bits - 1u) | (0x7f7fffffu - bits); }
};
struct GridFault {
  static std::uint32_t of(std::uint32_t bits) {
    const std::uint32_t step = bits & 0xffffu, middle = bits >> 16 & 0x7fffu;
    return (step - 1u) | (0x7bffu - step) | (0x7bffu - middle);
  }
};

// Whether none of `count` entries, `stride` bytes apart, has a fault.
template <class Fault>
bool all_sound(const std::byte* first, std::int64_t stride, std::int64_t count) {
  constexpr std::int64_t kAtOnce = 16;
  std::uint32_t bad = 0;  // in the highest bit
  std::int64_t i = 0;
  if (stride == kEntryBytes) {
    for (; i + kAtOnce <= count; i += kAtOnce) {
      for (std::int64_t j = 0; j < kAtOnce; ++j) {
        bad |= Fault::of(bits_at(first + (i + j) * kEntryBytes));
      }
    }
  }
  for (; i < count; ++i) bad |= Fault::of(bits_at(first + i * stride));
  return (bad >> 31) == 0;
}

bool is_positive(float x) { return std::isfinite(x) && x > 0; }

// Slots [begin, end) of a block, and the block that is asked for meanwhile, or kNone.
struct BlockSlots {
  static constexpr std::int64_t kNone = -1;
  std::int64_t block, begin, end, upcoming;
};

// Those of some KV heads: of slots of one block, or of keys' grids of all channels, the nearer axis
// inside.
class BlockScales {
 public:
  BlockScales(std::string_view function, std::string_view argument, const ArrayView& scale,
              Entry entry, std::int64_t head_begin, std::int64_t head_end)
      : function_(function),
        argument_(argument),
        scale_(scale),
        entry_(entry),
        head_begin_(head_begin),
        head_end_(head_end),
        inner_stride_(scale.strides[entry == Entry::key_grid ? 2 : 1]),
        head_stride_(scale.strides[entry == Entry::key_grid ? 1 : 2]) {}

  bool are_sound(BlockSlots slots) const {
    if (entry_ == Entry::scale) return are_sound<ScaleFault>(slots);
    if (entry_ == Entry::value_grid) return are_sound<GridFault>(slots);
    slots.begin = 0;
    slots.end = scale_.shape[2];
    return are_sound<GridFault>(slots);
  }

  void refuse(const BlockSlots& slots) const {
    const auto& [block, begin, end, upcoming] = slots;
    if (entry_ == Entry::key_grid) return refuse_keys(block);
    for (std::int64_t offset = begin; offset < end; ++offset) {
      for (std::int64_t head = head_begin_; head < head_end_; ++head) {
        if (entry_ == Entry::value_grid) {
          refuse_grid(*value_grid_at(scale_, block, offset, head), "each slot", " at block ", block,
                      ", offset ", offset, ", head ", head);
          continue;
        }
        const float scale = *scale_at(scale_, block, offset, head);
        if (is_positive(scale)) continue;
        raise<ValueError>(place(function_, argument_), "got ", scale, " at block ", block,
                          ", offset ", offset, ", head ", head,
                          ", expected a positive finite number in each slot that is read");
      }
    }
  }

 private:
  template <class Fault>
  bool are_sound(const BlockSlots& slots) const {
    const auto& [block, begin, end, upcoming] = slots;
    const std::byte* const first =
        scale_.at(block) + begin * inner_stride_ + head_begin_ * head_stride_;
    const std::int64_t heads = head_end_ - head_begin_;
    bool good = true;
    if (upcoming != BlockSlots::kNone && inner_stride_ > head_stride_) ask_for(upcoming, 0);
    if (inner_stride_ <= head_stride_) {
      for (std::int64_t head = 0; head < heads; ++head) {
        if (upcoming != BlockSlots::kNone) ask_for(upcoming, head);
        good &= all_sound<Fault>(first + head * head_stride_, inner_stride_, end - begin);
      }
    } else {
      for (std::int64_t i = 0; i < end - begin; ++i) {
        good &= all_sound<Fault>(first + i * inner_stride_, head_stride_, heads);
      }
    }
    return good;
  }

  // Asks for the first scale of a head, or for all grids of its keys, to come into the second-level
  // cache: the first is asked for a few lines at a time, and forgets the others.
  // Inlined, as GCC takes a function that does nothing else for one without effect.
  [[gnu::always_inline]] void ask_for(std::int64_t block, std::int64_t head) const {
    constexpr std::int64_t kLineBytes = 64;
    constexpr int kSecondLevel = 2;
    const std::int64_t bytes = entry_ == Entry::key_grid ? scale_.shape[2] * kEntryBytes : 1;
    const std::byte* const first = scale_.at(block) + (head_begin_ + head) * head_stride_;
    for (std::int64_t at = 0; at < bytes; at += kLineBytes)
      __builtin_prefetch(first + at, 0, kSecondLevel);
  }

  void refuse_keys(std::int64_t block) const {
    for (std::int64_t head = head_begin_; head < head_end_; ++head) {
      for (std::int64_t channel = 0; channel < scale_.shape[2]; ++channel) {
        refuse_grid(key_grids_at(scale_, block, head)[channel], "each block", " at block ", block,
                    ", head ", head, ", channel ", channel);
      }
    }
  }

  template <class... Place>
  void refuse_grid(Int4Grid grid, const char* read, const Place&... where) const {
    const float step = to_float(grid.step), middle = to_float(grid.middle);
    if (!is_positive(step)) {
      raise<ValueError>(place(function_, argument_), "got a step of ", step, where...,
                        ", expected a positive finite number in ", read, " that is read");
    }
    if (!std::isfinite(middle)) {
      raise<ValueError>(place(function_, argument_), "got a middle of ", middle, where...,
                        ", expected a finite number in ", read, " that is read");
    }
  }

  std::string_view function_, argument_;
  const ArrayView& scale_;
  const Entry entry_;
  const std::int64_t head_begin_, head_end_;
  const std::int64_t inner_stride_, head_stride_;
};

// Those of keys and of values, as far as there are any.
class CacheScales {
 public:
  CacheScales(const PagedAttentionArgs& args, std::string_view function)
      : CacheScales(args, function, 0, sizes_of(args).num_kv_heads) {}

  CacheScales(const PagedAttentionArgs& args, std::string_view function, std::int64_t head_begin,
              std::int64_t head_end)
      : args_(args),
        block_size_(sizes_of(args).block_size),
        num_blocks_(sizes_of(args).num_blocks) {
    const bool has_grids = format_of(args.k_cache.dtype).scales == ScaleKind::grids;
    const auto use = [&](const std::optional<ArrayView>& scale, const char* argument, Entry grid,
                         std::optional<BlockScales>& scales) {
      if (!scale || !is_dynamic(*scale)) return;
      const Entry entry = has_grids ? grid : Entry::scale;
      scales.emplace(function, argument, *scale, entry, head_begin, head_end);
    };
    use(args.k_scale, "k_scale", Entry::key_grid, k_);
    use(args.v_scale, "v_scale", Entry::value_grid, v_);
  }

  bool none() const { return !k_ && !v_; }

  void check(std::int64_t seq, const KeyRange& keys) const {
    for_blocks(seq, keys, [](const BlockScales& scales, const BlockSlots& slots) {
      if (!scales.are_sound(slots)) scales.refuse(slots);
    });
  }

  bool are_sound(std::int64_t seq, const KeyRange& keys) const {
    bool sound = true;
    for_blocks(seq, keys, [&](const BlockScales& scales, const BlockSlots& slots) {
      sound = scales.are_sound(slots) && sound;
    });
    return sound;
  }

 private:
  // Calls visit(scales, slots), but not for open blocks.
  template <class Visit>
  void for_blocks(std::int64_t seq, const KeyRange& keys, Visit visit) const {
    constexpr std::int64_t kAhead = 2;  // so many blocks before its turn one is asked for
    const std::int64_t end_column = (keys.end + block_size_ - 1) / block_size_;
    for (std::int64_t column = keys.begin / block_size_; column < end_column; ++column) {
      const std::int64_t first = column * block_size_;
      const std::int64_t offset = std::max<std::int64_t>(keys.begin - first, 0);
      const std::int64_t end = std::min(block_size_, keys.end - first);
      const std::int64_t block = args_.block_tables.at(seq, column);
      if (block >= num_blocks_) continue;
      const std::int64_t next =
          column + kAhead < end_column ? args_.block_tables.at(seq, column + kAhead) : num_blocks_;
      const BlockSlots slots{block, offset, end, next < num_blocks_ ? next : BlockSlots::kNone};
      for (const auto* scales : {&k_, &v_}) {
        if (*scales) visit(**scales, slots);
      }
    }
  }

  const PagedAttentionArgs& args_;
  const std::int64_t block_size_, num_blocks_;
  std::optional<BlockScales> k_, v_;
};

// The scales that a sequence has of its own, of keys and then of values.
std::vector<float> scales_of_sequence(const PagedAttentionArgs& args, std::int64_t seq) {
  std::vector<float> all;
  for (const std::optional<ArrayView>* scale : {&args.k_scale, &args.v_scale}) {
    if (!*scale || !is_of_each(**scale)) continue;
    const ArrayView own = scale_of_sequence(**scale, seq);
    for (std::int64_t head = 0; head < own.shape[0]; ++head) {
      all.push_back(*scale_at(own, 0, 0, head));
    }
  }
  return all;
}

}  // namespace

ArrayView scale_of_sequence(const ArrayView& scale, std::int64_t seq) {
  if (!is_of_each(scale)) return scale;
  ArrayView own = scale;
  own.data = scale.at(seq);
  own.ndim = 1;
  own.shape[0] = scale.shape[1];
  own.strides[0] = scale.strides[1];
  return own;
}

std::vector<std::int64_t> sequences_by_scales(const PagedAttentionArgs& args) {
  const auto differ = [](const std::optional<ArrayView>& scale) {
    return scale && is_of_each(*scale) && scale->strides[0] != 0;
  };
  if (!differ(args.k_scale) && !differ(args.v_scale)) return {};
  const std::int64_t num_seqs = args.seq_lens.shape[0];
  std::map<std::vector<float>, std::int64_t> first;
  std::vector<std::int64_t> firsts;
  firsts.reserve(static_cast<std::size_t>(num_seqs));
  for (std::int64_t seq = 0; seq < num_seqs; ++seq) {
    firsts.push_back(first.try_emplace(scales_of_sequence(args, seq), seq).first->second);
  }
  return first.size() > 1 ? firsts : std::vector<std::int64_t>{};
}

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
