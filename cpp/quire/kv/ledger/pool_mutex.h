// The locks of a pool and of what belongs to it.
//
// In a forked child they are never waited for: whoever holds one may be a thread that is not there.
// To lock one throws OtherProcess there instead, and by that everything that uses a pool of the
// parent's. What has to go does so without them: destructors look at home() first.
#pragma once

#include <mutex>
#include <shared_mutex>

#include "quire/base/interruption.h"
#include "quire/base/process.h"

namespace quire {

[[noreturn]] void refuse_other_process();

class PoolHome {
 public:
  bool is_here() const { return home_.is_here(); }
  // Throws OtherProcess.
  void require() const {
    if (!home_.is_here()) [[unlikely]]
      refuse_other_process();
  }

 private:
  HomeProcess home_;
};

// Held for a moment, and not while anybody is asked whether a call is to end.
class PoolMutex {
 public:
  void lock() {
    home_.require();
    mutex_.lock();
  }
  void unlock() { mutex_.unlock(); }

 private:
  PoolHome home_;
  std::mutex mutex_;
};

// Held for as long as a call takes, so that to wait for it can be interrupted, and throws then.
class CallMutex {
 public:
  void lock() {
    home_.require();
    if (mutex_.try_lock()) return;
    wait([this] { mutex_.lock(); }, [this](auto time) { return mutex_.try_lock_for(time); });
  }
  void unlock() { mutex_.unlock(); }

  void lock_shared() {
    home_.require();
    if (mutex_.try_lock_shared()) return;
    wait([this] { mutex_.lock_shared(); },
         [this](auto time) { return mutex_.try_lock_shared_for(time); });
  }
  void unlock_shared() { mutex_.unlock_shared(); }

 private:
  template <class Lock, class TryLockFor>
  static void wait(Lock lock, TryLockFor try_lock_for) {
    if (is_looking()) refuse_call_in_call();
    if (!can_be_interrupted()) return lock();
    while (!try_lock_for(kLookInterval)) check_interruption(true);
  }
  // What is asked for may be held by the call that this one was made in, which would never go on.
  [[noreturn]] static void refuse_call_in_call();

  PoolHome home_;
  std::shared_timed_mutex mutex_;
};

}  // namespace quire
