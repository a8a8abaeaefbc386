// Finds which tokens and which state each sequence has, and refuses what cannot be.
#pragma once

#include <optional>
#include <vector>

#include "quire/ops/argument_checker.h"
#include "quire/ops/recurrent/token_spans.h"

namespace quire {

// The state of each sequence: as state_indices [B] says, else its own number. Throws ValueError,
// and IndexError where there is no such state.
inline std::vector<std::int64_t> states_of_sequences(const ArgumentChecker& check,
                                                     const std::optional<IndexView>& state_indices,
                                                     std::int64_t num_states) {
  std::vector<std::int64_t> states;
  if (!state_indices) {
    for (std::int64_t i = 0; i < num_states; ++i) states.push_back(i);
    return states;
  }
  if (state_indices->ndim != 1) {
    check.fail<ValueError>("state_indices", "got shape ", shape_text(*state_indices),
                           ", expected [B]");
  }
  std::vector<std::int64_t> owners(static_cast<std::size_t>(num_states), -1);
  for (std::int64_t i = 0; i < state_indices->shape[0]; ++i) {
    const std::int64_t index = state_indices->at(i);
    if (index < 0 || index >= num_states) {
      check.fail<IndexError>("state_indices", "got ", index, " at ", i, ", expected 0 to ",
                             num_states - 1);
    }
    std::int64_t& owner = owners[static_cast<std::size_t>(index)];
    if (owner >= 0) {
      check.fail<ValueError>("state_indices", "got ", index, " at ", owner, " and at ", i,
                             ", expected different ones");
    }
    owner = i;
    states.push_back(index);
  }
  return states;
}

// Where the tokens of each of `num_sequences` sequences begin, and where those of the last end, of
// `num_tokens` in all. As cu_seqlens says; without it each has one token, or the only one all.
// Throws ValueError.
inline std::vector<std::int64_t> begins_of_sequences(const ArgumentChecker& check,
                                                     const std::optional<IndexView>& cu_seqlens,
                                                     std::int64_t num_tokens,
                                                     std::int64_t num_sequences) {
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
  check.shape("cu_seqlens", *cu_seqlens, {num_sequences + 1}, "B + 1, a sequence for each state");
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

// Both. Throws as they do.
inline TokenSpans token_spans(const ArgumentChecker& check,
                              const std::optional<IndexView>& cu_seqlens,
                              const std::optional<IndexView>& state_indices,
                              std::int64_t num_tokens, std::int64_t num_states) {
  TokenSpans spans;
  spans.states = states_of_sequences(check, state_indices, num_states);
  spans.begins = begins_of_sequences(check, cu_seqlens, num_tokens, spans.num_sequences());
  return spans;
}

}  // namespace quire
