// Which tokens of a batch are whose, for operators that keep a state for each sequence.
#pragma once

#include <optional>
#include <vector>

#include "quire/ops/argument_checker.h"

namespace quire {

// Where the tokens of each of `num_sequences` sequences begin, and where those of the last end, of
// `num_tokens` in all. As cu_seqlens says; without it each has one token, or the only one all.
// Throws ValueError.
inline std::vector<std::int64_t> token_spans(const ArgumentChecker& check,
                                             const std::optional<IndexView>& cu_seqlens,
                                             std::int64_t num_tokens, std::int64_t num_sequences) {
  std::vector<std::int64_t> begins;
  if (!cu_seqlens) {
    if (num_sequences != 1 && num_sequences != num_tokens) {
      check.fail<ValueError>("cu_seqlens", "got None with ", counted(num_tokens, "token"), " of ",
                             counted(num_sequences, "sequence"),
                             ", expected where each begins, or a token of each");
    }
    for (std::int64_t i = 0; i <= num_sequences; ++i) {
      begins.push_back(num_sequences == 1 ? i * num_tokens : i);
    }
    return begins;
  }
  check.shape("cu_seqlens", *cu_seqlens, {num_sequences + 1}, "B of state, + 1");
  for (std::int64_t i = 0; i <= num_sequences; ++i) {
    const std::int64_t begin = cu_seqlens->at(i);
    const std::int64_t least = begins.empty() ? 0 : begins.back();
    const std::int64_t most = i == 0 ? 0 : num_tokens;
    if (begin < least || begin > most || (i == num_sequences && begin != num_tokens)) {
      check.fail<ValueError>("cu_seqlens", "got ", begin, " at ", i, ", expected 0 to ", num_tokens,
                             ", T, never falling");
    }
    begins.push_back(begin);
  }
  return begins;
}

}  // namespace quire
