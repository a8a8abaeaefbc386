#include "quire/base/worker_threads.h"

#include <sched.h>

#include <system_error>

#include "quire/base/float_mode.h"
#include "quire/base/interruption.h"
#include "quire/base/process.h"

namespace quire {
namespace {

using Clock = std::chrono::steady_clock;

// How a waiting thread waits before it sleeps: it looks at every turn for some 20 us, then gives
// way to others between looks. A decode loop's calls find the threads awake, each on a core of its
// own (a thread that is woken often starts on its waker's, and waits for it); an idle process costs
// nothing.
constexpr int kSpins = 2000;
constexpr std::chrono::microseconds kLongestWait{2000};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True once `ready()` holds; false when it did not within kLongestWait.
template <class Ready>
bool spin_until(Ready ready) {
  for (int i = 0; i < kSpins; ++i) {
    if (ready()) return true;
    relax();
  }
  const auto end = Clock::now() + kLongestWait;
  do {
    sched_yield();
    if (ready()) return true;
  } while (Clock::now() < end);
  return false;
}

// Moves the calling thread off `core`, to another that it may run on. A thread that is woken often
// starts on its waker's core, and would wait there until the waker is done.
void leave_core(int core) {
  cpu_set_t allowed;
  if (core < 0 || core >= CPU_SETSIZE || sched_getcpu() != core) return;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
  cpu_set_t others = allowed;
  CPU_CLR(static_cast<std::size_t>(core), &others);
  if (sched_setaffinity(0, sizeof others, &others) == 0) {
    sched_setaffinity(0, sizeof allowed, &allowed);
  }
}

}  // namespace

int WorkerThreads::Tickets::take() {
  std::uint64_t state = state_.load(std::memory_order_acquire);
  while (static_cast<std::uint32_t>(state) > 0) {
    if (state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel)) {
      return static_cast<int>(static_cast<std::uint32_t>(state));
    }
  }
  return 0;
}

WorkerThreads::~WorkerThreads() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerThreads::run(int num_workers, bool wakes, const std::function<void(int)>& body) {
  const HomeProcess home;
  wakes = wakes || Clock::now() - last_end_ < kLongestWait;
  if (wakes) start_threads(num_workers - 1);
  body_ = &body;
  call_ = WorksForCall::current();
  has_failed_.clear(std::memory_order_relaxed);
  failure_ = nullptr;
  finished_workers_.store(0, std::memory_order_relaxed);
  caller_core_.store(sched_getcpu(), std::memory_order_relaxed);
  bool has_sleepers;
  {
    const std::lock_guard lock(mutex_);
    tickets_.open(static_cast<std::uint32_t>(num_workers - 1));
    has_sleepers = sleepers_ > 0;
  }
  if (wakes && has_sleepers) {
    wake_.notify_all();
    sched_yield();  // to a thread that has been put on this core: it leaves (serve)
  }
  call_body(0);
  int others = num_workers - 1;
  while (const int worker = tickets_.take()) {
    call_body(worker);
    --others;
  }
  wait_for(others, home);
  last_end_ = Clock::now();
  if (failure_) std::rethrow_exception(failure_);
  confirm_uninterrupted();
}

// Also where the call is interrupted, as the others use what is the caller's. But whoever is asked
// whether to stop may fork: the child would wait for threads that it has not.
void WorkerThreads::wait_for(int others, const HomeProcess& home) {
  const auto done = [&] {
    return finished_workers_.load(std::memory_order_acquire) == others || !home.is_here();
  };
  if (!spin_until(done)) {
    std::unique_lock lock(mutex_);
    while (!done()) {
      if (!can_be_interrupted()) {
        finished_.wait(lock, done);
      } else if (!finished_.wait_for(lock, kLookInterval, done)) {
        lock.unlock();
        is_interrupted(true);  // which tells the others
        if (!home.is_here()) break;
        lock.lock();
      }
    }
  }
  if (home.is_here()) return;
  throw OtherProcess(
      "run_on_threads: process: got one that was forked meanwhile, expected the one "
      "that began");
}

// As many threads as are wanted, or as the system has: those, and the caller, take all workers.
void WorkerThreads::start_threads(int wanted) {
  bool refused = false;
  while (static_cast<int>(threads_.size()) < wanted && !refused) {
    try {
      threads_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {
      refused = true;
    }
  }
}

void WorkerThreads::call_body(int worker) {
  try {
    const DefaultFloatMode mode;
    (*body_)(worker);
  } catch (...) {
    if (!has_failed_.test_and_set(std::memory_order_relaxed)) failure_ = std::current_exception();
  }
}

void WorkerThreads::serve() {
  const auto is_wanted = [this] { return tickets_.any() || ends_; };
  for (;;) {
    if (!spin_until(is_wanted)) {
      std::unique_lock lock(mutex_);
      ++sleepers_;
      wake_.wait(lock, is_wanted);
      --sleepers_;
    }
    if (ends_) return;
    leave_core(caller_core_.load(std::memory_order_relaxed));
    while (const int worker = tickets_.take()) {
      {
        const WorksForCall call(call_);
        call_body(worker);
      }
      const std::lock_guard lock(mutex_);
      finished_workers_.fetch_add(1, std::memory_order_release);
      finished_.notify_all();
    }
  }
}

}  // namespace quire
