#include "quire/ops/recurrent/gated_delta_rule.h"

#include <cmath>
#include <span>

#include "quire/ops/float_at.h"
#include "quire/ops/recurrent/check_token_spans.h"

namespace quire {

double GatedDeltaRuleArgs::scale_or_default() const {
  return scale.value_or(1 / std::sqrt(static_cast<double>(q.shape[2])));
}

TokenSpans check_gated_delta_rule(const GatedDeltaRuleArgs& args, std::string_view function) {
  const ArgumentChecker check(function);
  const auto length = [](const ArrayView& view, int axis) {
    return view.ndim == 3 ? Length(view.shape[axis]) : std::nullopt;
  };
  const Length tokens = length(args.q, 0);
  check.array("q", args.q, {tokens, std::nullopt, std::nullopt}, "T, Hk, Dk");
  check.array("k", args.k, {tokens, args.q.shape[1], args.q.shape[2]}, "the shape of q");
  check.array("v", args.v, {tokens, std::nullopt, std::nullopt}, "T of q, Hv, Dv");
  const std::int64_t heads = args.v.shape[1];
  if (heads % args.q.shape[1] != 0) {
    check.fail<ValueError>("v", "got ", counted(heads, "head"), ", expected a multiple of ",
                           args.q.shape[1], ", those of q");
  }
  check.array("g", args.g, {tokens, heads}, "T, Hv");
  check.array("beta", args.beta, {tokens, heads}, "T, Hv");
  const struct {
    std::string_view name;
    const ArrayView& view;
  } read[] = {{"q", args.q}, {"k", args.k}, {"v", args.v}, {"g", args.g}, {"beta", args.beta}};
  for (const auto& [name, view] : read) check.plain_floats(name, view);
  const Length sequences = args.state.ndim == 4 ? Length(args.state.shape[0]) : std::nullopt;
  check.array("state", args.state, {sequences, heads, args.q.shape[2], args.v.shape[2]},
              "S, Hv, Dk, Dv");
  if (args.state.dtype != DType::float32) {
    check.fail<TypeError>("state", "got ", name_of(args.state.dtype), ", expected float32");
  }
  check.written("state", args.state);
  if (args.scale && !std::isfinite(*args.scale)) {
    check.fail<ValueError>("scale", "got ", *args.scale, ", expected a finite number or None");
  }
  check.array("out", args.out, {tokens, heads, args.v.shape[2]}, "the shape of v");
  if (args.out.dtype != args.q.dtype) {
    check.fail<TypeError>("out", "got ", name_of(args.out.dtype), ", expected ",
                          name_of(args.q.dtype), ", the dtype of q");
  }
  check.written("out", args.out);
  for (const auto& [name, view] : read) {
    check.apart("out", args.out, name, view);
    check.apart("state", args.state, name, view);
  }
  check.apart("out", args.out, "state", args.state);
  if (args.cu_seqlens) {
    check.apart("out", args.out, "cu_seqlens", *args.cu_seqlens);
    check.apart("state", args.state, "cu_seqlens", *args.cu_seqlens);
  }
  if (args.state_indices) {
    check.apart("out", args.out, "state_indices", *args.state_indices);
    check.apart("state", args.state, "state_indices", *args.state_indices);
  }
  return token_spans(check, args.cu_seqlens, args.state_indices, args.q.shape[0],
                     args.state.shape[0]);
}

GatedDeltaRuleReference reference_gated_delta_rule(const GatedDeltaRuleArgs& args) {
  const auto [begins, states] = check_gated_delta_rule(args);
  const std::int64_t heads = args.v.shape[1], keys = args.q.shape[2], values = args.v.shape[2];
  const std::int64_t of_key_head = heads / args.q.shape[1];
  GatedDeltaRuleReference result;
  result.out.resize(static_cast<std::size_t>(args.q.shape[0] * heads * values));
  for (std::int64_t i = 0; i < args.state.shape[0] * heads * keys * values; ++i) {
    const std::int64_t row = i / values;
    result.state.push_back(
        float_at(args.state.at(row / keys / heads, row / keys % heads, row % keys), DType::float32,
                 i % values));
  }
  for (std::size_t sequence = 0; sequence < states.size(); ++sequence) {
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::span<double> s(
          result.state.data() + (states[sequence] * heads + head) * keys * values,
          static_cast<std::size_t>(keys * values));
      for (std::int64_t t = begins[sequence]; t < begins[sequence + 1]; ++t) {
        const auto at = [&](const ArrayView& view, std::int64_t row, std::int64_t i) {
          return float_at(view.at(t, row), view.dtype, i);
        };
        const double decay = std::exp(float_at(args.g.at(t), args.g.dtype, head));
        const double beta = float_at(args.beta.at(t), args.beta.dtype, head);
        for (double& number : s) number *= decay;
        for (std::int64_t j = 0; j < values; ++j) {
          double found = 0;
          for (std::int64_t i = 0; i < keys; ++i) {
            found += s[i * values + j] * at(args.k, head / of_key_head, i);
          }
          const double delta = (at(args.v, head, j) - found) * beta;
          double& out = result.out[(t * heads + head) * values + j];
          for (std::int64_t i = 0; i < keys; ++i) {
            s[i * values + j] += at(args.k, head / of_key_head, i) * delta;
            out += s[i * values + j] * at(args.q, head / of_key_head, i);
          }
          out *= args.scale_or_default();
        }
      }
    }
  }
  return result;
}

}  // namespace quire
