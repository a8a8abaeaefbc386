// What becomes of a broken equation, inside the operations.
#include "quire/kv/ledger/invariants.h"

#include <gtest/gtest.h>

#include <new>

namespace quire {
namespace {

TEST(Invariants, WhatHoldsIsNotSpokenOf) {
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(holds([] {}));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(Invariants, WhatDoesNotIsToldBeforeTheEnd) {
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(holds([] { raise<InvariantError>("BlockPool.check: used", "got ", 3); }));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "broken: BlockPool.check: used: got 3\n");
}

TEST(Invariants, NoMemoryForACheckBreaksNothing) {
  EXPECT_TRUE(holds([] { throw std::bad_alloc(); }));
}

}  // namespace
}  // namespace quire
