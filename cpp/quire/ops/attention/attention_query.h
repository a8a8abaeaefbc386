// What a call of attention asks: its queries, its options and where the results go. The same over
// plain arrays, over block tables and in a step, which each say in their own way which keys and
// values it asks about.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "quire/base/array_view.h"

namespace quire {

// Keys that a row sees at either side of its own position, which is one more; -1: all.
struct WindowSides {
  std::int64_t left = -1;
  std::int64_t right = -1;

  bool operator==(const WindowSides&) const = default;
};

// Hq: query heads; D, Dv: head sizes of q/k and of v; T: query tokens of the whole batch; B:
// sequences. The last axis of every float array is contiguous.
struct AttentionQuery {
  ArrayView q{};         // [T, Hq, D], a plain float, or a float of 8 bits where keys are
  ArrayView out{};       // [T, Hq, Dv], a plain float, written
  float* lse = nullptr;  // [T, Hq] contiguous, written; null: not wanted
  // [B + 1], 0 .. T, never falling: the rows of each sequence; none: one row a sequence.
  std::optional<IndexView> cu_seqlens_q = std::nullopt;
  // Of quantised keys and values, see cache_scales.h; over tables, in place of the pool's own. What
  // queries are multiples of is a factor of `scale`.
  std::optional<ArrayView> k_scale = std::nullopt;
  std::optional<ArrayView> v_scale = std::nullopt;
  std::optional<ArrayView> alibi_slopes = std::nullopt;  // [Hq]
  std::optional<ArrayView> sinks = std::nullopt;         // [Hq]
  std::optional<double> scale = std::nullopt;            // none: 1 / sqrt(D)
  std::optional<double> softcap = std::nullopt;          // > 0
  // >= 1: keys that a row sees, its own included.
  std::optional<std::int64_t> sliding_window = std::nullopt;
  std::optional<WindowSides> window_sides = std::nullopt;  // in place of sliding_window
  // The sequence's first tokens, so many, which are seen from every window.
  std::int64_t num_sink_tokens = 0;
  bool causal = true;  // a row sees no key after its own
  // [B], in place of `causal`: whether those of each sequence do. Nobody changes it meanwhile.
  std::optional<std::span<const bool>> causal_of_each = std::nullopt;
  // In place of causality, of the last n tokens of each sequence, n its number of queries: an n x n
  // matrix after the other, whether the row sees the column. Keys before those are seen by all.
  std::optional<std::span<const bool>> tree_mask = std::nullopt;
};

}  // namespace quire
