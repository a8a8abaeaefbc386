// What a prefix cache has, told to whoever listens: so that a router can follow it.
//
//   stored    a node is there: these token_ids, after those of its parent. Told again where a hole
//             gets a block, with the same node
//   removed   it has gone, after all below it; its number may be another node's from then on
//
// So who keeps the nodes that were stored and not removed since has the tree as the cache has it. A
// call that finds no room may tell of nodes that it stored and removed. They are told as events of
// the pool are (block_events.h), in one order with each other; a cache that goes tells nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quire/kv/ledger/event_teller.h"

namespace quire {

struct PrefixEvent {
  enum class Kind { stored, removed };

  Kind kind = Kind::stored;
  std::int64_t node = 0;
  std::int64_t parent = -1;          // a node; -1: it is the first of a sequence
  std::optional<std::string> space;  // the namespace, of a first one
  std::int32_t block = -1;           // of the pool; kHole where its rows are not there
  std::vector<std::int64_t> token_ids;
};

class PrefixListener {
 public:
  virtual ~PrefixListener() = default;
  virtual void hear(const PrefixEvent& event) noexcept = 0;
};

// Events that wait for their delivery. Under the pool's lock, but for tell.
class PrefixEvents final : public EventTeller {
 public:
  // Where memory has run out, an event is lost rather than the cache broken.
  template <class Make>
  void add(Make make) noexcept {
    try {
      waiting_.push_back(make());
    } catch (const std::bad_alloc&) {
      return;
    }
  }

  // Who hears of every event from now on; returns who did so far.
  std::shared_ptr<PrefixListener> listen(std::shared_ptr<PrefixListener> listener) noexcept {
    if (listener == nullptr) waiting_.clear();
    listener_.swap(listener);
    return listener;
  }

  bool collect() noexcept override {
    if (waiting_.empty()) return false;
    told_.swap(waiting_);
    hears_ = listener_;
    return true;
  }
  void tell(const PoolHome& home) noexcept override;

 private:
  std::vector<PrefixEvent> waiting_, told_;  // told_ and hears_ are those of who tells
  std::shared_ptr<PrefixListener> listener_, hears_;
};

}  // namespace quire
