// Rows of plain floats whose dtype a task names, for kernels of operators: what visit_dtype is for
// code that is compiled once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "quire/base/dtype.h"

namespace quire {

template <class S>
struct PlainRows {
  using Vec = typename S::Vec;

  // Calls visitor(T{}) with the storage type of `dtype`.
  template <class Visitor>
  static auto visit(DType dtype, Visitor visitor) {
    if (dtype == DType::float32) return visitor(float{});
    if (dtype == DType::float16) return visitor(Float16{});
    return visitor(BFloat16{});
  }

  // Lanes of a vector where so many numbers are left.
  static int lanes(std::int64_t left) {
    return static_cast<int>(std::min<std::int64_t>(S::kWidth, left));
  }

  // `n` numbers of a row from `at` on.
  static Vec load(const std::byte* row, DType dtype, std::int64_t at, int n) {
    return visit(dtype, [=](auto type) {
      return S::load(reinterpret_cast<const decltype(type)*>(row) + at, n);
    });
  }
  static void store(std::byte* row, DType dtype, std::int64_t at, Vec x, int n) {
    visit(dtype, [&](auto type) { S::store(reinterpret_cast<decltype(type)*>(row) + at, x, n); });
  }
};

}  // namespace quire
