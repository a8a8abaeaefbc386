// Which tokens of a batch are whose, for operators that keep a state for each sequence.
#pragma once

#include <cstdint>
#include <vector>

namespace quire {

// The tokens of each sequence, [begins[i], begins[i + 1]), and which of the states is its own.
struct TokenSpans {
  std::vector<std::int64_t> begins;  // [B + 1]
  std::vector<std::int64_t> states;  // [B], different ones

  std::int64_t num_sequences() const { return static_cast<std::int64_t>(states.size()); }
};

}  // namespace quire
