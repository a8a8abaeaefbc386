#include "quire/ops/norm/rms_norm.h"

#include <cmath>

#include "quire/ops/float_at.h"
#include "quire/ops/row_arrays.h"

namespace quire {
namespace {

// What is written element by element may be what is read, where both have one dtype.
void check_may_be(const ArgumentChecker& check, std::string_view argument, const ArrayView& view,
                  std::string_view other_argument, const ArrayView& other) {
  if (view.dtype != other.dtype) return check.apart(argument, view, other_argument, other);
  check_same_or_apart(check, argument, view, other_argument, other);
}

// `like`: x, or an array like it of the dtype that `view` may have.
void check_written(const ArgumentChecker& check, std::string_view argument, const ArrayView& view,
                   const RmsNormArgs& args, const ArrayView& like) {
  check_rows_like(check, argument, view, "x", like);
  check.written(argument, view);
  check.apart(argument, view, "weight", args.weight);
  check_may_be(check, argument, view, "x", args.x);
  if (args.residual) check_may_be(check, argument, view, "residual", *args.residual);
}

}  // namespace

void check_rms_norm(const RmsNormArgs& args, std::string_view function) {
  const ArgumentChecker check(function);
  check_rows(check, "x", args.x);
  check.array("weight", args.weight, {args.x.shape[args.x.ndim - 1]}, "D of x");
  check.plain_floats("weight", args.weight);
  if (!(args.eps >= 0) || std::isinf(args.eps)) {
    check.fail<ValueError>("eps", "got ", args.eps, ", expected a finite number >= 0");
  }
  if (!std::isfinite(args.weight_offset)) {
    check.fail<ValueError>("weight_offset", "got ", args.weight_offset,
                           ", expected a finite number");
  }
  if (args.residual) check_rows_like(check, "residual", *args.residual, "x", args.x);
  if (args.gate) check_rows_like(check, "gate", *args.gate, "x", args.x);
  ArrayView like = args.x;
  if (args.x.dtype == DType::float32) {
    check.plain_floats("out", args.out);
    like.dtype = args.out.dtype;
  }
  check_written(check, "out", args.out, args, like);
  if (args.gate) check_may_be(check, "out", args.out, "gate", *args.gate);
  if (args.residual_out.has_value() != args.residual.has_value()) {
    check.fail<ValueError>(
        "residual_out", "got ", args.residual ? "none" : "an array", ", expected ",
        args.residual ? "one, as there is a residual" : "none, as there is no residual");
  }
  if (!args.residual_out) return;
  check_written(check, "residual_out", *args.residual_out, args, args.x);
  check.apart("residual_out", *args.residual_out, "out", args.out);
  if (args.gate) check.apart("residual_out", *args.residual_out, "gate", *args.gate);
}

std::vector<double> reference_rms_norm(const RmsNormArgs& args) {
  const RowAxes rows{&args.x};
  const std::int64_t length = args.x.shape[args.x.ndim - 1];
  const auto at = [&](const ArrayView& array, std::int64_t row, std::int64_t i) {
    return float_at(RowAxes{&array}.at(array, row), array.dtype, i);
  };
  std::vector<double> out;
  for (std::int64_t row = 0; row < rows.num_rows(); ++row) {
    std::vector<double> h;
    double squares = 0;
    for (std::int64_t i = 0; i < length; ++i) {
      const double x = at(args.x, row, i);
      h.push_back(args.residual ? rounded_to(args.x.dtype, x + at(*args.residual, row, i)) : x);
      squares += h.back() * h.back();
    }
    const double root = std::sqrt(squares / static_cast<double>(length) + args.eps);
    for (std::int64_t i = 0; i < length; ++i) {
      const double weight = float_at(args.weight.data, args.weight.dtype, i);
      double y = h[i] / root * (args.weight_offset + weight);
      if (args.gate) {
        const double gate = at(*args.gate, row, i);
        y *= gate / (1 + std::exp(-gate));
      }
      out.push_back(y);
    }
  }
  return out;
}

}  // namespace quire
