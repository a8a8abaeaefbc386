// A long call that somebody wants to end before it is done, with Ctrl-C for one.
//
// Whoever calls says how to find out, for all calls that this thread makes meanwhile:
//
//   const Interruptible interruptible(&stop_is_asked_for);
//   paged_attention(...);
//
// The call then asks every kLookInterval or so, on this thread and with whatever locks it holds. As
// soon as the answer is true it ends, on all of its threads, by throwing Interrupted. As with all
// that throws, pools, tables and caches are then as they were; arrays that the caller gave may be
// half written. A thread without an Interruptible makes calls that nothing interrupts.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "quire/base/check.h"
#include "quire/base/is_interrupted.h"

namespace quire {

// The call was ended before it was done, as it was asked to.
class Interrupted : public Error {
 public:
  using Error::Error;
};

inline constexpr std::chrono::milliseconds kLookInterval{50};

class Interruptible {
 public:
  // Called by the thread that makes this, once a call has taken kLookInterval or longer.
  using StopIsAskedFor = bool (*)();

  explicit Interruptible(StopIsAskedFor stop_is_asked_for);
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  friend bool is_interrupted(bool has_waited);
  friend void confirm_uninterrupted();
  bool look(bool has_waited);

  const StopIsAskedFor stop_is_asked_for_;
  Interruptible* const outer_;
  const bool outer_asks_;
  std::atomic<bool> is_stopped_{false};  // for good
  bool has_begun_ = false;               // this and the next are its own thread's
  std::chrono::steady_clock::time_point next_look_;
};

// Throws Interrupted where the call is to end, as is_interrupted() says.
void check_interruption(bool has_waited = false);

// Throws Interrupted where is_interrupted() has been true already; asks nobody.
void confirm_uninterrupted();

// Whether there is an Interruptible that this thread asks itself, and whether it is just doing so:
// then calls come from inside of another.
bool can_be_interrupted();
bool is_looking();

// For a thread that works for another's call: what interrupts that interrupts this.
class WorksForCall {
 public:
  // What interrupts the calls of this thread, or null.
  static Interruptible* current();

  // Null: nothing interrupts this thread as long as this lives.
  explicit WorksForCall(Interruptible* call);
  ~WorksForCall();
  WorksForCall(const WorksForCall&) = delete;
  WorksForCall& operator=(const WorksForCall&) = delete;

 private:
  Interruptible* const former_;
  const bool asked_;
};

// For steps that are done as a whole or not at all.
class Uninterrupted {
 private:
  const WorksForCall nobody_{nullptr};
};

// Returns when ready(), as changed.wait(lock, ready) does. Throws Interrupted, with the lock held.
template <class Ready>
void wait_interruptibly(std::condition_variable& changed, std::unique_lock<std::mutex>& lock,
                        Ready ready) {
  if (!can_be_interrupted()) return changed.wait(lock, ready);
  while (!changed.wait_for(lock, kLookInterval, ready)) {
    lock.unlock();
    const bool ends = is_interrupted(true);
    lock.lock();
    if (ends) confirm_uninterrupted();
  }
}

}  // namespace quire
