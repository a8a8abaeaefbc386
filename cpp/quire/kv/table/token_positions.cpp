#include "quire/kv/table/token_positions.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "quire/base/check.h"
#include "quire/kv/ledger/block_ledger.h"

namespace quire {

void TokenPositions::begin(std::int64_t num_tokens, std::int64_t next,
                           std::vector<std::int64_t>&& positions) {
  if (next > num_tokens && positions.empty()) {
    positions.resize(num_tokens);
    std::iota(positions.begin(), positions.end(), std::int64_t{0});
  }
  num_removed_ = next - num_tokens;
  if (num_removed_ > 0) {
    listed_ = std::move(positions);
  } else {
    listed_.clear();
  }
}

std::int64_t TokenPositions::token_from(std::int64_t position, std::int64_t num_tokens) const {
  if (listed_.empty()) return std::clamp<std::int64_t>(position, 0, num_tokens);
  return std::lower_bound(listed_.begin(), listed_.end(), position) - listed_.begin();
}

void TokenPositions::truncate(std::int64_t num_tokens, std::int64_t left) noexcept {
  if (num_removed_ == 0 || left == num_tokens) return;
  num_removed_ = listed_[left] - left;
  listed_.resize(num_removed_ > 0 ? left : 0);
}

void TokenPositions::check(std::int64_t num_tokens) const {
  const auto fail = [](const char* what, std::int64_t got, const auto&... expected) {
    raise<InvariantError>(place("BlockTable.check", what), "got ", got, ", expected ", expected...);
  };
  if (num_removed_ < 0) fail("tokens taken out", num_removed_, ">= 0");
  const std::int64_t expected = num_removed_ > 0 ? num_tokens : 0;
  if (std::ssize(listed_) != expected) fail("positions", std::ssize(listed_), expected);
  std::int64_t least = 0;
  for (const std::int64_t position : listed_) {
    if (position < least) fail("position", position, "at least ", least);
    least = position + 1;
  }
  if (least > next(num_tokens)) fail("position", least - 1, "below ", next(num_tokens));
}

}  // namespace quire
