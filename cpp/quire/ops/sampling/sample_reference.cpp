#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "quire/ops/float_at.h"
#include "quire/ops/sampling/philox.h"
#include "quire/ops/sampling/sample.h"

namespace quire {
namespace {

// Of one row, whose logits have been adjusted.
std::int64_t chosen(const std::vector<float>& logits, const SampleOptions& options) {
  std::vector<std::int64_t> likeliest(logits.size());
  std::iota(likeliest.begin(), likeliest.end(), 0);
  std::sort(likeliest.begin(), likeliest.end(), [&](std::int64_t a, std::int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  const double largest = logits[likeliest[0]];
  if (options.temperature == 0) return likeliest[0];
  const auto power = [&](std::int64_t id) {
    return std::exp((logits[id] - largest) / options.temperature);
  };

  const auto size = static_cast<std::int64_t>(likeliest.size());
  if (options.top_k > 0 && options.top_k < size) {
    const float last = logits[likeliest[options.top_k - 1]];
    std::erase_if(likeliest, [&](std::int64_t id) { return logits[id] < last; });
  }
  double whole = 0;
  for (const std::int64_t id : likeliest) whole += power(id);
  double before = 0;
  std::vector<std::int64_t> left;
  for (const std::int64_t id : likeliest) {
    if (before >= options.top_p * whole) break;
    before += power(id);
    if (power(id) >= options.min_p) left.push_back(id);
  }

  std::sort(left.begin(), left.end());
  double sum = 0;
  for (const std::int64_t id : left) sum += power(id);
  const double wanted = uniform_at(options.seed, options.position) * sum;
  double so_far = 0;
  for (const std::int64_t id : left) {
    so_far += power(id);
    if (so_far > wanted) return id;
  }
  return left.back();
}

}  // namespace

std::vector<std::int64_t> reference_sample(const SampleArgs& args) {
  std::vector<std::int64_t> tokens;
  for (std::int64_t row = 0; row < args.logits.shape[0]; ++row) {
    std::vector<float> logits;
    logits.reserve(static_cast<std::size_t>(args.logits.shape[1]));
    for (std::int64_t id = 0; id < args.logits.shape[1]; ++id) {
      logits.push_back(static_cast<float>(float_at(args.logits.at(row), args.logits.dtype, id)));
    }
    adjust_logits(args, row, logits.data());
    tokens.push_back(chosen(logits, args.options[static_cast<std::size_t>(row)]));
  }
  return tokens;
}

}  // namespace quire
