// Which keys a query sees: all, or those of a window around its own and, if wanted, the first.
//
//   position   0 1 2 3 4 5 6 7 8 9        sliding_window 3, num_sink_tokens 2, a query at 8
//              s s         w w w          s: sink tokens   w: its window   9: later, causal
//
// A row sees two ranges of its sequence's keys: the sink tokens, and the keys at most so many
// positions before its own and so many after it, its reach. A causal row has none after it, one
// without a window all before it. Positions grow along a sequence, also where keys have been left
// out, so that the ends are found by bisection, and later rows see later keys.
//
// A tree of draft tokens (tree_mask) hides some of the last keys from some rows. What it hides from
// all of them counts as seen where scales and holes are looked at.
//
// Where a sequence has more queries than keys, the first of them have no key of their own: each
// stands one position before the next. Causal, they see nothing.
//
// Source of the first tokens' name: Xiao et al., "StreamingLLM" (arXiv:2309.17453).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "quire/ops/attention/paged_attention.h"

namespace quire {

// Positions before and after its own that a row sees.
struct Reach {
  static constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();

  std::int64_t left = kAll;
  std::int64_t right = kAll;
};

// That of a window, without what causality takes from it.
inline Reach window_of(const AttentionQuery& args) {
  constexpr std::int64_t kFar = std::int64_t{1} << 42;  // farther than any two tokens stand apart
  if (args.sliding_window) return {*args.sliding_window - 1, Reach::kAll};
  if (!args.window_sides) return {};
  const auto reach = [](std::int64_t side) { return side < 0 || side > kFar ? Reach::kAll : side; };
  return {reach(args.window_sides->left), reach(args.window_sides->right)};
}

// A tree says itself which of the later keys its rows see.
inline bool is_causal(const AttentionQuery& args, std::int64_t seq) {
  if (args.tree_mask) return false;
  return args.causal_of_each ? (*args.causal_of_each)[static_cast<std::size_t>(seq)] : args.causal;
}

// The tree of each sequence, [n, n] for its n queries; empty: there are none.
inline std::vector<const bool*> trees_of(const PagedAttentionArgs& args) {
  std::vector<const bool*> trees;
  if (!args.tree_mask) return trees;
  const bool* next = args.tree_mask->data();
  for (std::int64_t seq = 0; seq < args.seq_lens.shape[0]; ++seq) {
    const QueryRows rows = query_rows(args, seq);
    trees.push_back(next);
    next += (rows.end - rows.begin) * (rows.end - rows.begin);
  }
  return trees;
}

// Whether row j of a sequence sees a key that is in its reach; `tree` null: there is none.
inline bool shows(const bool* tree, const QueryRows& rows, std::int64_t j, std::int64_t key) {
  const std::int64_t column = key - rows.key(0);
  return tree == nullptr || column < 0 || tree[j * (rows.end - rows.begin) + column];
}

// Where key `key` of sequence `seq`, which has some, stands; of a query without a
// key, each one before the next.
inline std::int64_t position_of(const PagedAttentionArgs& args, std::int64_t seq,
                                std::int64_t key) {
  if (!args.key_positions) return key;
  return key < 0 ? args.key_positions->at(seq, 0) + key : args.key_positions->at(seq, key);
}

// The first key of a sequence that stands at `position` or later; seq_len where there is none.
inline std::int64_t first_key_from(const PagedAttentionArgs& args, const QueryRows& rows,
                                   std::int64_t position) {
  if (!args.key_positions) return std::clamp<std::int64_t>(position, 0, rows.seq_len);
  std::int64_t begin = 0;
  for (std::int64_t end = rows.seq_len; begin < end;) {
    const std::int64_t middle = begin + (end - begin) / 2;
    if (args.key_positions->at(rows.seq, middle) < position) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// The keys that queries see, if a tree does not hide them. The window may begin at any key; where a
// query sees all keys up to the last that it may see, they are its window, sink tokens and all.
struct VisibleKeys {
  KeyRange sink_tokens{0, 0};  // from 0 on, none of them in `window`
  KeyRange window{0, 0};       // begin <= end
  bool windowed = false;       // rows are asked one by one for the keys of `window` that they see
};

// Those of row j of a sequence, counted from its first.
inline VisibleKeys visible_keys(const PagedAttentionArgs& args, const QueryRows& rows,
                                std::int64_t j) {
  VisibleKeys keys;
  if (rows.seq_len == 0) return keys;
  const std::int64_t own = rows.key(j);
  const std::int64_t last =
      is_causal(args, rows.seq) ? std::max<std::int64_t>(own + 1, 0) : rows.seq_len;
  const Reach reach = window_of(args);
  keys.window.end = last;
  if (reach.left == Reach::kAll && reach.right == Reach::kAll) return keys;
  const std::int64_t position = position_of(args, rows.seq, own);
  const std::int64_t begin =
      reach.left >= position ? 0 : first_key_from(args, rows, position - reach.left);
  const std::int64_t end =
      reach.right == Reach::kAll
          ? last
          : std::min(last, first_key_from(args, rows, position + reach.right + 1));
  const std::int64_t sink_end = std::min(last, first_key_from(args, rows, args.num_sink_tokens));
  if (end == last && sink_end >= begin) return keys;
  keys.sink_tokens.end = sink_end;
  keys.window.begin = std::max(begin, sink_end);
  keys.window.end = std::max(end, keys.window.begin);
  keys.windowed = true;
  return keys;
}

// Those that some of the rows [begin, end) sees, begin < end.
inline VisibleKeys visible_keys(const PagedAttentionArgs& args, const QueryRows& rows,
                                std::int64_t begin, std::int64_t end) {
  const VisibleKeys first = visible_keys(args, rows, begin);
  VisibleKeys keys = visible_keys(args, rows, end - 1);
  // what comes between two windows is in one of them: their rows' own keys, at the least
  keys.windowed = keys.windowed || first.windowed;
  if (!keys.windowed) return keys;
  keys.sink_tokens.end = std::max(first.sink_tokens.end, keys.sink_tokens.end);
  keys.window.begin = std::max(first.window.begin, keys.sink_tokens.end);
  keys.window.end = std::max(keys.window.end, keys.window.begin);
  return keys;
}

}  // namespace quire
