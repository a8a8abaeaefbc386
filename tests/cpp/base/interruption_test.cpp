#include "quire/base/interruption.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "quire/base/thread_pool.h"

namespace quire {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kLong{20};

std::atomic<bool> stop{false};
std::atomic<int> asked{0};
std::thread::id asked_on;

bool stop_is_asked_for() {
  ++asked;
  asked_on = std::this_thread::get_id();
  return stop;
}

class Interruption : public testing::Test {
 protected:
  Interruption() {
    stop = false;
    asked = 0;
  }
};

// Looks for so long, or until it is interrupted; whether it was.
bool works(Clock::duration time = kLong) {
  const auto end = Clock::now() + time;
  while (Clock::now() < end) {
    if (is_interrupted()) return true;
  }
  return false;
}

TEST_F(Interruption, NothingInterruptsAThreadThatDoesNotSayHow) {
  stop = true;
  EXPECT_FALSE(works(4 * kLookInterval));
  check_interruption();
  EXPECT_EQ(asked, 0);
}

TEST_F(Interruption, IsAskedForNowAndThen) {
  const Interruptible interruptible(&stop_is_asked_for);
  EXPECT_FALSE(works(5 * kLookInterval));
  EXPECT_GE(asked, 1);
  EXPECT_LE(asked, 5);
  confirm_uninterrupted();
  stop = true;
  EXPECT_TRUE(works());
  const int before = asked;
  EXPECT_TRUE(is_interrupted());  // for good
  EXPECT_THROW(check_interruption(), Interrupted);
  EXPECT_THROW(confirm_uninterrupted(), Interrupted);
  EXPECT_EQ(asked, before);
}

TEST_F(Interruption, IsNotAskedForBeforeItIsTime) {
  stop = true;
  const Interruptible interruptible(&stop_is_asked_for);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(is_interrupted());
  EXPECT_EQ(asked, 0);
  EXPECT_TRUE(is_interrupted(true));
}

TEST_F(Interruption, NotWhileSomethingIsDoneAsAWhole) {
  stop = true;
  const Interruptible interruptible(&stop_is_asked_for);
  {
    const Uninterrupted whole;
    EXPECT_FALSE(works(2 * kLookInterval));
  }
  EXPECT_TRUE(works());
}

TEST_F(Interruption, TheOuterOneIsBackAfterTheInner) {
  const Interruptible outer(&stop_is_asked_for);
  {
    stop = true;
    const Interruptible inner(&stop_is_asked_for);
    EXPECT_TRUE(works());
  }
  stop = false;
  EXPECT_FALSE(works(2 * kLookInterval));
}

TEST_F(Interruption, CallsFromInsideOfTheAnswerAreKnown) {
  static bool was_looking, could_be;
  const Interruptible interruptible([] {
    was_looking = is_looking();
    could_be = can_be_interrupted();
    return true;
  });
  EXPECT_TRUE(works());
  EXPECT_TRUE(was_looking);
  EXPECT_FALSE(could_be);
  EXPECT_FALSE(is_looking());
}

// A call from inside of the answer looks as well, and the outer one is looking after that, too.
bool was_looking_after_a_call = false;
bool call_and_go_on() {
  {
    const Interruptible inner(&stop_is_asked_for);
    is_interrupted(true);
  }
  was_looking_after_a_call = is_looking();
  return false;
}

TEST_F(Interruption, ALookInsideOfAnotherLeavesIt) {
  const Interruptible interruptible(&call_and_go_on);
  EXPECT_FALSE(is_interrupted(true));
  EXPECT_EQ(asked, 1);
  EXPECT_TRUE(was_looking_after_a_call);
  EXPECT_FALSE(is_looking());
}

// All threads end, and the one that made the call alone is asked, whoever is still at work.
TEST_F(Interruption, OfAllThreads) {
  for (const int late : {0, 1, 2}) {
    asked = 0;
    stop = false;
    std::atomic<int> ended{0};
    const Interruptible interruptible(&stop_is_asked_for);
    const auto body = [&](int worker) {
      if (late < 2 && worker != late) return;
      stop = true;
      if (works()) ++ended;
      confirm_uninterrupted();
    };
    EXPECT_THROW(run_on_threads(2, body), Interrupted) << late;
    EXPECT_GE(ended, 1) << late;
    EXPECT_GE(asked, 1) << late;
    EXPECT_EQ(asked_on, std::this_thread::get_id()) << late;
  }
  std::atomic<int> runs{0};
  run_on_threads(2, [&](int) { ++runs; });
  EXPECT_EQ(runs, 2);
}

TEST_F(Interruption, OfDealtItemsOnThreads) {
  for (const int workers : {1, 3}) {
    stop = true;
    std::atomic<int> items{0};
    const Interruptible interruptible(&stop_is_asked_for);
    EXPECT_THROW(deal(workers, 1 << 30,
                      [&](std::int64_t, int) {
                        ++items;
                        std::this_thread::sleep_for(std::chrono::milliseconds(1));
                      }),
                 Interrupted);
    EXPECT_LT(items, 1 << 20);
  }
}

TEST_F(Interruption, OfOneThatWaitsForAThread) {
  std::mutex mutex;
  std::condition_variable changed;
  bool ready = false;
  {
    stop = true;
    const Interruptible interruptible(&stop_is_asked_for);
    std::unique_lock lock(mutex);
    EXPECT_THROW(wait_interruptibly(changed, lock, [&] { return ready; }), Interrupted);
    EXPECT_TRUE(lock.owns_lock());
  }
  std::thread other([&] {
    std::this_thread::sleep_for(3 * kLookInterval);
    const std::lock_guard lock(mutex);
    ready = true;
    changed.notify_all();
  });
  stop = false;
  const Interruptible interruptible(&stop_is_asked_for);
  std::unique_lock lock(mutex);
  wait_interruptibly(changed, lock, [&] { return ready; });
  EXPECT_TRUE(ready);
  other.join();
}

}  // namespace
}  // namespace quire
