// The gate of a feed-forward layer: its arguments, and the formula.
#pragma once

#include <string_view>
#include <vector>

#include "quire/base/array_view.h"

namespace quire {

enum class Activation : std::uint8_t { silu, gelu, gelu_tanh, sigmoid };

// out = activation(gate) * up, element by element:
//   silu(x) = x / (1 + e^-x)
//   gelu(x) = x / 2 * (1 + erf(x / sqrt(2)))
//   gelu_tanh(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
//   sigmoid(x) = 1 / (1 + e^-x)
// in float32, rounded to the dtype of gate once. What activations make of numbers far below 0 is
// within 2e-36 of its place next to 0.
//
// Source: Shazeer, "GLU Variants Improve Transformer" (arXiv:2002.05202), and Hendrycks and Gimpel,
// "Gaussian Error Linear Units" (arXiv:1606.08415).
struct SwigluArgs {
  ArrayView gate;  // [..., D], plain floats
  ArrayView up;    // as gate
  Activation activation = Activation::silu;
  ArrayView out;  // as gate, written; may be gate or up
};

// Throws ValueError or TypeError under the name of `function`.
void check_swiglu(const SwigluArgs& args, std::string_view function = "swiglu");

// Throws ValueError that lists the names.
Activation activation_from_name(std::string_view name, std::string_view place);

// out in float64, of checked arguments whose out is none of what is read, a row after the other.
std::vector<double> reference_swiglu(const SwigluArgs& args);

}  // namespace quire
