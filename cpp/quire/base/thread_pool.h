// Threads for the operations of a process.
//
// One set of them is shared by all operations, for one caller at a time: whoever calls while it is
// in use computes alone. Who makes many calls beside others, as an engine does, has a set of its
// own:
//
//   Workers workers;
//   const WorkersScope scope(workers);   // for the calls that this thread makes from here on
//
// Bits do not depend on who computes.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>

#include "quire/base/interruption.h"
#include "quire/base/num_threads.h"

namespace quire {

// A set of threads, which are started when they are first wanted and sleep where they are not. Safe
// to use from many threads at once, for one call at a time; in a forked child it starts anew.
class Workers {
 public:
  constexpr Workers() = default;
  // Ends the threads. Nobody uses them any more.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

 private:
  friend void run_on_threads(const struct Crew& crew, const std::function<void(int)>& body);
  struct Set;
  Set& set();

  std::atomic<Set*> current_{nullptr};
};

// Has the operations that this thread calls use `workers`, which outlive this.
class WorkersScope {
 public:
  explicit WorkersScope(Workers& workers);
  ~WorkersScope();
  WorkersScope(const WorkersScope&) = delete;
  WorkersScope& operator=(const WorkersScope&) = delete;

 private:
  Workers* const former_;
};

// How many take part in some work, the caller among them, and whether it is worth waking threads
// for that have fallen asleep. Those that are awake, as they are for 2 ms after each call, take
// part in any; and a call that follows another within that time wakes them for those that will
// follow.
struct Crew {
  Crew(int num_workers, bool is_worth_waking = true)
      : workers(num_workers), wakes(is_worth_waking) {}

  int workers;
  bool wakes;
};

// To wake a thread takes about as long as so much work of one, each part of which would pay for one
// that is awake: some 100 us.
inline constexpr std::int64_t kWorthWaking = 4;

// As many as `work` pays for, each with `work_of_one` or more, `most` and num_threads at most.
template <class Work>
Crew crew_for(Work work, Work work_of_one, std::int64_t most, int num_threads) {
  const auto useful = std::min(static_cast<Work>(most), 1 + work / work_of_one);
  const auto workers = std::clamp(useful, Work{1}, static_cast<Work>(num_threads));
  return {static_cast<int>(workers), work >= static_cast<Work>(kWorthWaking) * work_of_one};
}

// Calls body(worker) once for each worker in [0, crew.workers), at the same time where threads
// allow, and returns when all have returned. The caller is worker 0. Safe to call from many threads
// at once and inside a body (one caller has the threads, the others run their bodies one after the
// other), and in a forked child. The first exception of a body is thrown again here. Throws
// Interrupted where the call is to end (interruption.h), once all bodies have returned.
void run_on_threads(const Crew& crew, const std::function<void(int)>& body);

// Calls body(item, worker) for each item in [0, count), as workers come for them; in between, looks
// for an interruption.
template <class Body>
void deal(const Crew& crew, std::int64_t count, const Body& body) {
  std::atomic<std::int64_t> next{0};
  const auto work = [&](int worker) {
    for (std::int64_t item = next++; item < count; item = next++) {
      check_interruption();
      body(item, worker);
    }
  };
  run_on_threads(crew, std::ref(work));  // by reference, as a copy would be allocated
}

inline constexpr std::int64_t kNoItem = -1;

// The same in the order of order[0, count), or as they are counted where that is null, by workers
// that take an item before they are done with the one before: body(item, upcoming, worker) may ask
// for the memory of what is next. The last items are nobody's before their time: they go to whoever
// is first, and for those before them `upcoming` is kNoItem. One worker alone knows them all.
template <class Body>
void deal_ahead(const Crew& crew, std::int64_t count, const std::int64_t* order, const Body& body) {
  std::atomic<std::int64_t> next{0};
  const auto item_at = [&](std::int64_t i) {
    if (i >= count) return kNoItem;
    return order == nullptr ? i : order[i];
  };
  const auto work = [&](int worker) {
    for (std::int64_t i = next++; i < count;) {
      check_interruption();
      const bool ahead = crew.workers == 1 || i + crew.workers + 1 < count;
      const std::int64_t upcoming = ahead ? next++ : count;
      body(item_at(i), item_at(upcoming), worker);
      i = ahead ? upcoming : next++;
    }
  };
  run_on_threads(crew, std::ref(work));
}

}  // namespace quire
