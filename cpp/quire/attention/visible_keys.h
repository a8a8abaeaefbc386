// Which keys a query sees: all, or with a sliding window the last ones and, if wanted, the first.
//
//   position   0 1 2 3 4 5 6 7 8 9        sliding_window 3, num_sink_tokens 2, a query at 8
//              s s         w w w          s: sink tokens   w: its window   9: later, causal
//
// Source of the first tokens' name: Xiao et al., "StreamingLLM" (arXiv:2309.17453).
#pragma once

#include <algorithm>
#include <cstdint>

#include "quire/attention/paged_attention.h"

namespace quire {

// The keys that queries see. The window may begin at any key; where sink tokens come right before
// the window of a query they are taken as part of it.
struct VisibleKeys {
  KeyRange sink_tokens{0, 0};  // from 0 on, none of them in `window`
  KeyRange window{0, 0};       // begin <= end
  bool windowed = false;       // some query does not see all keys of `window` up to its own
};

// Those of the query at `position`.
inline VisibleKeys visible_keys(const PagedAttentionArgs& args, std::int64_t position,
                                std::int64_t seq_len) {
  VisibleKeys keys;
  keys.window.end =
      std::max<std::int64_t>(0, args.causal ? std::min(position + 1, seq_len) : seq_len);
  // position - (window - 1), written so that a huge window cannot overflow
  if (!args.sliding_window || *args.sliding_window > position) return keys;
  keys.window.begin = position + 1 - *args.sliding_window;
  if (args.num_sink_tokens >= keys.window.begin) {
    keys.window.begin = 0;
  } else {
    keys.sink_tokens.end = args.num_sink_tokens;
    keys.windowed = true;
  }
  return keys;
}

// Those that some row of [begin, end) of a sequence sees, begin < end; its rows are counted from 0.
inline VisibleKeys visible_keys(const PagedAttentionArgs& args, const QueryRows& rows,
                                std::int64_t begin, std::int64_t end) {
  const VisibleKeys first = visible_keys(args, rows.position(begin), rows.seq_len);
  VisibleKeys keys = visible_keys(args, rows.position(end - 1), rows.seq_len);
  // later rows see later keys; what comes between two windows is in one of them
  keys.window.begin = std::max(first.window.begin, keys.sink_tokens.end);
  return keys;
}

}  // namespace quire
