#include "quire/model/recurrent_states.h"

#include <gtest/gtest.h>

#include <string>

#include "quire/base/check.h"

namespace quire {
namespace {

constexpr RecurrentShape kShape{
    .num_layers = 2, .channels = 3, .past = 2, .num_heads = 2, .key_dim = 3, .value_dim = 5};

float* floats(const ArrayView& view, std::int64_t slot) {
  return reinterpret_cast<float*>(view.at(slot));
}

// Every number of a slot, each a different one.
void fill(const RecurrentStates& states, std::int64_t slot, float first) {
  for (std::int64_t layer = 0; layer < kShape.num_layers; ++layer) {
    for (int i = 0; i < 6; ++i) floats(states.convolution(layer), slot)[i] = first++;
    for (int i = 0; i < 30; ++i) floats(states.matrices(layer), slot)[i] = first++;
  }
}

void expect_filled(const RecurrentStates& states, std::int64_t slot, float first, float step) {
  for (std::int64_t layer = 0; layer < kShape.num_layers; ++layer) {
    for (int i = 0; i < 6; ++i, first += step) {
      EXPECT_EQ(floats(states.convolution(layer), slot)[i], first);
    }
    for (int i = 0; i < 30; ++i, first += step) {
      EXPECT_EQ(floats(states.matrices(layer), slot)[i], first);
    }
  }
}

TEST(RecurrentStates, AreClearWhenMade) {
  const RecurrentStates states(kShape, 3);
  EXPECT_EQ(states.bytes_per_slot(), 2 * (3 * 2 + 2 * 3 * 5) * 4);
  for (const std::int64_t slot : {0, 1, 2}) expect_filled(states, slot, 0, 0);
}

TEST(RecurrentStates, AreClearedAndCopiedASlotAtATime) {
  RecurrentStates states(kShape, 4);
  for (const std::int64_t slot : {0, 1, 2, 3}) {
    fill(states, slot, 1000.0f * static_cast<float>(slot + 1));
  }
  states.clear(1);
  states.copy(3, 2);
  expect_filled(states, 0, 1000, 1);
  expect_filled(states, 1, 0, 0);
  expect_filled(states, 2, 4000, 1);
  expect_filled(states, 3, 4000, 1);
}

TEST(RecurrentStates, RefuseWhatIsNotThere) {
  RecurrentStates states(kShape, 2);
  EXPECT_THROW(states.clear(2), IndexError);
  EXPECT_THROW(states.copy(-1, 0), IndexError);
  EXPECT_THROW(states.copy(0, 2), IndexError);
  EXPECT_THROW(states.matrices(2), IndexError);
  EXPECT_THROW(states.convolution(-1), IndexError);
  EXPECT_THROW(RecurrentStates(kShape, 0), ValueError);
  RecurrentShape shape = kShape;
  shape.key_dim = 0;
  try {
    const RecurrentStates none(shape, 1);
    FAIL();
  } catch (const ValueError& error) {
    EXPECT_EQ(std::string(error.what()), "RecurrentStates: shape.key_dim: got 0, expected >= 1");
  }
  shape.key_dim = std::int64_t{1} << 50;
  EXPECT_THROW(RecurrentStates(shape, 1), std::bad_alloc);
}

}  // namespace
}  // namespace quire
