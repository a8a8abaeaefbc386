// Which keys a query sees: all, or with a sliding window the last ones and, if wanted, the first.
//
//   position   0 1 2 3 4 5 6 7 8 9        sliding_window 3, num_sink_tokens 2, a query at 8
//              s s         w w w          s: sink tokens   w: its window   9: later, causal
//
// Positions grow along a sequence: so what a query sees are two ranges of its keys even where keys
// have been left out, and those are found by bisection.
//
// Source of the first tokens' name: Xiao et al., "StreamingLLM" (arXiv:2309.17453).
#pragma once

#include <algorithm>
#include <cstdint>

#include "quire/ops/attention/paged_attention.h"

namespace quire {

// Where key `key` of sequence `seq` stands.
inline std::int64_t position_of(const PagedAttentionArgs& args, std::int64_t seq,
                                std::int64_t key) {
  return args.key_positions ? args.key_positions->at(seq, key) : key;
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

// The keys that queries see. The window may begin at any key; where sink tokens come right before
// the window of a query they are taken as part of it.
struct VisibleKeys {
  KeyRange sink_tokens{0, 0};  // from 0 on, none of them in `window`
  KeyRange window{0, 0};       // begin <= end
  bool windowed = false;       // some query does not see all keys of `window` up to its own
};

// Those of row j of a sequence, counted from its first.
inline VisibleKeys visible_keys(const PagedAttentionArgs& args, const QueryRows& rows,
                                std::int64_t j) {
  VisibleKeys keys;
  if (rows.seq_len == 0) return keys;
  const std::int64_t own = rows.key(j);
  keys.window.end = args.causal ? own + 1 : rows.seq_len;
  const std::int64_t position = position_of(args, rows.seq, own);
  // position - (window - 1), written so that a huge window cannot overflow
  if (!args.sliding_window || *args.sliding_window > position) return keys;
  const std::int64_t begin = first_key_from(args, rows, position + 1 - *args.sliding_window);
  const std::int64_t sink_end = first_key_from(args, rows, args.num_sink_tokens);
  if (sink_end >= begin) return keys;
  keys.sink_tokens.end = sink_end;
  keys.window.begin = begin;
  keys.windowed = true;
  return keys;
}

// Those that some of the rows [begin, end) sees, begin < end.
inline VisibleKeys visible_keys(const PagedAttentionArgs& args, const QueryRows& rows,
                                std::int64_t begin, std::int64_t end) {
  const VisibleKeys first = visible_keys(args, rows, begin);
  VisibleKeys keys = visible_keys(args, rows, end - 1);
  // later rows see later keys; what comes between two windows is in one of them
  keys.window.begin = std::max(first.window.begin, keys.sink_tokens.end);
  return keys;
}

}  // namespace quire
