#include "quire/ops/linear/linear.h"

#include "quire/ops/argument_checker.h"

namespace quire {
namespace {

double number_at(const ArrayView& array, std::int64_t i, std::int64_t j) {
  return visit_dtype(array.dtype, [&](auto type) -> double {
    return to_float(*reinterpret_cast<const decltype(type)*>(array.at(i, j)));
  });
}

}  // namespace

PackedLayout LinearArgs::layout() const {
  if (!weight_array) return weight->layout();
  return {weight_array->dtype, weight_array->shape[0], weight_array->shape[1], 0};
}

void check_linear(const LinearArgs& args, std::string_view function) {
  const ArgumentChecker check(function);
  if (args.weight_array) {
    check.array("weight", *args.weight_array, {std::nullopt, std::nullopt}, "N, K");
    check.plain_floats("weight", *args.weight_array);
  }
  const PackedLayout layout = args.layout();
  const Length rows = args.x.ndim == 2 ? Length(args.x.shape[0]) : std::nullopt;
  check.array("x", args.x, {rows, layout.num_columns}, "M, K of weight");
  check.plain_floats("x", args.x);
  if (args.bias) {
    check.array("bias", *args.bias, {layout.num_rows}, "N of weight");
    check.plain_floats("bias", *args.bias);
  }
  check.array("out", args.out, {rows, layout.num_rows}, "M, N");
  if (args.out.dtype != args.x.dtype && args.out.dtype != DType::float32) {
    check.fail<TypeError>("out", "got ", name_of(args.out.dtype), ", expected ",
                          name_of(args.x.dtype), ", the dtype of x, or float32");
  }
  check.written("out", args.out);
  check.apart("out", args.out, "x", args.x);
  if (args.bias) check.apart("out", args.out, "bias", *args.bias);
  if (args.weight_array) check.apart("out", args.out, "weight", *args.weight_array);
}

std::vector<double> reference_linear(const LinearArgs& args) {
  const PackedLayout layout = args.layout();
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(args.num_rows() * layout.num_rows));
  for (std::int64_t m = 0; m < args.num_rows(); ++m) {
    for (std::int64_t n = 0; n < layout.num_rows; ++n) {
      double sum = 0;
      for (std::int64_t k = 0; k < layout.num_columns; ++k) {
        const double w =
            args.weight_array ? number_at(*args.weight_array, n, k) : args.weight->at(n, k);
        sum += number_at(args.x, m, k) * w;
      }
      if (args.bias)
        sum += visit_dtype(args.bias->dtype, [&](auto type) -> double {
          return to_float(reinterpret_cast<const decltype(type)*>(args.bias->data)[n]);
        });
      out.push_back(sum);
    }
  }
  return out;
}

}  // namespace quire
