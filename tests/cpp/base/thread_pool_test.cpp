#include "quire/base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "quire/base/check.h"

namespace quire {
namespace {

TEST(ThreadPool, RunsEachWorkerOnce) {
  for (const int workers : {1, 2, 7, 3, 1, 16}) {
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(workers));
    run_on_threads(workers, [&](int worker) { ++runs[static_cast<std::size_t>(worker)]; });
    for (const auto& count : runs) EXPECT_EQ(count, 1);
  }
}

TEST(ThreadPool, ManyShortRounds) {
  std::vector<int> sums(4, 0);
  for (int round = 0; round < 3000; ++round) {
    run_on_threads(4, [&](int worker) { sums[static_cast<std::size_t>(worker)] += round; });
  }
  for (const int sum : sums) EXPECT_EQ(sum, 2999 * 3000 / 2);
}

TEST(ThreadPool, WorkersSleepAndWakeAgain) {
  std::atomic<int> runs{0};
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    run_on_threads(3, [&](int) { ++runs; });
  }
  EXPECT_EQ(runs, 15);
}

// Whether workers met: were all inside their bodies at the same time.
bool meet(int workers) {
  std::atomic<int> inside{0};
  std::atomic<int> met{0};
  run_on_threads(workers, [&](int) {
    ++inside;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (inside < workers && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    if (inside == workers) ++met;
  });
  return met == workers;
}
bool two_meet() { return meet(2); }

TEST(ThreadPool, WorkersRunAtTheSameTime) {
  EXPECT_TRUE(two_meet());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the thread is asleep
  EXPECT_TRUE(two_meet());
}

TEST(ThreadPool, TheCallerSleepsUntilTheLastWorkerIsDone) {
  std::atomic<bool> begun{false};
  std::atomic<bool> done{false};
  run_on_threads(2, [&](int worker) {
    if (worker == 0) {
      for (int i = 0; i < 10000 && !begun; ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
      return;
    }
    begun = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(30));  // longer than the caller looks
    done = true;
  });
  EXPECT_TRUE(done);
}

TEST(ThreadPool, ThreadsKeepTheirCores) {
  cpu_set_t mine;
  sched_getaffinity(0, sizeof mine, &mine);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> least{CPU_SETSIZE};
    run_on_threads(2, [&](int) {
      cpu_set_t cores;
      sched_getaffinity(0, sizeof cores, &cores);
      if (CPU_COUNT(&cores) < least) least = CPU_COUNT(&cores);
    });
    EXPECT_EQ(least, CPU_COUNT(&mine));
  }
}

