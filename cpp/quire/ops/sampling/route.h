// The choice of experts for each token: its arguments, and the formula.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "quire/base/array_view.h"

namespace quire {

enum class RouteScoring : std::uint8_t { softmax, sigmoid };

// Each token's logits of E experts become scores: their softmax, or the sigmoid of each. The top_k
// experts of the largest scores + bias are chosen, the largest first, of equals the lowest id;
// their weights are their scores, without bias, divided by their sum where `renormalise` says so;
// where all of them are 0 in float64, each is 1 / top_k.
// In float64, and rounded to float32 once: a handful of numbers.
//
// Sources: softmax and renormalise are Mixtral's and Qwen3's as in transformers, without
// renormalising Qwen2's; sigmoid with a bias that only chooses is DeepSeek-V3's (arXiv:2412.19437).
struct RouteArgs {
  ArrayView logits;        // [T, E], plain floats, none of them NaN or infinite
  std::int64_t top_k = 1;  // 1 to E
  RouteScoring scoring = RouteScoring::softmax;
  bool renormalise = true;
  std::optional<ArrayView> bias;    // [E], plain floats
  std::span<float> weights;         // [T * top_k], written
  std::span<std::int32_t> experts;  // likewise
};

// Throws ValueError or TypeError under the name of `function`, before anything is written.
void route(const RouteArgs& args, int num_threads, std::string_view function = "route");

// Of "softmax" and "sigmoid". Throws ValueError that lists them.
RouteScoring route_scoring_from_name(std::string_view name, std::string_view place);

}  // namespace quire
