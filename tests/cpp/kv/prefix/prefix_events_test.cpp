// What a cache tells of itself: who follows it knows the tree, whatever happens, and may use it.
#include "quire/kv/prefix/prefix_events.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kv/prefix/prefix_cache_fixture.h"
#include "kv/prefix/prefix_cache_machine.h"
#include "kv/prefix/prefix_rows.h"
#include "support/run_threads.h"

namespace quire::testing {
namespace {

class Listener final : public PrefixListener {
 public:
  explicit Listener(std::function<void(const PrefixEvent&)> action) : action_(std::move(action)) {}
  void hear(const PrefixEvent& event) noexcept override { action_(event); }

 private:
  std::function<void(const PrefixEvent&)> action_;
};

std::shared_ptr<Listener> listener(std::function<void(const PrefixEvent&)> action) {
  return std::make_shared<Listener>(std::move(action));
}

// A router: the nodes that were stored and not removed, as their namespaces and all their tokens.
class Router {
 public:
  void note(const PrefixEvent& event) {
    if (event.kind == PrefixEvent::Kind::removed) {
      ASSERT_EQ(nodes_.erase(event.node), 1u);
      for (const auto& [id, node] : nodes_) ASSERT_NE(node.parent, event.node);
      return;
    }
    Node node{event.parent, event.space.value_or(""), event.block, event.token_ids};
    ASSERT_EQ(event.space.has_value(), event.parent < 0);
    if (event.parent >= 0) {
      const Node& parent = nodes_.at(event.parent);
      node.space = parent.space;
      node.ids = parent.ids + event.token_ids;
    }
    if (nodes_.count(event.node) > 0) {
      ASSERT_EQ(nodes_.at(event.node).ids, node.ids);
    }
    nodes_[event.node] = node;
  }

  std::int64_t num_blocks() const {
    return std::count_if(nodes_.begin(), nodes_.end(),
                         [](const auto& node) { return node.second.block != kHole; });
  }
  // What it can say of a cache: each prefix that has its rows.
  void compare_with(const PrefixCache& cache, std::int64_t block_size) const {
    ASSERT_EQ(cache.size(), num_blocks());
    for (const auto& [id, node] : nodes_) {
      ASSERT_TRUE(!node.ids.empty());
      const auto size = static_cast<std::int64_t>(node.ids.size());
      // a window of one token needs nothing but the ids, and of a part of a block its rows
      const std::int64_t whole = size / block_size * block_size;
      ASSERT_GE(cache.peek(node.ids + Ids{77}, node.space, {1}), whole);
      if (!is_whole(node)) continue;
      ASSERT_EQ(cache.peek(node.ids + Ids{77}, node.space), size);
    }
  }

 private:
  struct Node {
    std::int64_t parent = -1;
    std::string space;
    std::int32_t block = kHole;
    Ids ids;
  };
  bool is_whole(const Node& node) const {
    if (node.block == kHole) return false;
    return node.parent < 0 || is_whole(nodes_.at(node.parent));
  }

