#include "quire/base/array_view.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace quire {
namespace {

// Every byte that a view's elements occupy, and whether one turned up twice.
struct Bytes {
  std::set<std::uintptr_t> all;
  bool twice = false;
};

Bytes bytes_of(const ArrayView& view) {
  Bytes bytes;
  std::vector<std::int64_t> index(static_cast<std::size_t>(view.ndim), 0);
  if (is_empty(view)) return bytes;
  for (;;) {
    auto address = reinterpret_cast<std::uintptr_t>(view.data);
    for (int axis = 0; axis < view.ndim; ++axis) address += index[axis] * view.strides[axis];
    for (std::size_t i = 0; i < size_of(view.dtype); ++i) {
      bytes.twice |= !bytes.all.insert(address + i).second;
    }
    int axis = view.ndim - 1;
    while (axis >= 0 && ++index[axis] == view.shape[axis]) index[axis--] = 0;
    if (axis < 0) return bytes;
  }
}

TEST(ArrayView, RangeAndOverlapAgreeWithEveryByte) {
  std::mt19937 random(1);
  std::vector<float> memory(4096);
  int disjoint = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    ArrayView view;
    view.data = reinterpret_cast<std::byte*>(memory.data() + 2048);
    view.ndim = 1 + static_cast<int>(random() % 3);
    for (int axis = 0; axis < view.ndim; ++axis) {
      view.shape[axis] = static_cast<std::int64_t>(random() % 5);
      view.strides[axis] = 4 * (static_cast<std::int64_t>(random() % 41) - 20);
    }
    const Bytes bytes = bytes_of(view);
    const ByteRange range = byte_range(view);
    if (bytes.all.empty()) {
      EXPECT_EQ(range.begin, range.end);
      EXPECT_FALSE(may_self_overlap(view));
      continue;
    }
    EXPECT_EQ(range.begin, *bytes.all.begin());
    EXPECT_EQ(range.end, *bytes.all.rbegin() + 1);
    // it may suspect a view that is sound, but never pass one that is not
    EXPECT_TRUE(may_self_overlap(view) || !bytes.twice);
    disjoint += !may_self_overlap(view);
  }
  EXPECT_GT(disjoint, 300);
}

TEST(ArrayView, SlicesOfContiguousArraysDoNotOverlap) {
  std::vector<float> memory(2 * 3 * 4);
  ArrayView view = contiguous_view(memory.data(), DType::float32, {2, 3, 4});
  EXPECT_EQ(view.strides[0], 48);
  EXPECT_EQ(view.at(1, 2), view.data + 80);
  EXPECT_FALSE(may_self_overlap(view));
  std::swap(view.shape[0], view.shape[1]);
  std::swap(view.strides[0], view.strides[1]);
  EXPECT_FALSE(may_self_overlap(view));
  view.strides[0] = 0;
  EXPECT_TRUE(may_self_overlap(view));
  EXPECT_EQ(shape_text(view), "[3, 2, 4]");
}

TEST(ArrayView, IndicesOfBothWidths) {
  const std::vector<std::int32_t> narrow{1, 2, 3, 4, 5, 6};
  const std::vector<std::int64_t> wide{1, 2, 3, 4, 5, std::int64_t{1} << 40};
  EXPECT_EQ(contiguous_index_view(narrow.data(), {2, 3}).at(1, 2), 6);
  EXPECT_EQ(contiguous_index_view(wide.data(), {2, 3}).at(1, 2), std::int64_t{1} << 40);
  IndexView backwards = contiguous_index_view(narrow.data() + 5, {6});
  backwards.strides[0] = -4;
  EXPECT_EQ(backwards.at(5), 1);
}

}  // namespace
}  // namespace quire
