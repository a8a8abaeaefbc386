#include "quire/ops/rotary/rope.h"

#include <cmath>

#include "quire/ops/float_at.h"
#include "quire/ops/row_arrays.h"

namespace quire {
namespace {

void check_positions(const ArgumentChecker& check, const RopeArgs& args) {
  check.shape("positions", args.positions, {args.x.shape[0]}, "T of x");
  for (std::int64_t token = 0; token < args.x.shape[0]; ++token) {
    const std::int64_t position = args.positions.at(token);
    if (position >= -RopeArgs::kMostPosition && position <= RopeArgs::kMostPosition) continue;
    check.fail<IndexError>("positions", "got ", position, " at token ", token, ", expected ",
                           -RopeArgs::kMostPosition, " to ", RopeArgs::kMostPosition);
  }
}

void check_frequencies(const ArgumentChecker& check, const RopeArgs& args) {
  if (!args.inv_freq) {
    if (std::isfinite(args.theta) && args.theta >= 1) return;
    check.fail<ValueError>("theta", "got ", args.theta, ", expected a finite number >= 1");
  }
  const std::int64_t pairs = args.num_rotated() / 2;
  check.array("inv_freq", *args.inv_freq, {pairs}, "rotary_dim / 2");
  check.plain_floats("inv_freq", *args.inv_freq);
  for (std::int64_t i = 0; i < pairs; ++i) {
    const double frequency = float_at(args.inv_freq->data, args.inv_freq->dtype, i);
    if (std::fabs(frequency) <= RopeArgs::kMostFrequency) continue;
    check.fail<ValueError>("inv_freq", "got ", frequency, " at ", i,
                           ", expected numbers of at most ", RopeArgs::kMostFrequency,
                           " in magnitude");
  }
}

}  // namespace

void check_rope(const RopeArgs& args, std::string_view function) {
  const ArgumentChecker check(function);
  const bool has_axes = args.x.ndim == 3;
  const Length tokens = has_axes ? Length(args.x.shape[0]) : std::nullopt;
  const Length heads = has_axes ? Length(args.x.shape[1]) : std::nullopt;
  check.array("x", args.x, {tokens, heads, std::nullopt}, "T, H, D");
  check.plain_floats("x", args.x);
  const std::int64_t rotated = args.num_rotated();
  if (rotated < 2 || rotated > args.x.shape[2] || rotated % 2 != 0) {
    check.fail<ValueError>("rotary_dim", "got ", rotated, ", expected an even number from 2 to ",
                           args.x.shape[2], ", D of x");
  }
  check_positions(check, args);
  check_frequencies(check, args);
  if (!std::isfinite(args.attention_factor)) {
    check.fail<ValueError>("attention_factor", "got ", args.attention_factor,
                           ", expected a finite number");
  }
  check_rows_like(check, "out", args.out, "x", args.x);
  check.written("out", args.out);
  check_same_or_apart(check, "out", args.out, "x", args.x);
  check.apart("out", args.out, "positions", args.positions);
  if (args.inv_freq) check.apart("out", args.out, "inv_freq", *args.inv_freq);
}

std::vector<double> frequencies_of(const RopeArgs& args) {
  std::vector<double> frequencies;
  const std::int64_t rotated = args.num_rotated();
  for (std::int64_t i = 0; i < rotated / 2; ++i) {
    if (args.inv_freq) {
      frequencies.push_back(float_at(args.inv_freq->data, args.inv_freq->dtype, i));
    } else {
      const double power = 2 * static_cast<double>(i) / static_cast<double>(rotated);
      frequencies.push_back(std::pow(args.theta, -power));
    }
  }
  return frequencies;
}

std::vector<double> reference_rope(const RopeArgs& args) {
  const std::vector<double> frequencies = frequencies_of(args);
  const std::int64_t rotated = args.num_rotated();
  std::vector<double> out;
  for (std::int64_t token = 0; token < args.x.shape[0]; ++token) {
    const auto position = static_cast<double>(args.positions.at(token));
    for (std::int64_t head = 0; head < args.x.shape[1]; ++head) {
      const auto at = [&](std::int64_t d) {
        return float_at(args.x.at(token, head), args.x.dtype, d);
      };
      for (std::int64_t d = 0; d < args.x.shape[2]; ++d) {
        if (d >= rotated) {
          out.push_back(at(d));
          continue;
        }
        const std::int64_t half = rotated / 2;
        const std::int64_t pair = args.interleaved ? d / 2 : d % half;
        const bool is_first = args.interleaved ? d % 2 == 0 : d < half;
        const std::int64_t step = args.interleaved ? 1 : half;
        const double angle = position * frequencies[static_cast<std::size_t>(pair)];
        const double turned = is_first ? at(d) * std::cos(angle) - at(d + step) * std::sin(angle)
                                       : at(d) * std::cos(angle) + at(d - step) * std::sin(angle);
        out.push_back(turned * args.attention_factor);
      }
    }
  }
  return out;
}

}  // namespace quire
