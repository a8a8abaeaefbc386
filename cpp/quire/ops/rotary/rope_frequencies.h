// Frequencies of rotary embeddings that are scaled for longer contexts than a model was first
// trained with, as configurations of models describe them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace quire {

enum class RopeScaling : std::uint8_t { none, linear, dynamic, yarn, llama3 };

// What rope_parameters of a model's config.json say; L is original_max_positions.
struct RopeFrequencyOptions {
  std::int64_t rotary_dim = 0;  // even, >= 2
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;                                   // >= 1
  std::optional<std::int64_t> original_max_positions;    // dynamic, yarn and llama3
  std::int64_t seq_len = 0;                              // dynamic
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn
  bool truncate = true;                                  // yarn
  std::optional<double> mscale, mscale_all_dim;          // yarn
  std::optional<double> attention_factor;                // yarn
};

struct RopeFrequencies {
  std::vector<float> inv_freq;  // radians a position, [rotary_dim / 2]
  double attention_factor;      // what cos and sin are multiplied by
};

// f[i] = theta^(-2 i / rotary_dim), computed in float64, and then:
//   linear   f / factor.
//   dynamic  as f of theta * (factor * n / L - (factor - 1))^(rotary_dim / (rotary_dim - 2)), n the
//            larger of seq_len and L.
//   yarn     f / factor where a pair turns fewer than beta_slow times in L positions, f where it
//            turns more than beta_fast times, and between these a mixture that is linear in i; the
//            ends are whole numbers where `truncate` says so. Where L is so short that the end at
//            beta_slow lies before the first pair, f stays for all of them, as with transformers.
//            attention_factor is 0.1 ln(factor) + 1, or, with both mscales, the quotient of
//            0.1 mscale ln(factor) + 1 and the same of mscale_all_dim. Peng et al., "YaRN"
//            (arXiv:2309.00071).
//   llama3   f / factor of wavelengths above L / low_freq_factor, f below L / high_freq_factor, and
//            between these a mixture that is linear in 1 / wavelength. Llama 3.1's.
// These are the functions of transformers (modeling_rope_utils.py), which computes them in float32.
// Throws ValueError under the name of `function`.
RopeFrequencies rope_frequencies(const RopeFrequencyOptions& options,
                                 std::string_view function = "rope_frequencies");

// Of "default", "linear", "dynamic", "yarn", "llama3". Throws ValueError that lists them.
RopeScaling rope_scaling_from_name(std::string_view name, std::string_view place);

}  // namespace quire
