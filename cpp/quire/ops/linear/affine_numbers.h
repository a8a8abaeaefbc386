// Numbers of four bits with a scale and an offset, as MLX computes them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace quire {

// The number q, 0 to 15, stands for scale * q + offset.
struct AffineGrid {
  float scale, offset;

  // The nearest number, ties to even.
  std::uint32_t number(float x) const {
    return static_cast<std::uint32_t>(
        std::clamp(std::nearbyint((x - offset) / scale), 0.0f, 15.0f));
  }
};

// The grid of a group of finite numbers: its first number is the one of the largest magnitude, so
// that this is exact, and zero is a number of it. Source: MLX's affine quantisation
// (github.com/ml-explore/mlx, mlx/ops.cpp), whose steps, in float32, these are.
inline AffineGrid affine_grid(const float* group, std::int64_t count) {
  constexpr float kLeastScale = 1e-7f;
  const auto [least, largest] = std::minmax_element(group, group + count);
  const bool is_below = std::fabs(*least) > std::fabs(*largest);
  const float width = std::max((*largest - *least) / 15.0f, kLeastScale);
  const float scale = is_below ? width : -width;
  const float edge = is_below ? *least : *largest;
  const float steps = std::nearbyint(edge / scale);  // from zero to the edge
  if (steps == 0) return {scale, 0};
  return {edge / steps, edge};
}

}  // namespace quire
