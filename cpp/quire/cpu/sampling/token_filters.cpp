#include "quire/cpu/sampling/token_filters.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace quire {
namespace {

// Of a distance's bits: its exponent and the first 6 of its mantissa. The last is infinity's.
constexpr int kShift = 17;
constexpr std::int64_t kBuckets = (0x7f800000 >> kShift) + 1;

}  // namespace

TokenFilters::TokenFilters(const float* logits, std::int64_t count, float largest, float* powers)
    : logits_(logits),
      count_(count),
      largest_(largest),
      powers_(powers),
      least_(-std::numeric_limits<float>::max()),
      counts_(kBuckets),
      masses_(kBuckets) {
  for (std::int64_t id = 0; id < count; ++id) {
    const auto bucket = static_cast<std::size_t>(bucket_of(logits[id]));
    ++counts_[bucket];
    masses_[bucket] += static_cast<double>(powers[id]);
  }
}

// A distance may be rounded, but never so that of two logits the larger has the larger one.
std::int64_t TokenFilters::bucket_of(float logit) const {
  return std::bit_cast<std::uint32_t>(largest_ - logit) >> kShift;
}

void TokenFilters::collect(std::int64_t bucket) {
  tokens_.clear();
  for (std::int64_t id = 0; id < count_; ++id) {
    if (logits_[id] < least_ || bucket_of(logits_[id]) != bucket) continue;
    tokens_.push_back({logits_[id], static_cast<std::int32_t>(id)});
  }
}

double TokenFilters::mass_of(std::size_t begin, std::size_t end) const {
  double mass = 0;
  for (std::size_t i = begin; i < end; ++i) mass += static_cast<double>(powers_[tokens_[i].id]);
  return mass;
}

void TokenFilters::keep_largest(std::int64_t k) {
  std::int64_t before = 0;
  std::int64_t bucket = 0;
  // tokens that are out, in the last bucket, are nobody's k-th
  while (bucket < kBuckets - 1 && before + counts_[static_cast<std::size_t>(bucket)] < k) {
    before += counts_[static_cast<std::size_t>(bucket++)];
  }
  if (bucket == kBuckets - 1) return;  // there are fewer than k
  collect(bucket);
  const auto last = tokens_.begin() + (k - before - 1);
  std::nth_element(tokens_.begin(), last, tokens_.end());
  least_ = last->logit;

  masses_[static_cast<std::size_t>(bucket)] = 0;
  for (const Token& token : tokens_) {
    if (token.logit < least_) continue;
    masses_[static_cast<std::size_t>(bucket)] += static_cast<double>(powers_[token.id]);
  }
  std::fill(masses_.begin() + bucket + 1, masses_.end(), 0.0);
}

void TokenFilters::keep_likeliest(double part) {
  double whole = 0;
  std::int64_t last = 0;  // of those that have some
  for (std::int64_t bucket = 0; bucket < kBuckets; ++bucket) {
    const double mass = masses_[static_cast<std::size_t>(bucket)];
    whole += mass;
    if (mass > 0) last = bucket;
  }
  double wanted = part * whole;
  std::int64_t bucket = 0;
  while (bucket < last && masses_[static_cast<std::size_t>(bucket)] < wanted) {
    wanted -= masses_[static_cast<std::size_t>(bucket++)];
  }
  collect(bucket);
  const std::size_t kept = likeliest_that_reach(wanted);
  least_ = tokens_[kept - 1].logit;
  for (std::size_t i = kept; i < tokens_.size(); ++i) {
    if (tokens_[i].logit == least_) powers_[tokens_[i].id] = 0;
  }
}

// How many: tokens_ has them first. Halves whose mass decides on which side the border lies, and a
// sorted rest.
std::size_t TokenFilters::likeliest_that_reach(double wanted) {
  constexpr std::size_t kFew = 32;
  const auto at = [&](std::size_t i) { return tokens_.begin() + static_cast<std::ptrdiff_t>(i); };
  std::size_t begin = 0, end = tokens_.size();
  while (end - begin > kFew) {
    const std::size_t middle = begin + (end - begin) / 2;
    std::nth_element(at(begin), at(middle), at(end));
    const double mass = mass_of(begin, middle);
    if (mass < wanted) {
      wanted -= mass;
      begin = middle;
    } else {
      end = middle;
    }
  }
  std::sort(at(begin), at(end));
  std::size_t kept = begin;
  do {
    wanted -= static_cast<double>(powers_[tokens_[kept++].id]);
  } while (kept < end && wanted > 0);
  return kept;
}

}  // namespace quire
