// Rotary position embedding: its arguments, and the formula.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"

namespace quire {

// The first rotary_dim numbers of each head are pairs, which are turned by an angle:
//   (a, b) -> attention_factor * (a cos - b sin, b cos + a sin),  angle = position * inv_freq[i].
// Pair i is (i, i + rotary_dim / 2), or, interleaved, (2 i, 2 i + 1). Other numbers stay. Source:
// Su et al., "RoFormer" (arXiv:2104.09864); the first layout of pairs is that of GPT-NeoX and Llama
// in transformers, the second that of the paper and of GPT-J.
//
// Angles are float64, from the frequencies on: float64 powers of theta, or the numbers of inv_freq
// as they are. They are taken modulo a whole turn in float64 and only then made float32, so that
// cos and sin are within 2e-7 of the right ones at positions of 1e6 as at 1: in float32 the angle
// itself would be off by up to 0.03 there. The rotation is float32, and rounded to x's dtype once.
struct RopeArgs {
  static constexpr std::int64_t kMostPosition = std::int64_t{1} << 31;
  static constexpr double kMostFrequency = 65536;

  ArrayView x;          // [T, H, D], plain floats
  IndexView positions;  // [T], up to kMostPosition in magnitude; negative ones turn back
  double theta = 10000.0;
  std::optional<std::int64_t> rotary_dim;  // even, 2 to D; none: D
  bool interleaved = false;
  std::optional<ArrayView> inv_freq;  // [rotary_dim / 2], plain floats, instead of theta's
  double attention_factor = 1.0;
  ArrayView out;  // as x, written; may be x

  std::int64_t num_rotated() const { return rotary_dim.value_or(x.shape[2]); }
};

// Throws ValueError, IndexError or TypeError under the name of `function`.
void check_rope(const RopeArgs& args, std::string_view function = "rope");

// Radians a position, [rotary_dim / 2], of checked arguments.
std::vector<double> frequencies_of(const RopeArgs& args);

// out in float64, of checked arguments whose out is not x: [T, H, D].
std::vector<double> reference_rope(const RopeArgs& args);

}  // namespace quire