TEST(ThreadPool, CallersAtOnceAndNestedCalls) {
  std::atomic<int> runs{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) {
        run_on_threads(3, [&](int) { run_on_threads(2, [&](int) { ++runs; }); });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(runs, 4 * 100 * 3 * 2);
}

// Threads that the bodies of a crew ran on.
std::set<std::thread::id> threads_of(const Crew& crew) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  run_on_threads(crew, [&](int) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  return threads;
}

TEST(ThreadPool, SmallWorkWakesNobody) {
  EXPECT_TRUE(two_meet());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the threads are asleep
  EXPECT_EQ(threads_of({4, false}), std::set{std::this_thread::get_id()});
  EXPECT_TRUE(two_meet());
}

TEST(ThreadPool, SmallWorkWakesThreadsWhereMoreOfItFollows) {
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the threads are asleep
  std::size_t most = 1;
  const auto body = [](int) { std::this_thread::sleep_for(std::chrono::microseconds(100)); };
  for (int round = 0; round < 10000 && most < 2; ++round) {
    run_on_threads({4, false}, body);
    most = std::max(most, threads_of({4, false}).size());
  }
  EXPECT_GE(most, 2u);
}

TEST(ThreadPool, CrewsGrowWithTheWork) {
  const auto crew = [](std::int64_t work, std::int64_t most, int threads) {
    return crew_for(work, std::int64_t{10}, most, threads);
  };
  EXPECT_EQ(crew(0, 5, 8).workers, 1);
  EXPECT_EQ(crew(9, 5, 8).workers, 1);
  EXPECT_EQ(crew(25, 5, 8).workers, 3);
  EXPECT_EQ(crew(1000, 5, 8).workers, 5);
  EXPECT_EQ(crew(1000, 5, 2).workers, 2);
  EXPECT_EQ(crew(1000, 0, 2).workers, 1);
  EXPECT_FALSE(crew(10 * kWorthWaking - 1, 100, 8).wakes);
  EXPECT_TRUE(crew(10 * kWorthWaking, 100, 8).wakes);
  EXPECT_EQ(crew_for(25.0, 10.0, 5, 8).workers, 3);
}

TEST(ThreadPool, TwoCallersWithWorkersOfTheirOwnBothHaveThreads) {
  std::atomic<int> met{0};
  const auto call = [&] {
    Workers workers;
    const WorkersScope scope(workers);
    std::atomic<int> inside{0};
    run_on_threads(2, [&](int) {
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
      // all four are inside of their bodies at once: the second one of each call counts it
      if (++inside == 2) ++met;
      while (met < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    });
  };
  std::thread other(call);
  call();
  other.join();
  EXPECT_EQ(met, 2);
}

TEST(ThreadPool, WorkersOfOnesOwnLeaveTheSharedThreadsToOthers) {
  Workers workers;
  const WorkersScope scope(workers);
  std::atomic<bool> others_meet{false};
  run_on_threads(2, [&](int worker) {
    if (worker == 0) std::thread([&] { others_meet = two_meet(); }).join();
  });
  EXPECT_TRUE(others_meet);
}

TEST(ThreadPool, WorkersOfOnesOwnEndWithTheirThreads) {
  for (int round = 0; round < 50; ++round) {
    Workers workers;
    const WorkersScope scope(workers);
    std::atomic<int> runs{0};
    run_on_threads(3, [&](int) { ++runs; });
    EXPECT_EQ(runs, 3);
    if (round % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));  // asleep
  }
}

TEST(ThreadPool, AnExceptionReachesTheCallerAndLeavesThePoolUsable) {
  for (const int thrower : {0, 1}) {
    EXPECT_THROW(run_on_threads(2,
                                [&](int worker) {
                                  if (worker == thrower) throw std::runtime_error("worker");
                                }),
                 std::runtime_error);
  }
  std::atomic<int> runs{0};
  run_on_threads(2, [&](int) { ++runs; });
  EXPECT_EQ(runs, 2);
}

#if !defined(__SANITIZE_THREAD__)  // which does not follow threads of a forked child
TEST(ThreadPool, AForkedChildHasThreadsOfItsOwn) {
  if (std::getenv("QUIRE_EMULATED") != nullptr) GTEST_SKIP() << "qemu does not fork with threads";
  const auto has_threads = [] {
    std::atomic<int> runs{0};
    run_on_threads(3, [&](int) { ++runs; });
    return runs == 3 && two_meet();
  };
  const auto expect_in_child = [](auto check) {
    const pid_t child = fork();
    if (child == 0) _exit(check() ? 0 : 1);
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  };
  // Threads that are only starting hold locks of AddressSanitizer, which a child would inherit:
  // those here have started.
  ASSERT_TRUE(meet(3));
  expect_in_child(has_threads);
  {
    Workers workers;
    const WorkersScope scope(workers);
    ASSERT_TRUE(meet(3));
    expect_in_child(has_threads);
  }
  // of a parent whose threads are in use, by another and by the one that forks. AddressSanitizer of
  // GCC 12 and 13 lets a child inherit its runtime's locks as another thread holds them: not there.
  if (std::getenv("QUIRE_SANITIZED") == nullptr) {
    std::atomic<bool> done{false};
    std::thread other([&] {
      while (!done) run_on_threads(2, [](int) {});
    });
    for (int i = 0; i < 20; ++i) expect_in_child(has_threads);
    done = true;
    other.join();
  }
  run_on_threads(2, [&](int worker) {
    if (worker == 0) expect_in_child(has_threads);
  });
  auto left = std::make_unique<Workers>();
  {
    const WorkersScope scope(*left);
    ASSERT_TRUE(meet(3));
  }
  expect_in_child([&] {
    left.reset();  // and waits for nobody
    return true;
  });
}
#endif

TEST(ThreadPool, NumberOfThreadsFromTheEnvironment) {
  unsetenv("QUIRE_NUM_THREADS");
  unsetenv("OMP_NUM_THREADS");
  EXPECT_GE(default_num_threads(), 1);
  setenv("OMP_NUM_THREADS", "5", 1);
  EXPECT_EQ(default_num_threads(), 5);
  setenv("QUIRE_NUM_THREADS", "3", 1);
  EXPECT_EQ(default_num_threads(), 3);
  for (const char* wrong : {"0", "-1", "2x", "two", "99999999999999999999"}) {
    setenv("QUIRE_NUM_THREADS", wrong, 1);
    EXPECT_THROW(default_num_threads(), ValueError) << wrong;
  }
  unsetenv("QUIRE_NUM_THREADS");
  for (const char* list : {"4,2", " 4", "4"}) {
    setenv("OMP_NUM_THREADS", list, 1);
    EXPECT_EQ(default_num_threads(), 4);
  }
  setenv("OMP_NUM_THREADS", "many", 1);
  EXPECT_GE(default_num_threads(), 1);
  unsetenv("OMP_NUM_THREADS");
}

}  // namespace
}  // namespace quire
