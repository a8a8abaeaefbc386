// The choice of a next token: its arguments, and the formula.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"

namespace quire {

// How one row's token is chosen.
struct SampleOptions {
  std::int64_t seed = 0, position = 0;
  double temperature = 1.0;         // >= 0; 0: the likeliest token
  std::int64_t top_k = 0;           // >= 0; 0: all
  double top_p = 1.0;               // above 0, at most 1
  double min_p = 0.0;               // 0 to 1
  double repetition_penalty = 1.0;  // above 0
  double presence_penalty = 0.0, frequency_penalty = 0.0;
};

// A row of V logits becomes one token, in these steps:
//
//   1. logit + bias; tokens that the mask does not allow are out.
//   2. Penalties. A logit of a token of prompt_ids or output_ids: x > 0 ? x / repetition_penalty :
//      x * repetition_penalty. Then, of one that output_ids has n > 0 times, x - frequency_penalty
//      * n - presence_penalty. Tokens of prompts count for the first alone.
//   3. temperature 0: the largest, of equals the lowest id. That is the token.
//   4. p = softmax(logits / temperature) of what is left.
//   5. top_k: the k largest stay, and all that equal the last of them.
//   6. top_p: the fewest of the likeliest whose p reach top_p of what is left stay; of equals those
//      of lower ids. At least one does.
//   7. min_p: those of p >= min_p * the largest p stay.
//   8. Of what is left, in the order of ids, the first at which the sum of p exceeds u times their
//      whole sum; u is uniform_at(seed, position) (philox.h).
//
// Steps and their order are those of transformers (its logits processors, in the order in which
// generate() has them) but where it leaves order open, and of vLLM but for min_p, which that
// applies before top_k. Steps 1 to 3 are float32. The token depends on its row and options alone:
// not on the batch, nor on how often a sequence was preempted. Another processor may choose another
// only where u lies within float32's rounding of a border.
struct SampleArgs {
  ArrayView logits;                        // [B, V], plain floats
  std::span<const SampleOptions> options;  // [B]
  std::optional<ArrayView> bias;           // [V] or [B, V], plain floats
  // [B, ceil(V / 32)]: bit i of word j allows token 32 * j + i, as grammars' masks are.
  std::optional<IndexView> mask;
  std::optional<IndexView> prompt_ids, output_ids;  // [B, n], negative ones are padding
  std::span<std::int64_t> out;                      // [B], written
};

// Throws ValueError under the name of `function` for an option out of its range; `row` is told
// where there are several.
void check_sample_options(const SampleOptions& options, std::string_view function,
                          std::optional<std::int64_t> row = std::nullopt);

// Throws ValueError, IndexError or TypeError under the name of `function`.
void check_sample(const SampleArgs& args, std::string_view function = "sample");

// Steps 1 and 2 for a row's logits, V float32s: minus infinity where a token is out.
void adjust_logits(const SampleArgs& args, std::int64_t row, float* logits);

// Where a row has no token that could be chosen, or a logit that is NaN or infinity; says which.
// `logits` are its adjusted ones.
[[noreturn]] void refuse_row(const SampleArgs& args, std::int64_t row, const float* logits,
                             std::string_view function);

// The tokens in float64, of checked arguments.
std::vector<std::int64_t> reference_sample(const SampleArgs& args);

}  // namespace quire
