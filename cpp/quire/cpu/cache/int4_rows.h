// Rows of int4 caches (quire/format/int4_grid.h) as floats.
#pragma once

#include "quire/cpu/attention/attention_rows.h"
#include "quire/format/int4_grid.h"

namespace quire {

// Rows of one KV head. Keys of a block share their grids, which become floats once for those that
// come one after the other.
template <class S>
class Int4Rows {
 public:
  using Rows = AttentionRows<S>;
  using Vec = typename S::Vec;
  using Pair = typename S::Pair;

  // Memory for the grids of a block, of rows of `padded` elements.
  static std::int64_t grid_floats(std::int64_t padded) { return 2 * padded; }
  explicit Int4Rows(float* grids) : grids_(grids) {}

  // A row of `count` elements in natural order, zeros up to the padded count: of a key, and of a
  // value.
  void load_key(const std::byte* codes, const Int4Grid* grids, std::int64_t count, float* to) {
    if (grids != loaded_) {
      for (std::int64_t d = 0; d < Rows::padded(count); d += S::kWidth) {
        const auto rest = static_cast<int>(Rows::larger(0, count - d));
        const Pair pair =
            rest >= S::kWidth ? S::load_grids(grids + d) : S::load_grids(grids + d, rest);
        S::store(steps(d), pair.lo);
        S::store(middles(d), pair.hi);
      }
      loaded_ = grids;
    }
    load(codes, count, to, [this](Vec n, std::int64_t d) {
      return S::fma(n, S::load(steps(d)), S::load(middles(d)));
    });
  }

  static void load_value(const std::byte* codes, const Int4Grid* grid, std::int64_t count,
                         float* to) {
    const Pair pair = S::load_grids(grid, 1);
    const Vec step = S::set1(first_of(pair.lo)), middle = S::set1(first_of(pair.hi));
    load(codes, count, to, [&](Vec n, std::int64_t) { return S::fma(n, step, middle); });
  }

 private:
  // Calls floats_of(numbers, where they begin) for each vector.
  template <class FloatsOf>
  static void load(const std::byte* codes, std::int64_t count, float* to, FloatsOf floats_of) {
    std::int64_t d = 0;
    for (; d + Rows::kChunk <= count; d += Rows::kChunk) {
      const Pair n = S::load_int4(codes + d / 2);
      S::store(to + d, floats_of(n.lo, d));
      S::store(to + d + S::kWidth, floats_of(n.hi, d + S::kWidth));
    }
    if (const int rest = static_cast<int>(count - d); rest > 0) {
      const Pair n = S::load_int4(codes + d / 2, rest);
      const Vec lo = floats_of(n.lo, d), hi = floats_of(n.hi, d + S::kWidth);
      S::store(to + d, S::select(S::lanes(0, rest), lo, S::zero()));
      S::store(to + d + S::kWidth, S::select(S::lanes(0, rest - S::kWidth), hi, S::zero()));
    }
  }

  static float first_of(Vec x) {
    float lanes[S::kWidth];
    S::store(lanes, x);
    return lanes[0];
  }

  // Steps and middles of kWidth elements lie together.
  float* steps(std::int64_t d) const { return grids_ + 2 * d; }
  float* middles(std::int64_t d) const { return grids_ + 2 * d + S::kWidth; }

  float* const grids_;
  const Int4Grid* loaded_ = nullptr;
};

}  // namespace quire
