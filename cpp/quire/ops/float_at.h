// Single elements of arrays of plain floats, for references and for what is read once.
#pragma once

#include "quire/base/array_view.h"

namespace quire {

inline double float_at(const std::byte* row, DType dtype, std::int64_t i) {
  return visit_dtype(dtype, [&](auto type) -> double {
    return to_float(reinterpret_cast<const decltype(type)*>(row)[i]);
  });
}

// x as a number of `dtype`.
inline double rounded_to(DType dtype, double x) {
  return visit_dtype(dtype, [&](auto type) -> double {
    return to_float(from_float<decltype(type)>(static_cast<float>(x)));
  });
}

}  // namespace quire
