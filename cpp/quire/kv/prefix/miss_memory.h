// What a prefix cache remembers of prompts that it does not have, to say why it has none.
//
// It goes by the first block of token ids, as a fingerprint: this is for statistics, and decides
// nothing. The memory is bounded: kRemembered first blocks, of each at most kWays namespaces; what
// was noted longest ago makes room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace quire {

enum class MissReason {
  cold,             // never seen, or not remembered
  short_,           // of no more tokens than a block, so that no whole block can match
  evicted,          // was cached in this namespace, and had to go
  other_namespace,  // is cached in another namespace, and was never in this one
  preempted,        // asked for before, but that table was freed before it was inserted
};

// For one thread at a time. 40 bytes for each remembered block.
class MissMemory {
 public:
  static constexpr std::size_t kRemembered = 1 << 14;
  static constexpr std::size_t kWays = 8;

  MissMemory() : entries_(kRemembered) {}

  // `prefix` is the fingerprint of a first block, `space` that of the namespace.
  void note_cached(std::uint64_t prefix, std::uint64_t space) noexcept {
    note(prefix, space, State::cached, {});
  }
  void note_evicted(std::uint64_t prefix, std::uint64_t space) noexcept {
    note(prefix, space, State::evicted, {});
  }
  // Not found; `lease` lives as long as the table that was given instead.
  void note_asked(std::uint64_t prefix, std::uint64_t space, std::weak_ptr<void> lease) noexcept {
    note(prefix, space, State::asked, std::move(lease));
  }

  // Why a prompt that begins so is not there. Never short_.
  MissReason reason(std::uint64_t prefix, std::uint64_t space) const;

  void clear() noexcept;

 private:
  enum class State : std::uint32_t { none, asked, cached, evicted };

  struct Entry {
    std::uint64_t prefix = 0;
    std::uint64_t space = 0;
    std::weak_ptr<void> lease;  // only ever asked whether it has expired
    std::uint32_t time = 0;
    State state = State::none;
  };

  Entry* bucket(std::uint64_t prefix) { return &entries_[prefix * kWays % kRemembered]; }
  const Entry* bucket(std::uint64_t prefix) const {
    return &entries_[prefix * kWays % kRemembered];
  }
  void note(std::uint64_t prefix, std::uint64_t space, State state,
            std::weak_ptr<void> lease) noexcept;

  std::vector<Entry> entries_;  // buckets of kWays
  std::uint32_t now_ = 0;
};

}  // namespace quire
