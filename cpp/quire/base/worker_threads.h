// Threads that wait for work, for one caller at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quire {

class HomeProcess;
class Interruptible;

// One round of work at a time. The caller starts at once and takes every worker that no thread has
// come for, so that it never waits for a thread to wake up, only for one that has begun.
class WorkerThreads {
 public:
  WorkerThreads() = default;
  // Ends the threads. Not in a forked child, which has none of them.
  ~WorkerThreads();
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  // Calls body(worker) for each worker in [0, num_workers), as run_on_threads does. Where `wakes`
  // is false and the last round was long ago, sleeping threads are let sleep.
  void run(int num_workers, bool wakes, const std::function<void(int)>& body);

 private:
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
    int take();

   private:
    std::atomic<std::uint64_t> state_{0};
  };

  void start_threads(int wanted);
  void call_body(int worker);
  void wait_for(int others, const HomeProcess& home);
  void serve();

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  Tickets tickets_;
  std::atomic<bool> ends_{false};
  std::atomic<int> finished_workers_{0};
  std::atomic<int> caller_core_{-1};
  std::chrono::steady_clock::time_point last_end_;  // of a round
  const std::function<void(int)>* body_ = nullptr;
  Interruptible* call_ = nullptr;  // that the round is part of
  std::atomic_flag has_failed_;
  std::exception_ptr failure_;  // the first one's
  int sleepers_ = 0;            // under the mutex
};

}  // namespace quire
