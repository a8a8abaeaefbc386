// Which process this is: the one that made an object, or one forked from it.
//
// A forked child has a copy of its parent's memory, but of its threads only the one that forked.
// What another was changing stays half changed there, and a lock that another held is never let go
// of. So what threads share remembers its process, and refuses to be used in another.
#pragma once

#include <atomic>
#include <cstdint>

#include "quire/base/check.h"

namespace quire {

// An object was used that belongs to the process this one was forked from. Python: QuireError.
class OtherProcess : public Error {
 public:
  using Error::Error;
};

// Changes in a forked child, before anything there can ask for it. Not where a process is made
// without fork() of the C library.
extern std::atomic<std::uint64_t> process_generation;

// The process that an object was made in; to ask costs a load.
class HomeProcess {
 public:
  bool is_here() const { return generation_ == process_generation.load(std::memory_order_relaxed); }

 private:
  const std::uint64_t generation_ = process_generation.load(std::memory_order_relaxed);
};

// Deletes what other threads change, so that a forked child may have it half changed, only at home.
struct DeleteAtHome {
  HomeProcess home;

  template <class T>
  void operator()(T* object) const {
    if (home.is_here()) delete object;
  }
};

}  // namespace quire
