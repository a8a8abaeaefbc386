#include "quire/ops/rotary/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "quire/ops/argument_checker.h"

namespace quire {
namespace {

void require_at_least(const ArgumentChecker& check, std::string_view argument, double value,
                      double least) {
  if (std::isfinite(value) && value >= least) return;
  check.fail<ValueError>(argument, "got ", value, ", expected a finite number >= ", least);
}

void require_positive(const ArgumentChecker& check, std::string_view argument, double value) {
  if (std::isfinite(value) && value > 0) return;
  check.fail<ValueError>(argument, "got ", value, ", expected a finite number > 0");
}

void check_options(const ArgumentChecker& check, const RopeFrequencyOptions& options) {
  const std::int64_t least = options.scaling == RopeScaling::dynamic ? 4 : 2;
  constexpr std::int64_t kMost = 1 << 20;  // more than any head, and soon computed
  if (options.rotary_dim < least || options.rotary_dim > kMost || options.rotary_dim % 2 != 0) {
    check.fail<ValueError>("rotary_dim", "got ", options.rotary_dim,
                           ", expected an even number from ", least, " to ", kMost);
  }
  require_at_least(check, "rope_theta", options.theta, 1);
  require_at_least(check, "factor", options.factor, 1);
  const bool has_context =
      options.scaling != RopeScaling::none && options.scaling != RopeScaling::linear;
  if (has_context && options.original_max_positions.value_or(0) < 1) {
    check.fail<ValueError>(
        "original_max_position_embeddings", "got ",
        options.original_max_positions ? std::to_string(*options.original_max_positions) : "None",
        ", expected a number >= 1, as this rope_type needs it");
  }
  if (options.seq_len < 0) {
    check.fail<ValueError>("seq_len", "got ", options.seq_len, ", expected >= 0");
  }
  if (options.scaling == RopeScaling::yarn) {
    require_positive(check, "beta_slow", options.beta_slow);
    require_at_least(check, "beta_fast", options.beta_fast, options.beta_slow);
    if (options.theta == 1) {
      check.fail<ValueError>("rope_theta", "got 1, expected > 1, as yarn needs wavelengths");
    }
  }
  if (options.scaling == RopeScaling::llama3) {
    require_positive(check, "low_freq_factor", options.low_freq_factor);
    if (!(options.high_freq_factor > options.low_freq_factor)) {
      check.fail<ValueError>("high_freq_factor", "got ", options.high_freq_factor,
                             ", expected more than low_freq_factor, ", options.low_freq_factor);
    }
  }
}

// Of scalings that need it: where it is left out, these are refused before.
double original_context(const RopeFrequencyOptions& options) {
  return static_cast<double>(options.original_max_positions.value_or(1));
}

// The pair that turns so many times in the original context, as a number between pairs.
double pair_of_turns(const RopeFrequencyOptions& options, double turns) {
  const double context = original_context(options);
  return static_cast<double>(options.rotary_dim) *
         std::log(context / (turns * 2 * std::numbers::pi)) / (2 * std::log(options.theta));
}

class YarnMixture {
 public:
  explicit YarnMixture(const RopeFrequencyOptions& options)
      : first_(pair_of_turns(options, options.beta_fast)),
        last_(pair_of_turns(options, options.beta_slow)) {
    if (options.truncate) {
      first_ = std::floor(first_);
      last_ = std::ceil(last_);
    }
    first_ = std::max(first_, 0.0);
    last_ = std::min(last_, static_cast<double>(options.rotary_dim - 1));
    if (first_ == last_) last_ += 0.001;  // as transformers does
  }

  // 0: the frequency stays, 1: it is divided.
  double divided(std::int64_t pair) const {
    return std::clamp((static_cast<double>(pair) - first_) / (last_ - first_), 0.0, 1.0);
  }

 private:
  double first_, last_;
};

double yarn_attention_factor(const RopeFrequencyOptions& options) {
  if (options.attention_factor) return *options.attention_factor;
  const auto of = [&](double mscale) {
    return options.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(options.factor) + 1;
  };
  const double mscale = options.mscale.value_or(0);
  const double of_all = options.mscale_all_dim.value_or(0);
  return mscale != 0 && of_all != 0 ? of(mscale) / of(of_all) : of(1);
}

double llama3_frequency(const RopeFrequencyOptions& options, double frequency) {
  const double turns = original_context(options) * frequency / (2 * std::numbers::pi);
  const double kept = std::clamp(
      (turns - options.low_freq_factor) / (options.high_freq_factor - options.low_freq_factor), 0.0,
      1.0);
  return (1 - kept) * frequency / options.factor + kept * frequency;
}

// theta, or dynamic's for a longer sequence.
double base_of(const RopeFrequencyOptions& options) {
  if (options.scaling != RopeScaling::dynamic) return options.theta;
  const double context = original_context(options);
  const double length = std::max(context, static_cast<double>(options.seq_len));
  const auto dim = static_cast<double>(options.rotary_dim);
  return options.theta *
         std::pow(options.factor * length / context - (options.factor - 1), dim / (dim - 2));
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeFrequencyOptions& options, std::string_view function) {
  const ArgumentChecker check(function);
  check_options(check, options);
  std::optional<YarnMixture> yarn;
  if (options.scaling == RopeScaling::yarn) yarn.emplace(options);
  const double base = base_of(options);
  RopeFrequencies result{{}, 1.0};
  if (yarn) result.attention_factor = yarn_attention_factor(options);
  if (!std::isfinite(result.attention_factor)) {
    check.fail<ValueError>("attention_factor", "got ", result.attention_factor,
                           ", expected a finite number");
  }
  result.inv_freq.reserve(static_cast<std::size_t>(options.rotary_dim / 2));
  for (std::int64_t pair = 0; pair < options.rotary_dim / 2; ++pair) {
    const double power = 2 * static_cast<double>(pair) / static_cast<double>(options.rotary_dim);
    double frequency = std::pow(base, -power);
    if (options.scaling == RopeScaling::linear) frequency /= options.factor;
    if (options.scaling == RopeScaling::llama3) frequency = llama3_frequency(options, frequency);
    if (yarn) {
      const double divided = yarn->divided(pair);
      frequency = frequency / options.factor * divided + frequency * (1 - divided);
    }
    result.inv_freq.push_back(static_cast<float>(frequency));
  }
  return result;
}

RopeScaling rope_scaling_from_name(std::string_view name, std::string_view place) {
  if (name == "default") return RopeScaling::none;
  if (name == "linear") return RopeScaling::linear;
  if (name == "dynamic") return RopeScaling::dynamic;
  if (name == "yarn") return RopeScaling::yarn;
  if (name == "llama3") return RopeScaling::llama3;
  raise<ValueError>(place, "got \"", name,
                    "\", expected \"default\", \"linear\", \"dynamic\", \"yarn\" or \"llama3\"");
}

}  // namespace quire
