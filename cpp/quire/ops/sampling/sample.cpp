#include "quire/ops/sampling/sample.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "quire/base/lent.h"
#include "quire/ops/argument_checker.h"

namespace quire {
namespace {

constexpr float kOut = -std::numeric_limits<float>::infinity();

void check_ids(const ArgumentChecker& check, std::string_view argument, const IndexView& ids,
               const ArrayView& logits) {
  if (ids.ndim != 2 || ids.shape[0] != logits.shape[0]) {
    check.fail<ValueError>(argument, "got shape ", shape_text(ids), ", expected [", logits.shape[0],
                           ", any] (B, padded with negative numbers)");
  }
  for (std::int64_t row = 0; row < ids.shape[0]; ++row) {
    for (std::int64_t i = 0; i < ids.shape[1]; ++i) {
      const std::int64_t id = ids.at(row, i);
      if (id < logits.shape[1]) continue;
      check.fail<IndexError>(argument, "got ", id, " at [", row, ", ", i, "], expected less than ",
                             logits.shape[1], ", V of logits");
    }
  }
}

void add_bias(const ArrayView& bias, std::int64_t row, std::int64_t num_tokens, float* logits) {
  const std::byte* const of_row = bias.ndim == 1 ? bias.data : bias.at(row);
  visit_dtype(bias.dtype, [&](auto type) {
    const auto* const numbers = reinterpret_cast<const decltype(type)*>(of_row);
    for (std::int64_t id = 0; id < num_tokens; ++id) logits[id] += to_float(numbers[id]);
  });
}

void apply_mask(const IndexView& mask, std::int64_t row, std::int64_t num_tokens, float* logits) {
  for (std::int64_t word = 0; word < mask.shape[1]; ++word) {
    const auto allowed = static_cast<std::uint32_t>(mask.at(row, word));
    if (allowed == ~0u) continue;
    const std::int64_t end = std::min<std::int64_t>(32, num_tokens - 32 * word);
    for (std::int64_t bit = 0; bit < end; ++bit) {
      if ((allowed >> bit & 1u) == 0) logits[32 * word + bit] = kOut;
    }
  }
}

// What penalties need of a row. `counts`: how often a token is among the outputs; -1 of one that is
// among the prompt's alone. All are 0 between calls.
struct PenaltyRooms {
  std::vector<std::int32_t> counts;
  std::vector<std::size_t> prompt, outputs;
};

// The ids of a row that name tokens, each read once: a thread that changes them meanwhile changes
// which tokens are penalised, and nothing else.
void read_ids(const std::optional<IndexView>& ids, std::int64_t row, std::int64_t num_tokens,
              std::vector<std::size_t>& to) {
  to.clear();
  if (!ids) return;
  to.reserve(static_cast<std::size_t>(ids->shape[1]));
  for (std::int64_t i = 0; i < ids->shape[1]; ++i) {
    const std::int64_t id = ids->at(row, i);
    if (id >= 0 && id < num_tokens) to.push_back(static_cast<std::size_t>(id));
  }
}

void apply_penalties(const SampleArgs& args, std::int64_t row, float* logits) {
  const SampleOptions& options = args.options[static_cast<std::size_t>(row)];
  const Lent<PenaltyRooms> lent;
  auto& [counts, prompt, outputs] = *lent;
  const std::int64_t num_tokens = args.logits.shape[1];
  if (std::ssize(counts) < num_tokens) counts.resize(static_cast<std::size_t>(num_tokens));
  read_ids(args.prompt_ids, row, num_tokens, prompt);
  read_ids(args.output_ids, row, num_tokens, outputs);
  for (const std::size_t id : prompt) counts[id] = -1;
  for (const std::size_t id : outputs) counts[id] = std::max(counts[id], 0) + 1;
  const auto repetition = static_cast<float>(options.repetition_penalty);
  const auto penalise = [&](std::size_t id) {
    const std::int32_t count = counts[id];
    if (count == 0) return;  // done already
    float& logit = logits[id];
    logit = logit > 0 ? logit / repetition : logit * repetition;
    if (count > 0) {
      logit -= static_cast<float>(options.frequency_penalty) * static_cast<float>(count);
      logit -= static_cast<float>(options.presence_penalty);
    }
    counts[id] = 0;
  };
  for (const std::size_t id : prompt) penalise(id);
  for (const std::size_t id : outputs) penalise(id);
}

}  // namespace

void check_sample_options(const SampleOptions& options, std::string_view function,
                          std::optional<std::int64_t> row) {
  const auto require = [&](std::string_view argument, auto value, bool good,
                           std::string_view expected) {
    if (good) return;
    raise<ValueError>(place(function, argument), "got ", value, row ? concat(" of row ", *row) : "",
                      ", expected ", expected);
  };
  require("temperature", options.temperature,
          std::isfinite(options.temperature) && options.temperature >= 0, "a finite number >= 0");
  require("top_k", options.top_k, options.top_k >= 0, ">= 0, where 0 is all");
  require("top_p", options.top_p, options.top_p > 0 && options.top_p <= 1, "above 0, at most 1");
  require("min_p", options.min_p, options.min_p >= 0 && options.min_p <= 1, "0 to 1");
  // Logits are float32, and penalties of them too.
  const auto in_float32 = [](double penalty) { return static_cast<float>(penalty); };
  const float repetition = in_float32(options.repetition_penalty);
  require("repetition_penalty", options.repetition_penalty,
          std::isfinite(repetition) && repetition > 0, "a finite float32 > 0");
  require("presence_penalty", options.presence_penalty,
          std::isfinite(in_float32(options.presence_penalty)), "a finite float32");
  require("frequency_penalty", options.frequency_penalty,
          std::isfinite(in_float32(options.frequency_penalty)), "a finite float32");
}

void check_sample(const SampleArgs& args, std::string_view function) {
  const ArgumentChecker check(function);
  const Length rows = args.logits.ndim == 2 ? Length(args.logits.shape[0]) : std::nullopt;
  check.array("logits", args.logits, {rows, std::nullopt}, "B, V");
  check.plain_floats("logits", args.logits);
  const std::int64_t num_tokens = args.logits.shape[1];
  if (num_tokens > std::numeric_limits<std::int32_t>::max()) {
    check.fail<ValueError>("logits", "got ", num_tokens, " tokens, expected at most 2^31 - 1");
  }
  check.as_many("options", args.options.size(), args.logits.shape[0], "B of logits");
  check.as_many("out", args.out.size(), args.logits.shape[0], "B of logits");
  for (std::size_t row = 0; row < args.options.size(); ++row) {
    check_sample_options(args.options[row], function, row);
  }
  if (args.bias) {
    if (args.bias->ndim == 1) {
      check.array("bias", *args.bias, {num_tokens}, "V of logits");
    } else {
      check.array("bias", *args.bias, {rows, num_tokens}, "B, V of logits");
    }
    check.plain_floats("bias", *args.bias);
  }
  if (args.mask) {
    check.shape("mask", *args.mask, {rows, (num_tokens + 31) / 32}, "B, V / 32 rounded up");
    if (args.mask->type != IndexType::int32) {
      check.fail<TypeError>("mask", "got int64, expected int32, 32 tokens in each");
    }
  }
  if (args.prompt_ids) check_ids(check, "prompt_ids", *args.prompt_ids, args.logits);
  if (args.output_ids) check_ids(check, "output_ids", *args.output_ids, args.logits);
}

void adjust_logits(const SampleArgs& args, std::int64_t row, float* logits) {
  const std::int64_t num_tokens = args.logits.shape[1];
  if (args.bias) add_bias(*args.bias, row, num_tokens, logits);
  if (args.mask) apply_mask(*args.mask, row, num_tokens, logits);
  if (args.prompt_ids || args.output_ids) apply_penalties(args, row, logits);
}

void refuse_row(const SampleArgs& args, std::int64_t row, const float* logits,
                std::string_view function) {
  const ArgumentChecker check(function);
  for (std::int64_t id = 0; id < args.logits.shape[1]; ++id) {
    if (logits[id] < std::numeric_limits<float>::infinity()) continue;
    check.fail<ValueError>("logits", "got ", logits[id], " at [", row, ", ", id,
                           "], bias and penalties applied, expected finite numbers or -inf");
  }
  check.fail<ValueError>(args.mask ? "mask" : "logits", "got no token that row ", row,
                         " may choose, expected a logit above -inf");
}

}  // namespace quire
