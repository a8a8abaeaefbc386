#include "quire/cpu/sampling/sample_launch.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <vector>

#include "quire/base/aligned_buffer.h"
#include "quire/base/float_mode.h"
#include "quire/base/lent.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/sampling/token_filters.h"
#include "quire/ops/sampling/philox.h"

namespace quire {
namespace {

constexpr std::int64_t kTokensOfOne = 1 << 15;  // some 20 us

// What each thread keeps from call to call: two numbers for each token of a vocabulary.
struct TokenRoom {
  AlignedBuffer logits, powers;
  std::vector<double> sums;
};

// The first token at which the sum of powers exceeds `part` of all; the last that has a power where
// rounding has left none.
std::int64_t token_at(double part, const float* powers, std::int64_t count,
                      const std::vector<double>& sums) {
  double whole = 0;
  for (const double sum : sums) whole += sum;
  const double wanted = part * whole;
  double so_far = 0;
  std::size_t stretch = 0;
  while (stretch + 1 < sums.size() && so_far + sums[stretch] <= wanted) so_far += sums[stretch++];
  std::int64_t last = -1;
  for (std::int64_t id = static_cast<std::int64_t>(stretch) * kTokensAtOnce; id < count; ++id) {
    if (powers[id] == 0) continue;
    so_far += static_cast<double>(powers[id]);
    last = id;
    if (so_far > wanted) break;
  }
  // nobody is left from there on: the last before
  for (std::int64_t id = count; last < 0; --id) {
    if (powers[id - 1] > 0) last = id - 1;
  }
  return last;
}

class TokenChoice {
 public:
  TokenChoice(const SampleArgs& args, const OperatorKernels& kernels, std::string_view function)
      : args_(args), kernels_(kernels), function_(function) {}

  std::int64_t of_row(std::int64_t row) const {
    const std::int64_t count = args_.logits.shape[1];
    const Lent<TokenRoom> room;
    float* const logits = room->logits.reserve(count);
    kernels_.rows.widen(args_.logits.at(row), args_.logits.dtype, count, 0.0f, logits);
    adjust_logits(args_, row, logits);
    bool is_good = false;
    const float largest = kernels_.sample.largest(logits, count, &is_good);
    if (!is_good || largest == -INFINITY) refuse_row(args_, row, logits, function_);
    const SampleOptions& options = args_.options[static_cast<std::size_t>(row)];
    if (options.temperature == 0) return std::find(logits, logits + count, largest) - logits;

    float* const powers = room->powers.reserve(count);
    const double scale = std::numbers::log2e / options.temperature;
    kernels_.sample.powers(logits, count, largest, as_factor(scale), powers);
    const float least = filter(options, logits, count, largest, powers);
    room->sums.resize(static_cast<std::size_t>((count + kTokensAtOnce - 1) / kTokensAtOnce));
    kernels_.sample.keep(logits, count, least, static_cast<float>(options.min_p), powers,
                         room->sums.data());
    return token_at(uniform_at(options.seed, options.position), powers, count, room->sums);
  }

 private:
  // Neither infinity, times the distance of the largest logit, 0, nor 0, times that of a token that
  // is out, infinity, would be a number.
  static float as_factor(double scale) {
    using Limits = std::numeric_limits<float>;
    return static_cast<float>(
        std::clamp(scale, double{Limits::denorm_min()}, double{Limits::max()}));
  }

  static float filter(const SampleOptions& options, const float* logits, std::int64_t count,
                      float largest, float* powers) {
    const bool by_k = options.top_k > 0 && options.top_k < count;
    const bool by_p = options.top_p < 1;
    if (!by_k && !by_p) return -std::numeric_limits<float>::max();
    TokenFilters filters(logits, count, largest, powers);
    if (by_k) filters.keep_largest(options.top_k);
    if (by_p) filters.keep_likeliest(options.top_p);
    return filters.least_logit();
  }

  const SampleArgs& args_;
  const OperatorKernels& kernels_;
  const std::string_view function_;
};

}  // namespace

void sample(const SampleArgs& args, const Execution& how, std::string_view function) {
  const DefaultFloatMode mode;
  check_sample(args, function);
  const std::int64_t num_rows = args.logits.shape[0];
  const TokenChoice choice(args, *how.kernels->operators, function);
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(num_rows));
  deal(crew_for(num_rows * args.logits.shape[1], kTokensOfOne, num_rows, how.num_threads), num_rows,
       [&](std::int64_t row, int) { tokens[static_cast<std::size_t>(row)] = choice.of_row(row); });
  std::copy(tokens.begin(), tokens.end(), args.out.begin());
}

}  // namespace quire
