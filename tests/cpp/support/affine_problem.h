// Random weights of affine numbers, and a source of their rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "quire/ops/linear/pack_affine.h"

namespace quire::testing {

// [n, k], of numbers of four bits (int4) or eight (int8). Scales are such that weights are about 1.
struct AffineProblem {
  AffineProblem(std::int64_t n, std::int64_t k, DType dtype)
      : num_rows(n),
        num_columns(k),
        format(dtype),
        numbers(n * k),
        scales(n * k / 32),
        offsets(scales.size()) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    const int least = dtype == DType::int4 ? 0 : -128, most = dtype == DType::int4 ? 15 : 127;
    std::uniform_int_distribution<int> number(least, most);
    for (std::int8_t& each : numbers) each = static_cast<std::int8_t>(number(random));
    for (float& scale : scales) scale = normal(random) / static_cast<float>(most);
    for (float& offset : offsets) offset = normal(random);
  }

  AffineSource source() const {
    return {num_rows, num_columns,
            [this](std::int64_t begin, std::int64_t end, std::int8_t* to_numbers, float* to_scales,
                   float* to_offsets) {
              const auto copy = [&](const auto& from, auto* to, std::int64_t columns) {
                std::copy(from.begin() + begin * columns, from.begin() + end * columns, to);
              };
              copy(numbers, to_numbers, num_columns);
              copy(scales, to_scales, num_columns / 32);
              copy(offsets, to_offsets, num_columns / 32);
            },
            format};
  }

  std::int64_t num_rows, num_columns;
  DType format;
  std::vector<std::int8_t> numbers;
  std::vector<float> scales, offsets;
};

}  // namespace quire::testing
