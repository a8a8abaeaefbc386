#include "quire/base/thread_pool.h"

#include "quire/base/float_mode.h"
#include "quire/base/process.h"
#include "quire/base/worker_threads.h"

namespace quire {

struct Workers::Set {
  std::atomic_flag busy;
  WorkerThreads threads;
  HomeProcess home;
};

namespace {

// Never destroyed, so that no exit order can matter.
union Shared {
  constexpr Shared() noexcept : workers() {}
  ~Shared() {}  // NOLINT(modernize-use-equals-default): a default one would be deleted

  Workers workers;
};
constinit Shared shared;

constinit thread_local Workers* own_workers = nullptr;

struct Release {
  std::atomic_flag& busy;
  ~Release() { busy.clear(std::memory_order_release); }
};

}  // namespace

// A forked child has none of its parent's threads, and perhaps a locked mutex: it leaves the
// parent's set alone for good and starts its own.
Workers::Set& Workers::set() {
  Set* set = current_.load(std::memory_order_acquire);
  while (set == nullptr || !set->home.is_here()) {
    auto* const fresh = new Set;
    if (current_.compare_exchange_strong(set, fresh, std::memory_order_acq_rel)) return *fresh;
    delete fresh;
  }
  return *set;
}

Workers::~Workers() {
  const Set* const set = current_.load(std::memory_order_acquire);
  if (set != nullptr && set->home.is_here()) delete set;
}

WorkersScope::WorkersScope(Workers& workers) : former_(own_workers) { own_workers = &workers; }

WorkersScope::~WorkersScope() { own_workers = former_; }

void run_on_threads(const Crew& crew, const std::function<void(int)>& body) {
  if (crew.workers > 1) {
    Workers& workers = own_workers != nullptr ? *own_workers : shared.workers;
    Workers::Set& set = workers.set();
    if (!set.busy.test_and_set(std::memory_order_acquire)) {
      const Release release{set.busy};
      return set.threads.run(crew.workers, crew.wakes, body);
    }
  }
  const DefaultFloatMode mode;
  for (int worker = 0; worker < crew.workers; ++worker) body(worker);
  confirm_uninterrupted();
}

}  // namespace quire
