#include "quire/kv/ledger/pool_mutex.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "quire/kv/prefix/prefix_cache.h"
#include "quire/kv/table/block_table.h"
#include "quire/kv/table/held_tables.h"

namespace quire {
namespace {

// What a child leaves with: 0 where `check` holds, 1 where it does not, 2 where it hangs.
template <class Check>
int in_child(Check check) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // ends it where it hangs
    _exit(check() ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
}

template <class Use>
bool refuses(Use use) {
  try {
    use();
  } catch (const OtherProcess& error) {
    return std::string(error.what()).find("another process") != std::string::npos;
  }
  return false;
}

KvGeometry geometry(DType dtype = DType::float32) {
  return {.num_blocks = 8,
          .block_size = 4,
          .num_kv_heads = 1,
          .head_dim = 2,
          .v_head_dim = 2,
          .dtype = dtype};
}

// A thread that holds a lock until this goes.
class Holder {
 public:
  template <class Mutex>
  explicit Holder(Mutex& mutex)
      : thread_([this, &mutex] {
          const std::lock_guard lock(mutex);
          holds_ = true;
          while (!done_) std::this_thread::yield();
        }) {
    while (!holds_) std::this_thread::yield();
  }
  ~Holder() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> holds_{false}, done_{false};
  std::thread thread_;
};

class PoolMutexTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("QUIRE_EMULATED") != nullptr) GTEST_SKIP() << "qemu does not fork with threads";
  }
};

#if !defined(__SANITIZE_THREAD__)  // which does not follow threads of a forked child
TEST_F(PoolMutexTest, AChildNeverWaitsForALock) {
  PoolMutex mutex;
  CallMutex call_mutex;
  const auto refused = [&] {
    return refuses([&] { const std::lock_guard lock(mutex); }) &&
           refuses([&] { const std::lock_guard lock(call_mutex); }) &&
           refuses([&] { const std::shared_lock lock(call_mutex); });
  };
  EXPECT_EQ(in_child(refused), 0);
  const Holder holder(mutex), call_holder(call_mutex);
  EXPECT_EQ(in_child(refused), 0);
}

TEST_F(PoolMutexTest, AChildRefusesItsParentsPoolAndLeavesIt) {
  for (const DType dtype : {DType::float32, DType::int4}) {
    auto pool = std::make_shared<BlockPool>(geometry(dtype));
    auto table = std::make_unique<BlockTable>(pool);
    if (dtype == DType::float32) table->extend(5);
    auto cache = std::make_unique<PrefixCache>(pool);
    const std::array<std::int64_t, 5> ids = {1, 2, 3, 4, 5};
    if (dtype == DType::float32) cache->insert(ids, *table);
    const BlockTable* const tables[] = {table.get()};
    const auto refused = [&] {
      const bool all =
          refuses([&] { pool->allocate(1); }) && refuses([&] { pool->num_free(); }) &&
          refuses([&] { pool->stats(); }) && refuses([&] { pool->ref_counts(); }) &&
          refuses([&] { pool->check(); }) && refuses([&] { pool->set_listener(nullptr); }) &&
          refuses([&] { pool->resident_blocks(); }) && refuses([&] { pool->cached_blocks(); }) &&
          refuses([&] { BlockTable another(pool); }) && refuses([&] { table->extend(1); }) &&
          refuses([&] { table->fork(); }) && refuses([&] { table->truncate(0); }) &&
          refuses([&] { table->num_tokens(); }) && refuses([&] { table->blocks(); }) &&
          refuses([&] { table->explain(); }) && refuses([&] { table->free(); }) &&
          refuses([&] { table->is_freed(); }) && refuses([&] { table->keep({}); }) &&
          refuses([&] { HeldTables("test", tables); }) &&
          refuses([&] { PrefixCache another(pool); }) && refuses([&] { cache->match(ids); }) &&
          refuses([&] { cache->evict(1); }) && refuses([&] { cache->size(); });
      table->close();
      cache.reset();
      table.reset();
      pool.reset();
      // and has pools of its own
      const auto own = std::make_shared<BlockPool>(geometry());
      BlockTable own_table(own);
      own_table.extend(7);
      return all && own_table.fork()->num_tokens() == 7 && own->num_used() == 2;
    };
    EXPECT_EQ(in_child(refused), 0);
    pool->check();
  }
}

// Whatever the other thread is at when the process forks.
TEST_F(PoolMutexTest, ChildrenOfAParentAtWorkEnd) {
  const auto pool = std::make_shared<BlockPool>(geometry());
  auto table = std::make_unique<BlockTable>(pool);
  auto cache = std::make_unique<PrefixCache>(pool);
  table->extend(6);
  std::atomic<bool> done{false};
  std::thread other([&] {
    const std::array<std::int64_t, 6> ids = {1, 2, 3, 4, 5, 6};
    while (!done) {
      table->extend(9);
      table->truncate(6);
      const auto child = table->fork();
      cache->insert(ids, *child);
      cache->match(ids);
      const PrefixCache another(pool);
      cache->clear();
    }
  });
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(in_child([&] {
                const bool refused = refuses([&] { table->num_tokens(); });
                table.reset();
                cache.reset();
                return refused;
              }),
              0);
  }
  done = true;
  other.join();
  pool->check();
}
#endif

TEST_F(PoolMutexTest, ConcurrentWaitsAreInterrupted) {
  CallMutex mutex;
  const Holder holder(mutex);
  const Interruptible interruptible([] { return true; });
  EXPECT_THROW(mutex.lock(), Interrupted);
  EXPECT_THROW(mutex.lock_shared(), Interrupted);
}

TEST_F(PoolMutexTest, ConcurrentWaitsThatNobodyInterruptsEnd) {
  CallMutex mutex;
  const Interruptible interruptible([] { return false; });
  auto holder = std::make_unique<Holder>(mutex);
  std::thread ends([&] {
    std::this_thread::sleep_for(3 * kLookInterval);
    holder.reset();
  });
  {
    const std::shared_lock lock(mutex);
    const std::shared_lock together(mutex);
  }
  const std::lock_guard lock(mutex);
  ends.join();
}

// As a handler of signals would that used the table it interrupts.
TEST_F(PoolMutexTest, ACallFromInsideOfACallIsRefusedWhatTheOtherHolds) {
  static CallMutex mutex;
  static bool refused_alone, shared;
  const std::shared_lock held(mutex);
  const Interruptible interruptible([] {
    try {
      const std::lock_guard lock(mutex);
    } catch (const Error&) {
      refused_alone = true;
    }
    const std::shared_lock lock(mutex);
    shared = lock.owns_lock();
    return true;
  });
  EXPECT_TRUE(is_interrupted(true));
  EXPECT_TRUE(refused_alone);
  EXPECT_TRUE(shared);
}

}  // namespace
}  // namespace quire
