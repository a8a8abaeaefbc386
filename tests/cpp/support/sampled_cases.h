// Which cases of a grid, or how many random ones, a test tries. A sanitizer or an emulator makes
// each case five to forty times slower: there a third of them is tried, always the same, and every
// path is still gone through. QUIRE_ALL_CASES=1 asks for all of them everywhere.
#pragma once

#include <cstdlib>
#include <random>

namespace quire::testing {

inline bool tries_all_cases() {
  if (std::getenv("QUIRE_ALL_CASES") != nullptr) return true;
  return std::getenv("QUIRE_SANITIZED") == nullptr && std::getenv("QUIRE_EMULATED") == nullptr;
}

// Of `all` random cases.
inline unsigned num_cases(unsigned all) { return tries_all_cases() ? all : (all + 2) / 3; }

// Of a grid: asked once for each case, in the order of its loops. The first one is always taken.
// Tests of the same grid have seeds of their own, so that together they try more of it.
class SampledCases {
 public:
  explicit SampledCases(unsigned seed = 1) : random_(seed) {}

  bool takes_next() {
    const bool is_first = num_asked_++ == 0;
    return all_ || random_() % 3 == 0 || is_first;
  }

 private:
  const bool all_ = tries_all_cases();
  std::mt19937 random_;
  unsigned num_asked_ = 0;
};

}  // namespace quire::testing
