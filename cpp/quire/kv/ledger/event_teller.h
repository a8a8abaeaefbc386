// Somebody else whose events are told in the deliveries of a pool: after the locks, in order.
#pragma once

#include "quire/kv/ledger/pool_mutex.h"

namespace quire {

class EventTeller {
 public:
  virtual ~EventTeller() = default;
  // Takes what waits, to tell it next; false where nothing does. Under the pool's lock.
  virtual bool collect() noexcept = 0;
  // Tells what was collected, in the pool's process alone. Under no lock, one thread at a time.
  virtual void tell(const PoolHome& home) noexcept = 0;

 protected:
  EventTeller() = default;
  EventTeller(const EventTeller&) = delete;
  EventTeller& operator=(const EventTeller&) = delete;
};

}  // namespace quire
