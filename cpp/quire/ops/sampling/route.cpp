#include "quire/ops/sampling/route.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "quire/base/float_mode.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/argument_checker.h"
#include "quire/ops/float_at.h"

namespace quire {
namespace {

constexpr std::int64_t kLogitsOfOne = 1 << 11;  // some 20 us
constexpr std::int64_t kLogitsAtOnce = 1 << 12;

void check_finite(const ArgumentChecker& check, std::string_view argument, double number,
                  std::string_view place) {
  if (std::isfinite(number)) return;
  check.fail<ValueError>(argument, "got ", number, " at ", place, ", expected finite numbers");
}

void check_route(const RouteArgs& args, std::string_view function) {
  const ArgumentChecker check(function);
  const Length tokens = args.logits.ndim == 2 ? Length(args.logits.shape[0]) : std::nullopt;
  check.array("logits", args.logits, {tokens, std::nullopt}, "T, E");
  check.plain_floats("logits", args.logits);
  const std::int64_t num_experts = args.logits.shape[1];
  if (args.top_k < 1 || args.top_k > num_experts) {
    check.fail<ValueError>("top_k", "got ", args.top_k, ", expected 1 to ", num_experts,
                           ", E of logits");
  }
  const std::int64_t chosen = args.logits.shape[0] * args.top_k;
  check.as_many("weights", args.weights.size(), chosen, "T * top_k");
  check.as_many("experts", args.experts.size(), chosen, "T * top_k");
  const ArrayView weights = contiguous_view(args.weights.data(), DType::float32, {chosen});
  const IndexView experts = contiguous_index_view(args.experts.data(), {chosen});
  check.apart("weights", weights, "logits", args.logits);
  check.apart("experts", experts, "logits", args.logits);
  check.apart("experts", experts, "weights", weights);
  if (args.bias) {
    check.apart("weights", weights, "bias", *args.bias);
    check.apart("experts", experts, "bias", *args.bias);
    check.array("bias", *args.bias, {num_experts}, "E of logits");
    check.plain_floats("bias", *args.bias);
    for (std::int64_t i = 0; i < num_experts; ++i) {
      check_finite(check, "bias", float_at(args.bias->data, args.bias->dtype, i), concat(i));
    }
  }
  for (std::int64_t token = 0; token < args.logits.shape[0]; ++token) {
    for (std::int64_t i = 0; i < num_experts; ++i) {
      const double number = float_at(args.logits.at(token), args.logits.dtype, i);
      if (!std::isfinite(number)) {
        check_finite(check, "logits", number, concat("[", token, ", ", i, "]"));
      }
    }
  }
}

// What a thread needs for one token.
struct Experts {
  std::vector<double> scores, ranks;
  std::vector<std::int32_t> ids;
};

void route_token(const RouteArgs& args, std::int64_t token, Experts& experts) {
  const std::int64_t num_experts = args.logits.shape[1];
  auto& [scores, ranks, ids] = experts;
  scores.resize(static_cast<std::size_t>(num_experts));
  for (std::int64_t i = 0; i < num_experts; ++i) {
    scores[i] = float_at(args.logits.at(token), args.logits.dtype, i);
  }
  if (args.scoring == RouteScoring::softmax) {
    const double largest = *std::max_element(scores.begin(), scores.end());
    for (double& score : scores) score = std::exp(score - largest);
    const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
    for (double& score : scores) score /= sum;
  } else {
    for (double& score : scores) score = 1 / (1 + std::exp(-score));
  }
  ranks = scores;
  for (std::int64_t i = 0; args.bias && i < num_experts; ++i) {
    ranks[i] += float_at(args.bias->data, args.bias->dtype, i);
  }
  ids.resize(scores.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + args.top_k, ids.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      return ranks[a] != ranks[b] ? ranks[a] > ranks[b] : a < b;
                    });
  double sum = 1;
  if (args.renormalise) {
    sum = 0;
    for (std::int64_t i = 0; i < args.top_k; ++i) sum += scores[ids[i]];
  }
  for (std::int64_t i = 0; i < args.top_k; ++i) {
    // where all that were chosen are 0 in float64, they count alike
    const double weight = sum == 0 ? 1 / static_cast<double>(args.top_k) : scores[ids[i]] / sum;
    args.weights[token * args.top_k + i] = static_cast<float>(weight);
    args.experts[token * args.top_k + i] = ids[i];
  }
}

}  // namespace

void route(const RouteArgs& args, int num_threads, std::string_view function) {
  const DefaultFloatMode mode;
  check_route(args, function);
  const std::int64_t num_tokens = args.logits.shape[0];
  const std::int64_t at_once = std::max<std::int64_t>(1, kLogitsAtOnce / args.logits.shape[1]);
  const std::int64_t items = (num_tokens + at_once - 1) / at_once;
  const Crew crew = crew_for(num_tokens * args.logits.shape[1], kLogitsOfOne, items, num_threads);
  std::vector<Experts> of_workers(static_cast<std::size_t>(crew.workers));
  deal(crew, items, [&](std::int64_t item, int worker) {
    const std::int64_t end = std::min(num_tokens, (item + 1) * at_once);
    for (std::int64_t token = item * at_once; token < end; ++token) {
      route_token(args, token, of_workers[static_cast<std::size_t>(worker)]);
    }
  });
}

RouteScoring route_scoring_from_name(std::string_view name, std::string_view place) {
  if (name == "softmax") return RouteScoring::softmax;
  if (name == "sigmoid") return RouteScoring::sigmoid;
  raise<ValueError>(place, "got \"", name, "\", expected \"softmax\" or \"sigmoid\"");
}

}  // namespace quire
