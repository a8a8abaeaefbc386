// What is remembered of prompts that were missed, and that it is bounded.
#include "quire/kv/prefix/miss_memory.h"

#include <gtest/gtest.h>

#include <memory>

namespace quire {
namespace {

TEST(MissMemory, EachReason) {
  MissMemory memory;
  auto lease = std::make_shared<int>();
  EXPECT_EQ(memory.reason(5, 1), MissReason::cold);
  memory.note_asked(5, 1, lease);
  EXPECT_EQ(memory.reason(5, 1), MissReason::cold);  // under way
  lease.reset();
  EXPECT_EQ(memory.reason(5, 1), MissReason::preempted);
  EXPECT_EQ(memory.reason(5, 2), MissReason::cold);
  memory.note_cached(5, 1);
  EXPECT_EQ(memory.reason(5, 2), MissReason::other_namespace);
  EXPECT_EQ(memory.reason(6, 2), MissReason::cold);
  memory.note_evicted(5, 1);
  EXPECT_EQ(memory.reason(5, 1), MissReason::evicted);
  EXPECT_EQ(memory.reason(5, 2), MissReason::cold);
  memory.note_cached(5, 3);
  EXPECT_EQ(memory.reason(5, 1), MissReason::evicted);  // its own history says more
  memory.clear();
  EXPECT_EQ(memory.reason(5, 1), MissReason::cold);
}

TEST(MissMemory, WhatWasNotedLongestAgoMakesRoom) {
  MissMemory memory;
  constexpr std::uint64_t kSpaces = MissMemory::kWays;
  for (std::uint64_t space = 0; space < kSpaces; ++space) memory.note_evicted(5, space);
  memory.note_evicted(5, 0);  // again
  memory.note_evicted(5, kSpaces);
  EXPECT_EQ(memory.reason(5, 1), MissReason::cold);
  for (const std::uint64_t space : {std::uint64_t{0}, std::uint64_t{2}, kSpaces}) {
    EXPECT_EQ(memory.reason(5, space), MissReason::evicted);
  }
}

TEST(MissMemory, RemembersNearlyAsManyAsItCan) {
  MissMemory memory;
  std::size_t remembered = 0;
  const auto prefix = [](std::uint64_t i) { return (i + 1) * 0x9e3779b97f4a7c15u >> 7; };
  for (std::size_t i = 0; i < MissMemory::kRemembered; ++i) memory.note_evicted(prefix(i), 1);
  for (std::size_t i = 0; i < MissMemory::kRemembered; ++i) {
    remembered += memory.reason(prefix(i), 1) == MissReason::evicted;
  }
  EXPECT_GT(remembered, MissMemory::kRemembered / 2);
}

}  // namespace
}  // namespace quire
