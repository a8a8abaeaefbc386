// The next token of each request of a step, from its row of logits.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "quire/base/array_view.h"
#include "quire/cpu/execution.h"
#include "quire/engine/request.h"

namespace quire {

struct ChosenToken {
  std::int64_t id = 0;
  std::optional<TokenLogprobs> logprobs;  // where the request asks for some
};

// A request whose row of logits there is: its prompt, and its answer so far.
struct Chooser {
  std::int64_t request;  // its number, for messages
  const RequestOptions* options;
  std::span<const std::int64_t> prompt_ids, answer_ids;
};

// logits [L, V] float32, a row for each of L requests, of which each depends on its own row,
// options and tokens alone. Throws ValueError that names the request where its row has no token
// that could be chosen.
std::vector<ChosenToken> choose_tokens(std::span<const Chooser> choosers, const ArrayView& logits,
                                       const Execution& how);

// log softmax of a row, in float64 and in the order of ids: of `chosen`, and of the `count`
// likeliest.
TokenLogprobs logprobs_of(std::span<const float> logits, std::int64_t chosen, std::int64_t count);

}  // namespace quire
