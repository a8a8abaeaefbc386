// The loops that deal items to workers.
#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <vector>

#include "quire/base/thread_pool.h"

namespace quire {
namespace {

TEST(Deal, EachItemGoesToOneWorkerOnAnyNumberOfThreads) {
  for (const int workers : {1, 2, 5}) {
    for (const std::int64_t count : {0, 1, 4, 5, 6, 100}) {
      std::vector<std::atomic<int>> times(static_cast<std::size_t>(count));
      deal(workers, count, [&](std::int64_t item, int worker) {
        EXPECT_TRUE(worker >= 0 && worker < workers);
        ++times[item];
      });
      for (std::int64_t i = 0; i < count; ++i) EXPECT_EQ(times[i], 1) << i;
    }
  }
}

TEST(Deal, OneWorkerTakesItemsAsTheyAreCounted) {
  std::vector<std::int64_t> items;
  deal(1, 4, [&](std::int64_t item, int) { items.push_back(item); });
  EXPECT_EQ(items, (std::vector<std::int64_t>{0, 1, 2, 3}));
}

struct Taken {
  std::int64_t item, upcoming;
  bool operator==(const Taken&) const = default;
};

TEST(DealAhead, OneWorkerKnowsAllThatComes) {
  for (const bool backwards : {false, true}) {
    const std::int64_t order[] = {2, 1, 0};
    std::vector<Taken> taken;
    deal_ahead(
        1, 3, backwards ? order : nullptr,
        [&](std::int64_t item, std::int64_t upcoming, int) { taken.push_back({item, upcoming}); });
    if (backwards) {
      EXPECT_EQ(taken, (std::vector<Taken>{{2, 1}, {1, 0}, {0, kNoItem}}));
    } else {
      EXPECT_EQ(taken, (std::vector<Taken>{{0, 1}, {1, 2}, {2, kNoItem}}));
    }
  }
  deal_ahead(1, 0, nullptr, [](std::int64_t, std::int64_t, int) { FAIL(); });
}

// What is announced to a worker is what it does next; and who is at one of the last items, as many
// as there are workers and one more, is told of none, so that no item waits behind a long one.
TEST(DealAhead, WorkersDoWhatWasAnnouncedAndTheLastGoToWhoeverIsFirst) {
  for (const int workers : {2, 5}) {
    for (const std::int64_t count : {0, 1, 3, 6, 7, 100}) {
      std::vector<std::int64_t> order(static_cast<std::size_t>(count));
      std::iota(order.rbegin(), order.rend(), 0);  // the last first
      std::mutex mutex;
      std::vector<std::vector<Taken>> taken(static_cast<std::size_t>(workers));
      deal_ahead(workers, count, order.data(),
                 [&](std::int64_t item, std::int64_t upcoming, int worker) {
                   const std::lock_guard lock(mutex);
                   taken[worker].push_back({item, upcoming});
                 });
      std::vector<std::int64_t> items;
      for (const std::vector<Taken>& each : taken) {
        for (std::size_t i = 0; i < each.size(); ++i) {
          items.push_back(each[i].item);
          if (each[i].upcoming == kNoItem) continue;
          ASSERT_LT(i + 1, each.size());
          EXPECT_EQ(each[i].upcoming, each[i + 1].item);
        }
        for (const Taken& one : each) {
          const std::int64_t place = count - 1 - one.item;
          const bool is_last = place + workers + 1 >= count;
          EXPECT_TRUE(!is_last || one.upcoming == kNoItem) << place;
        }
      }
      std::sort(items.begin(), items.end());
      std::sort(order.begin(), order.end());
      EXPECT_EQ(items, order);
    }
  }
}

TEST(DealAhead, AnExceptionReachesTheCaller) {
  for (const int workers : {1, 3}) {
    EXPECT_THROW(deal_ahead(workers, 10, nullptr,
                            [](std::int64_t item, std::int64_t, int) {
                              if (item == 5) throw std::bad_alloc();
                            }),
                 std::bad_alloc);
  }
}

}  // namespace
}  // namespace quire
