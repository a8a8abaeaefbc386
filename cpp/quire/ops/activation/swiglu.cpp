#include "quire/ops/activation/swiglu.h"

#include <cmath>

#include "quire/ops/float_at.h"
#include "quire/ops/row_arrays.h"

namespace quire {
namespace {

double activated(Activation activation, double x) {
  constexpr double kRootOfTwo = 1.4142135623730951;
  constexpr double kRootOfTwoByPi = 0.7978845608028654;
  if (activation == Activation::silu) return x / (1 + std::exp(-x));
  if (activation == Activation::gelu) return x / 2 * std::erfc(-x / kRootOfTwo);
  if (activation == Activation::sigmoid) return 1 / (1 + std::exp(-x));
  // (1 + tanh(u)) / 2 without its cancellation where u is far below 0
  return x / (1 + std::exp(-2 * kRootOfTwoByPi * (x + 0.044715 * x * x * x)));
}

}  // namespace

void check_swiglu(const SwigluArgs& args, std::string_view function) {
  const ArgumentChecker check(function);
  check_rows(check, "gate", args.gate);
  check_rows_like(check, "up", args.up, "gate", args.gate);
  check_rows_like(check, "out", args.out, "gate", args.gate);
  check.written("out", args.out);
  check_same_or_apart(check, "out", args.out, "gate", args.gate);
  check_same_or_apart(check, "out", args.out, "up", args.up);
}

Activation activation_from_name(std::string_view name, std::string_view place) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "sigmoid") return Activation::sigmoid;
  raise<ValueError>(place, "got \"", name,
                    "\", expected \"silu\", \"gelu\", \"gelu_tanh\" or \"sigmoid\"");
}

std::vector<double> reference_swiglu(const SwigluArgs& args) {
  const RowAxes rows{&args.gate, &args.up};
  const std::int64_t length = args.gate.shape[args.gate.ndim - 1];
  std::vector<double> out;
  for (std::int64_t row = 0; row < rows.num_rows(); ++row) {
    for (std::int64_t i = 0; i < length; ++i) {
      const double gate = float_at(rows.at(args.gate, row), args.gate.dtype, i);
      const double up = float_at(rows.at(args.up, row), args.up.dtype, i);
      out.push_back(activated(args.activation, gate) * up);
    }
  }
  return out;
}

}  // namespace quire
