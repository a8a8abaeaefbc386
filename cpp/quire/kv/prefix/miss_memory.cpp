#include "quire/kv/prefix/miss_memory.h"

#include <algorithm>
#include <utility>

namespace quire {

void MissMemory::note(std::uint64_t prefix, std::uint64_t space, State state,
                      std::weak_ptr<void> lease) noexcept {
  Entry* const begin = bucket(prefix);
  Entry* const end = begin + kWays;
  Entry* entry = std::find_if(begin, end, [&](const Entry& e) {
    return e.state != State::none && e.prefix == prefix && e.space == space;
  });
  if (entry == end) {
    // ages, as times wrap around; an unused entry is older than all
    entry = std::max_element(begin, end, [&](const Entry& a, const Entry& b) {
      if (a.state == State::none || b.state == State::none) return b.state < a.state;
      return now_ - a.time < now_ - b.time;
    });
  }
  *entry = {prefix, space, std::move(lease), now_++, state};
}

MissReason MissMemory::reason(std::uint64_t prefix, std::uint64_t space) const {
  const Entry* const begin = bucket(prefix);
  bool elsewhere = false;
  for (const Entry* entry = begin; entry != begin + kWays; ++entry) {
    if (entry->state == State::none || entry->prefix != prefix) continue;
    if (entry->space != space) {
      elsewhere |= entry->state == State::cached;
    } else if (entry->state == State::evicted) {
      return MissReason::evicted;
    } else if (entry->state == State::asked && entry->lease.expired()) {
      return MissReason::preempted;
    }
  }
  return elsewhere ? MissReason::other_namespace : MissReason::cold;
}

void MissMemory::clear() noexcept { std::fill(entries_.begin(), entries_.end(), Entry()); }

}  // namespace quire
