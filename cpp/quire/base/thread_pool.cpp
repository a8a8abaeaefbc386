#include "quire/base/thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "quire/base/check.h"
#include "quire/base/float_mode.h"

namespace quire {
namespace {

// How a waiting thread waits before it sleeps: it looks at every turn for some 20 us, then gives
// way to others between looks. A decode loop's calls find the threads awake, each on a core of its
// own (a thread that is woken often starts on its waker's, and waits for it); an idle process costs
// nothing.
constexpr int kSpins = 2000;
constexpr std::chrono::microseconds kLongestWait{2000};

constexpr int kMostThreads = 1024;

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
  const auto end = std::chrono::steady_clock::now() + kLongestWait;
  do {
    sched_yield();
    if (ready()) return true;
  } while (std::chrono::steady_clock::now() < end);
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

// Workers of one round, waiting to be run: `round`, and how many of them nobody has taken yet, in
// one word, so that a thread that wakes late cannot take one of a round that is over.
class Tickets {
 public:
  void open(std::uint32_t workers) {
    const std::uint64_t round = (state_.load(std::memory_order_relaxed) >> 32) + 1;
    state_.store(round << 32 | workers, std::memory_order_release);
  }

  bool any() const {
    return static_cast<std::uint32_t>(state_.load(std::memory_order_acquire)) > 0;
  }

  // The number of a worker, from 1 up; 0 where none is left.
  int take() {
    std::uint64_t state = state_.load(std::memory_order_acquire);
    while (static_cast<std::uint32_t>(state) > 0) {
      if (state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel)) {
        return static_cast<int>(static_cast<std::uint32_t>(state));
      }
    }
    return 0;
  }

 private:
  std::atomic<std::uint64_t> state_{0};
};

// One round of work at a time. The caller starts at once and takes every worker that no thread has
// come for, so that it never waits for a thread to wake up, only for one that has begun. Threads
// never end, and so a pool is never destroyed.
class ThreadPool {
 public:
  // The caller holds the pool (see run_on_threads).
  void run(int num_workers, const std::function<void(int)>& body) {
    start_threads(num_workers - 1);
    body_ = &body;
    failure_ = nullptr;
    finished_workers_.store(0, std::memory_order_relaxed);
    caller_core_.store(sched_getcpu(), std::memory_order_relaxed);
    bool woken;
    {
      const std::lock_guard lock(mutex_);
      tickets_.open(static_cast<std::uint32_t>(num_workers - 1));
      woken = sleepers_ > 0;
    }
    if (woken) {
      wake_.notify_all();
      sched_yield();  // to a thread that has been put on this core: it leaves (serve)
    }
    call_body(0);
    int others = num_workers - 1;
    while (const int worker = tickets_.take()) {
      call_body(worker);
      --others;
    }
    const auto done = [&] { return finished_workers_.load(std::memory_order_acquire) == others; };
    if (!spin_until(done)) {
      std::unique_lock lock(mutex_);
      finished_.wait(lock, done);
    }
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  // As many threads as are wanted, or as the system has: those, and the caller, take all workers.
  void start_threads(int wanted) {
    bool refused = false;
    while (static_cast<int>(threads_.size()) < wanted && !refused) {
      try {
        threads_.emplace_back([this] { serve(); });
      } catch (const std::system_error&) {
        refused = true;
      }
    }
  }

  void call_body(int worker) {
    try {
      const DefaultFloatMode mode;
      (*body_)(worker);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void serve() {
    for (;;) {
      if (!spin_until([&] { return tickets_.any(); })) {
        std::unique_lock lock(mutex_);
        ++sleepers_;
        wake_.wait(lock, [&] { return tickets_.any(); });
        --sleepers_;
      }
      leave_core(caller_core_.load(std::memory_order_relaxed));
      while (const int worker = tickets_.take()) {
        call_body(worker);
        const std::lock_guard lock(mutex_);
        finished_workers_.fetch_add(1, std::memory_order_release);
        finished_.notify_all();
      }
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  Tickets tickets_;
  std::atomic<int> finished_workers_{0};
  std::atomic<int> caller_core_{-1};
  const std::function<void(int)>* body_ = nullptr;
  std::exception_ptr failure_;
  int sleepers_ = 0;
};

struct SharedPool {
  std::atomic_flag busy;
  ThreadPool pool;
  pid_t owner = getpid();
};

// A forked child has none of its parent's threads, and perhaps a locked mutex: it leaves the
// parent's pool alone for good and starts its own. Never destroyed, so that no exit order can
// matter.
SharedPool& shared_pool() {
  static std::atomic<SharedPool*> current{new SharedPool};
  SharedPool* pool = current.load(std::memory_order_acquire);
  if (pool->owner != getpid()) {
    auto* fresh = new SharedPool;
    if (current.compare_exchange_strong(pool, fresh)) return *fresh;
    delete fresh;
  }
  return *pool;
}

struct Release {
  std::atomic_flag& busy;
  ~Release() { busy.clear(std::memory_order_release); }
};

// The number that `text` begins with, at most kMostThreads, and whether it ends there; 0 for none.
std::pair<int, bool> leading_number(const char* text) {
  int value = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc{} || value < 1) return {0, false};
  return {std::min(value, kMostThreads), stop == end};
}

}  // namespace

int default_num_threads() {
  const char* ours = std::getenv("QUIRE_NUM_THREADS");
  if (ours != nullptr && *ours != '\0') {
    const auto [value, whole] = leading_number(ours);
    if (whole) return value;
    raise<ValueError>("QUIRE_NUM_THREADS", "got \"", ours, "\", expected a whole number >= 1");
  }
  // OpenMP's may be a list, a number for each level, and is not ours to refuse
  const char* openmp = std::getenv("OMP_NUM_THREADS");
  if (openmp != nullptr) {
    while (*openmp == ' ') ++openmp;
    if (const int value = leading_number(openmp).first) return value;
  }
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void run_on_threads(int num_workers, const std::function<void(int)>& body) {
  if (num_workers > 1) {
    SharedPool& shared = shared_pool();
    if (!shared.busy.test_and_set(std::memory_order_acquire)) {
      const Release release{shared.busy};
      return shared.pool.run(num_workers, body);
    }
  }
  const DefaultFloatMode mode;
  for (int worker = 0; worker < num_workers; ++worker) body(worker);
}

}  // namespace quire
