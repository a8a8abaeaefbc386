// The logits of a whole prompt: for comparing models, and texts.
#pragma once

#include <cstdint>
#include <span>

#include "quire/model/loaded_model.h"

namespace quire {

// Writes logits of the next token after each of token_ids [n], to `logits` [n, vocab_size],
// float32; n >= 1. Keys and values are kept in a pool of its own, of model.rows() dtype, that is
// there for the call alone. `max_batch_tokens`: tokens of a forward pass. Throws as forward does,
// under the name of `function`, and ValueError for more tokens than the model has positions.
void prompt_logits(const LoadedModel& model, std::span<const std::int64_t> token_ids,
                   std::int64_t max_batch_tokens, const ArrayView& logits, const Execution& how,
                   std::string_view function = "prompt_logits");

}  // namespace quire