  std::map<std::int64_t, Node> nodes_;
};

TEST_F(PrefixCacheTest, StoredAndRemoved) {
  std::vector<std::string> told;
  cache.set_listener(listener([&](const PrefixEvent& event) {
    std::string text = event.kind == PrefixEvent::Kind::stored ? "stored" : "removed";
    text += event.space ? " in \"" + *event.space + "\"" : " below";
    for (const std::int64_t id : event.token_ids) text += ' ' + std::to_string(id);
    told.push_back(text);
  }));
  serve(cache, {1, 2, 3, 4, -5, 6}, "a");
  EXPECT_EQ(told, (std::vector<std::string>{"stored in \"a\" 1 2 3 4", "stored below -5 6"}));
  told.clear();
  serve(cache, {1, 2, 3, 4, -5, 6, 7}, "a");
  EXPECT_EQ(told, (std::vector<std::string>{"stored below -5 6 7", "removed below -5 6"}));
  told.clear();
  const auto held = pool->allocate(15);  // within an allocation
  EXPECT_EQ(told, (std::vector<std::string>{"removed below -5 6 7"}));
  told.clear();
  cache.clear();
  EXPECT_EQ(told, (std::vector<std::string>{"removed in \"a\" 1 2 3 4"}));
  cache.set_listener(nullptr);
  told.clear();
  pool->release(held);
  serve(cache, {1, 2, 3});
  EXPECT_TRUE(told.empty());
}

TEST_F(PrefixCacheTest, HolesAreToldAndFilled) {
  Router router;
  std::vector<std::int32_t> blocks;
  cache.set_listener(listener([&](const PrefixEvent& event) {
    router.note(event);
    blocks.push_back(event.block);
  }));
  const Ids ids = count_from(0, 12);
  BlockTable table(pool), whole(pool);
  append_rest(table, ids);
  append_rest(whole, ids);
  table.drop_before(8);
  cache.insert(ids, table);
  EXPECT_EQ(blocks, (std::vector<std::int32_t>{kHole, kHole, table.blocks()[2]}));
  router.compare_with(cache, kBlock);
  cache.insert(count_from(0, 8), whole);
  EXPECT_EQ(blocks.back(), whole.blocks()[1]);
  EXPECT_EQ(router.num_blocks(), 3);
  router.compare_with(cache, kBlock);
}

TEST_F(PrefixCacheTest, AListenerMayUseTheCache) {
  std::int64_t depth = 0, most = 0, events = 0;
  cache.set_listener(listener([&](const PrefixEvent& event) {
    most = std::max(most, ++depth);
    ++events;
    if (event.kind == PrefixEvent::Kind::stored && !event.token_ids.empty() &&
        event.token_ids[0] < 20) {
      serve(cache, {event.token_ids[0] + 1});
    }
    --depth;
  }));
  serve(cache, {1});
  EXPECT_EQ(events, 24);  // of the pool's 16 blocks four have to make room
  EXPECT_EQ(most, 1);     // what comes of an event is told after it
  EXPECT_EQ(cache.size(), 16);
}

TEST(PrefixEvents, ARouterFollowsRandomLives) {
  for (const std::uint32_t seed : {1u, 2u, 3u}) {
    for (const std::int64_t max_blocks : {1000, 7}) {
      Router router;
      PrefixCacheMachine machine({16, 3, max_blocks}, std::mt19937(seed));
      machine.cache().set_listener(listener([&](const PrefixEvent& event) { router.note(event); }));
      for (int step = 0; step < 3000; ++step) {
        ASSERT_NO_FATAL_FAILURE(machine.step()) << "at step " << step;
        ASSERT_NO_FATAL_FAILURE(router.compare_with(machine.cache(), 3)) << "at step " << step;
      }
      machine.finish();
      EXPECT_EQ(router.num_blocks(), 0);
    }
  }
}

// Each event is told by one thread at a time, whoever made it, and all of them together are right.
TEST(PrefixEvents, FromManyThreads) {
  const auto pool = new_pool(64, 4);
  PrefixCache cache(pool, 40);
  Router router;
  std::atomic<int> telling{0};
  cache.set_listener(listener([&](const PrefixEvent& event) {
    ASSERT_EQ(++telling, 1);
    router.note(event);
    --telling;
  }));
  run_threads(6, [&](int worker) {
    std::mt19937 random(worker);
    for (int step = 0; step < 300; ++step) {
      Ids ids;
      for (std::size_t length = 1 + random() % 20; ids.size() < length;) {
        ids.push_back(random() % 6 == 0 ? 1 : 0);
      }
      try {
        serve(cache, ids, random() % 4 == 0 ? "other" : "");
      } catch (const OutOfBlocks&) {
        cache.evict(8);
      }
      if (step % 60 == 10 * worker) cache.clear();
    }
  });
  cache.evict(0);  // delivers what is left
  router.compare_with(cache, 4);
  cache.set_listener(nullptr);
}

}  // namespace
}  // namespace quire::testing
