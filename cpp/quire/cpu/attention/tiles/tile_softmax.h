// The softmax of 16 query rows over a tile of keys, a row in each lane: no sum and no maximum goes
// across lanes, and weights come out as pairs of keys, which is what tiles multiply.
#pragma once

#include "quire/cpu/attention/online_softmax.h"
#include "quire/cpu/attention/tiles/tile_grid.h"

namespace quire {

// Scores are dot products, not yet scaled, as OnlineSoftmax says.
template <class S>
class TileSoftmax {
 public:
  using Vec = typename S::Vec;
  static constexpr int kLanes = TileGrid::kRows;

  // [kLanes] each, of the rows.
  struct State {
    float* maximum;
    float* sum;
  };
  // Where a tile's scores are and its weights go to: [key][lane], and [pair of keys][lane] words of
  // two bfloat16s. `shown`: whether the row sees the key, as not 0; null: all see all. Keys
  // [first, last), multiples of kStep.
  struct Tile {
    float* scores;
    float* weights;
    const float* shown;
    int first, last;
  };

  float exponent_scale;
  bool has_softcap;
  float cap_scale;

  // Scores with a softcap, and with ALiBi: slopes [lane], in log2 units; distances of a key and the
  // lane's query: distance(key, lane). Without slopes these are null.
  template <class Distance>
  void transform(const Tile& tile, const float* slopes, Distance distance) const {
    for (int key = tile.first; key < tile.last; ++key) {
      float* const scores = tile.scores + key * kLanes;
      float offsets[kLanes];
      if (slopes != nullptr) {
        for (int i = 0; i < kLanes; ++i) offsets[i] = slopes[i] * distance(key, i);
      }
      for (int i = 0; i < kLanes; i += S::kWidth) {
        Vec x = S::load(scores + i);
        if (has_softcap) x = SimdMath<S>::tanh(S::mul(x, S::set1(cap_scale)));
        if (slopes != nullptr) x = S::fma(x, S::set1(exponent_scale), S::load(offsets + i));
        S::store(scores + i, x);
      }
    }
  }

  // Before a tile: a row's maximum rises to the largest of the tile's scores that it sees, where
  // that exceeds it by more than the slack. Returns whether one did; then shrink[lane] is what the
  // row's sums are to be multiplied with, 1 for others. `factor`: of scores, to log2 units.
  bool raise(const Tile& tile, float factor, const State& state, float* shrink) const {
    bool rises = false;
    for (int i = 0; i < kLanes; i += S::kWidth) {
      const Vec top = S::mul(largest(tile, i), S::set1(factor));
      const Vec old = S::load(state.maximum + i);
      const auto above = S::less(S::add(old, S::set1(kSlack)), top);
      const bool some = S::any(above);
      rises = rises || some;
      S::store(shrink + i, S::set1(1.0f));
      if (!some) continue;
      const Vec by = SimdMath<S>::exp2(S::sub(old, top));
      const Vec shrinks = S::select(above, by, S::set1(1.0f));
      S::store(shrink + i, shrinks);
      S::store(state.maximum + i, S::select(above, top, old));
      S::store(state.sum + i, S::mul(S::load(state.sum + i), shrinks));
    }
    return rises;
  }

  // Turns scores into weights, 2^(score - maximum), rounded to bfloat16 and summed unrounded.
  // after_four() is called after each four pairs of keys.
  template <class AfterFour>
  void weigh(const Tile& tile, float factor, const State& state, AfterFour after_four) const {
    const bool plain = are_plain(state);
    if (tile.shown == nullptr) {
      plain ? weigh<false, false>(tile, factor, state, after_four)
            : weigh<false, true>(tile, factor, state, after_four);
    } else {
      plain ? weigh<true, false>(tile, factor, state, after_four)
            : weigh<true, true>(tile, factor, state, after_four);
    }
  }

 private:
  static constexpr float kSlack = OnlineSoftmax<S>::kSlack;
  static constexpr float kScaleFirst = OnlineSoftmax<S>::kScaleFirst;

  static Vec largest(const Tile& tile, int lane) {
    const Vec lowest = S::set1(-__builtin_inff());
    Vec found[4] = {lowest, lowest, lowest, lowest};
    for (int key = tile.first; key < tile.last; key += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int at = (key + i) * kLanes + lane;
        Vec x = S::load(tile.scores + at);
        if (tile.shown != nullptr) {
          x = S::select(S::less(S::zero(), S::load(tile.shown + at)), x, lowest);
        }
        found[i] = S::max(found[i], x);
      }
    }
    return S::max(S::max(found[0], found[1]), S::max(found[2], found[3]));
  }

  // Whether all maxima are such that a weight is the power of the difference, and nothing else.
  static bool are_plain(const State& state) {
    for (int i = 0; i < kLanes; i += S::kWidth) {
      const Vec x = S::load(state.maximum + i);
      const Vec magnitude = S::max(x, S::sub(S::zero(), x));
      if (S::any(S::less(S::set1(__builtin_nextafterf(kScaleFirst, 0)), magnitude))) return false;
    }
    return true;
  }

  // 2^x: with p for 2^r, 0 <= r <= 1, the polynomial of degree 4 whose largest relative error is
  // smallest, 2.6e-6, well below the rounding of weights.
  static Vec power(Vec x) {
    const Vec r = S::fraction(x);
    Vec p = S::fma(S::set1(1.35341678e-2f), r, S::set1(5.20114638e-2f));
    p = S::fma(p, r, S::set1(2.41442755e-1f));
    p = S::fma(p, r, S::set1(6.93003833e-1f));
    return S::times_power(S::fma(p, r, S::set1(1.00000262f)), x);
  }

  template <bool kMasked, bool kHard, class AfterFour>
  static void weigh(const Tile& tile, float factor, const State& state, AfterFour after_four) {
    for (int lane = 0; lane < kLanes; lane += S::kWidth) {
      const Vec top = S::load(state.maximum + lane);
      const Vec scale = S::set1(factor), minus_top = S::sub(S::zero(), top);
      Vec sum = S::load(state.sum + lane);
      const auto weight = [&](int key) {
        const int at = key * kLanes + lane;
        const Vec x = S::load(tile.scores + at);
        Vec exponent = S::fma(x, scale, minus_top);
        if constexpr (kHard) {  // as OnlineSoftmax::update
          const Vec magnitude = S::max(top, minus_top);
          const auto is_small = S::less(magnitude, S::set1(kScaleFirst));
          // rounded in between, as a sum of a product may not be
          const Vec scaled = S::fma(S::mul(x, scale), S::set1(1.0f), minus_top);
          exponent = S::select(is_small, exponent, scaled);
        }
        Vec result = power(exponent);
        if constexpr (kHard) {
          const Vec of_none = S::select(S::less(x, S::zero()), S::zero(), x);
          const auto has_none = S::less(top, S::set1(-3.4028234e38f));
          result = S::select(has_none, of_none, result);
        }
        if constexpr (kMasked) {
          const auto seen = S::less(S::zero(), S::load(tile.shown + at));
          result = S::select(seen, result, S::zero());
        }
        return result;
      };
      for (int key = tile.first; key < tile.last; key += 8) {
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 2) {
          const Vec even = weight(key + i), odd = weight(key + i + 1);
          sum = S::add(S::add(sum, odd), even);
          S::store(tile.weights + (key + i) / 2 * kLanes + lane, S::round_to_pairs(even, odd));
        }
        after_four();
      }
      S::store(state.sum + lane, sum);
    }
  }
};

}  // namespace quire
