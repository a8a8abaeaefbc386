#include "quire/ops/recurrent/causal_conv1d.h"

#include <cmath>

#include "quire/ops/float_at.h"
#include "quire/ops/recurrent/check_token_spans.h"

namespace quire {

TokenSpans check_causal_conv1d(const CausalConv1dArgs& args, std::string_view function) {
  const ArgumentChecker check(function);
  const Length tokens = args.x.ndim == 2 ? Length(args.x.shape[0]) : std::nullopt;
  check.array("x", args.x, {tokens, std::nullopt}, "T, C");
  check.plain_floats("x", args.x);
  const std::int64_t channels = args.x.shape[1];
  check.array("weight", args.weight, {channels, std::nullopt}, "C of x, K");
  check.plain_floats("weight", args.weight);
  const std::int64_t taps = args.weight.shape[1];
  if (taps > CausalConv1dArgs::kMostTaps) {
    check.fail<ValueError>("weight", "got ", taps, " numbers of a channel, expected 1 to ",
                           CausalConv1dArgs::kMostTaps);
  }
  const Length sequences = args.state.ndim == 3 ? Length(args.state.shape[0]) : std::nullopt;
  check.array("state", args.state, {sequences, channels, taps - 1}, "S, C of x, K - 1");
  if (args.state.dtype != args.x.dtype && args.state.dtype != DType::float32) {
    check.fail<TypeError>("state", "got ", name_of(args.state.dtype), ", expected float32, or ",
                          name_of(args.x.dtype), " as x");
  }
  check.written("state", args.state);
  if (args.bias) {
    check.array("bias", *args.bias, {channels}, "C of x");
    check.plain_floats("bias", *args.bias);
  }
  check.array("out", args.out, {tokens, channels}, "the shape of x");
  if (args.out.dtype != args.x.dtype) {
    check.fail<TypeError>("out", "got ", name_of(args.out.dtype), ", expected ",
                          name_of(args.x.dtype), ", the dtype of x");
  }
  check.written("out", args.out);
  for (const auto& [name, view] : {std::pair("out", &args.out), std::pair("state", &args.state)}) {
    check.apart(name, *view, "x", args.x);
    check.apart(name, *view, "weight", args.weight);
    if (args.bias) check.apart(name, *view, "bias", *args.bias);
    if (args.cu_seqlens) check.apart(name, *view, "cu_seqlens", *args.cu_seqlens);
    if (args.state_indices) check.apart(name, *view, "state_indices", *args.state_indices);
  }
  check.apart("out", args.out, "state", args.state);
  return token_spans(check, args.cu_seqlens, args.state_indices, args.x.shape[0],
                     args.state.shape[0]);
}

std::vector<double> reference_causal_conv1d(const CausalConv1dArgs& args) {
  const auto [begins, states] = check_causal_conv1d(args);
  const std::int64_t taps = args.weight.shape[1];
  std::vector<double> out;
  for (std::size_t sequence = 0; sequence + 1 < begins.size(); ++sequence) {
    for (std::int64_t t = begins[sequence]; t < begins[sequence + 1]; ++t) {
      for (std::int64_t c = 0; c < args.x.shape[1]; ++c) {
        double sum = args.bias ? float_at(args.bias->data, args.bias->dtype, c) : 0;
        for (std::int64_t j = 0; j < taps; ++j) {
          const std::int64_t at = t - begins[sequence] - (taps - 1) + j;
          const double x = at >= 0 ? float_at(args.x.at(begins[sequence] + at), args.x.dtype, c)
                                   : float_at(args.state.at(states[sequence], c), args.state.dtype,
                                              at + taps - 1);
          sum += float_at(args.weight.at(c), args.weight.dtype, j) * x;
        }
        out.push_back(args.silu ? sum / (1 + std::exp(-sum)) : sum);
      }
    }
  }
  return out;
}

}  // namespace quire
