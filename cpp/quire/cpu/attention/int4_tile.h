// The two products of attention on a tile of int4 caches, in whole numbers.
//
// The codes of a row are multiplied as they are, u = 0 to 15. With keys k_d = middle_d + (u_d - 8)
// * step_d, whose grids are those of a block, and values v_d = middle + (u_d - 8) * step, whose
// grids are those of a token,
//
//   q . k = sum_d (q_d step_d) (u_d - 8) + sum_d q_d middle_d
//   sum_t w_t v_td = sum_t (w_t step_t) (u_td - 8) + sum_t w_t middle_t
//
// of which what stands before u becomes numbers of 16 bits times a factor, once for a block and
// query row and once for a tile and query row, and the last sum is one number. Rows of which that
// loses too much ask for floats (integer_tile.h).
//
// A byte widened to 16 bits has an even element below and an odd one above. A chunk of 4 * kWidth
// elements is two vectors of such: first its even elements, then its odd ones.
#pragma once

#include "quire/cpu/attention/integer_tile.h"
#include "quire/cpu/attention/scale_check.h"
#include "quire/format/int4_grid.h"

namespace quire {

template <class S>
struct Int4Chunk {
  static constexpr int kElements = 4 * S::kWidth;
  static constexpr int kBytes = 2 * S::kWidth;

  static std::int64_t padded(std::int64_t n) { return (n + kElements - 1) / kElements * kElements; }

  // Where the even elements of 2 * kWidth from `d` on begin, in the order of chunks; their odd ones
  // are kBytes further on.
  static std::int64_t place_of(std::int64_t d) {
    return d / kElements * kElements + d % kElements / 2;
  }

  // A row in natural order, zeros up to the next multiple of 2 * kWidth, in that of chunks.
  static void arrange(const float* row, std::int64_t count, float* to) {
    for (std::int64_t d = 0; d < padded(count); d += 2 * S::kWidth) {
      auto pair = typename S::Pair{S::zero(), S::zero()};
      if (d < count) {
        pair = S::template from_natural<BFloat16>({S::load(row + d), S::load(row + d + S::kWidth)});
      }
      S::store(to + place_of(d), pair.lo);
      S::store(to + place_of(d) + kBytes, pair.hi);
    }
  }
};

// How the codes of a block's keys meet query rows that were prepared for it.
template <class S>
struct Int4Dot {
  using Sum = typename S::Ints;
  using Key = std::byte;
  struct Chunk {
    typename S::Ints even, odd;
  };
  static constexpr int kChunk = Int4Chunk<S>::kElements;
  static constexpr int kWork = 3;
  static constexpr bool kExact = true;

  const std::int16_t* numbers;
  std::int64_t stride;
  const Sum* starts;     // of each row
  const float* factors;  // of each sum, and what is added to it
  const float* bases;

  Sum start(int r) const { return starts[r]; }
  static std::int64_t place_of(std::int64_t d) { return d / 2; }
  static Chunk load(const std::byte* p) { return halves(S::load_bytes(p)); }
  static Chunk load(const std::byte* p, int n) { return halves(S::load_bytes(p, n / 2)); }
  Sum add(Sum sum, int r, std::int64_t d, const Chunk& k) const {
    const std::int16_t* const q = numbers + r * stride + d;
    return S::dot(S::dot(sum, S::load_ints(q), k.even), S::load_ints(q + Int4Chunk<S>::kBytes),
                  k.odd);
  }
  template <int>
  void finish(const Sum* sums, float* totals) const {
#pragma GCC unroll 16
    for (int i = 0; i < S::kAccumulators; i += S::kWidth) {
      S::store(totals + i,
               S::fma(S::transpose_add(sums + i), S::load(factors + i), S::load(bases + i)));
    }
  }

 private:
  static Chunk halves(typename S::Ints bytes) {
    return {S::lower_half(bytes), S::upper_half(bytes)};
  }
};

// Some query rows before the keys of some blocks. What is made of them for each is made for several
// blocks before any is used, as each is a chain of steps that wait for one another.
template <class S>
class Int4Queries {
 public:
  using Vec = typename S::Vec;
  using Ints = typename S::Ints;
  using Chunk = Int4Chunk<S>;
  static constexpr int kMostRows = 4;
  static constexpr int kMostBlocks = 4;

  static std::int64_t scratch_floats(std::int64_t head_dim) {
    return kMostRows * Chunk::padded(head_dim) * (2 + kMostBlocks) / 2;
  }

  Int4Queries(float* scratch, std::int64_t head_dim)
      : head_dim_(head_dim),
        stride_(Chunk::padded(head_dim)),
        products_(scratch),
        numbers_(reinterpret_cast<std::int16_t*>(scratch + kMostRows * stride_)) {
    // what pads a row stays 0
    for (std::int64_t i = 0; i < kMostRows * stride_; i += S::kWidth) {
      S::store(products_ + i, S::zero());
    }
  }

  // R rows, Chunk::padded(head_dim) floats each in the order of chunks, before block `block`.
  // Returns those that ask for floats, whose factors are beyond most_factor.
  template <int R>
  RowMask prepare(int block, const float* q, const Int4Grid* grids, float most_factor,
                  LineQueue<S>& lines) {
    ScaleCheck<S> check = check_;  // in registers
    Vec base[R], most[R], least[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) base[r] = most[r] = least[r] = S::zero();
    for (std::int64_t d = 0; d < head_dim_; d += 2 * S::kWidth) {
      lines.advance(kGridWork + R * kPrepareWork);
      const auto rest = static_cast<int>(head_dim_ - d);
      const auto apart = rest >= 2 * S::kWidth ? S::load_grids_apart(grids + d)
                                               : S::load_grids_apart(grids + d, rest);
      const typename S::Pair pairs[] = {apart.even, apart.odd};
      for (const auto& pair : pairs) check.add_grids(pair.lo, pair.hi, rest / 2);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const std::int64_t at = Chunk::place_of(d) + half * Chunk::kBytes;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const Vec x = S::load(q + r * stride_ + at);
          const Vec product = S::mul(x, pairs[half].lo);
          S::store(products_ + r * stride_ + at, product);
          most[r] = S::max(most[r], product);
          least[r] = S::min(least[r], product);
          base[r] = S::fma(x, pairs[half].hi, base[r]);
        }
      }
    }
    check_ = check;
    float largest[R], times[R], factors[R];
    RowMask asking = 0;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      largest[r] = S::reduce_max(S::max(most[r], S::sub(S::zero(), least[r])));
    }
    for (int r = 0; r < R; ++r) {  // together, as divisions wait for one another
      const bool has_numbers = largest[r] >= IntegerRow<S>::kSmallest;  // else all are 0
      times[r] = has_numbers ? IntegerRow<S>::kMost / largest[r] : 0.0f;
      factors[r] = has_numbers ? largest[r] / IntegerRow<S>::kMost : 0.0f;
      if (!(largest[r] < __builtin_inff())) factors[r] = __builtin_nanf("");
      const bool is_too_small = largest[r] > 0 && !has_numbers;
      asking |= RowMask{factors[r] > most_factor || is_too_small} << r;
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      round<R>(block, r, times[r], factors[r], S::reduce_add(base[r]));
    }
    return asking;
  }

  // scores[r][key] = row r . key, for keys [begin, end) of a tile, all of the block.
  template <int R>
  void score(int block, TileRows keys, int begin, int end, float* scores,
             LineQueue<S>& lines) const {
    ScoreTile<S, Int4Dot<S>>::template run<R>(
        {numbers(block), stride_, starts_[block], factors_[block], bases_[block]}, head_dim_, keys,
        begin, end, scores, lines);
  }

  // Of the grids before which rows were prepared.
  bool found_bad_grid() const { return check_.found_bad(); }

  // In units of LineQueue: of 2 * kWidth grids, and of each row before them.
  static constexpr int kGridWork = 8;
  static constexpr int kPrepareWork = 12;

 private:
  // Row r before block `block`, times `times`.
  template <int R>
  void round(int block, int r, float times, float factor, float base) {
    constexpr int kKeys = S::kAccumulators / R;
    const Vec all = S::set1(times);
    const float* const products = products_ + r * stride_;
    std::int16_t* const to = numbers(block) + r * stride_;
    Ints start = S::zero_ints();
    const Ints minus_eight = S::set1_ints(-8 * 0x10000 + 0xfff8);
    for (std::int64_t d = 0; d < stride_; d += 2 * S::kWidth) {
      const Ints x = S::to_ints(S::mul(S::load(products + d), all),
                                S::mul(S::load(products + d + S::kWidth), all));
      S::store(to + d, x);
      start = S::dot(start, x, minus_eight);
    }
    starts_[block][r] = start;
    for (int j = 0; j < kKeys; ++j) {
      factors_[block][r * kKeys + j] = factor;
      bases_[block][r * kKeys + j] = base;
    }
  }

  std::int16_t* numbers(int block) const { return numbers_ + block * kMostRows * stride_; }

  const std::int64_t head_dim_, stride_;
  ScaleCheck<S> check_;
  float* const products_;                // [kMostRows, stride]: q_d step_d
  std::int16_t* const numbers_;          // [kMostBlocks, kMostRows, stride]: the same as numbers
  Ints starts_[kMostBlocks][kMostRows];  // of sums: -8 times the numbers
  alignas(64) float factors_[kMostBlocks][S::kAccumulators];  // of row r and key j of a group
  alignas(64) float bases_[kMostBlocks][S::kAccumulators];
};

// What the codes of a tile's values are multiplied by, for some rows.
template <class S>
struct Int4Weights : IntegerWeights<S> {
  using Vec = typename S::Vec;
  using IntegerWeights<S>::kMostRows;
  using IntegerWeights<S>::kVectors;

  float rests[kMostRows];  // sum_t w_t middle_t
  int starts[kMostRows];   // of sums: -8 times the numbers

  // Row r: the keys [begin, end) of its weights. Steps and middles are finite for all keys. Returns
  // whether it asks for floats, and has no weights here then.
  bool round(int r, const float* weights, int begin, int end, const float* steps,
             const float* middles) {
    Vec x[kVectors];
    Vec rest = S::zero();
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      const Vec weight = this->load(weights, i, begin, end);
      rest = S::fma(weight, S::load(middles + i * S::kWidth), rest);
      x[i] = S::mul(weight, S::load(steps + i * S::kWidth));
    }
    const bool asks = IntegerWeights<S>::round(r, x);
    const std::int16_t* const row = this->numbers + r * this->kStride;
    auto sum = S::zero_ints();
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; i += 2) {
      sum = S::dot(sum, S::load_ints(row + i * S::kWidth), S::set1_ints(0x10001));
    }
    rests[r] = asks ? -0.0f : S::reduce_add(rest);
    starts[r] = static_cast<int>(S::reduce_add(S::to_floats(sum))) * -8;
    return asks;
  }
};

template <class S>
struct Int4Row {
  using Ints = typename S::Ints;
  static constexpr int kVectors = 4;
  static constexpr int kChunk = Int4Chunk<S>::kElements;

  static std::int64_t bytes_of(std::int64_t columns) { return columns / 2; }
  static Ints load(const std::byte* p) { return S::load_bytes(p); }
  static Ints load(const std::byte* p, int n) { return S::load_bytes(p, n / 2); }
  static void pair_up(Ints a, Ints b, Ints* to) {
    Ints lo, hi;
    S::pair_up(a, b, lo, hi);
    to[0] = S::lower_half(lo);
    to[1] = S::lower_half(hi);
    to[2] = S::upper_half(lo);
    to[3] = S::upper_half(hi);
  }
};

// values[r] += what the weights of rows from `row` on make of the codes.
template <class S>
struct Int4Terms : IntegerTerms<S, Int4Row<S>> {
  using Sum = typename S::Ints;
  static constexpr int kMostChunks = 2;
  static constexpr int kWork = 4;

  const Int4Weights<S>& weights;
  int row;

  Sum start(int r, std::int64_t, int) const { return S::set1_ints(weights.starts[row + r]); }
  template <bool kWhole>
  void finish(int r, std::int64_t d, int rest, const Sum* sums) const {
    // of a chunk that ends within the padding, what the state has room for
    const int vectors = kWhole ? 4 : (rest + 2 * S::kWidth - 1) / (2 * S::kWidth) * 2;
    const auto factor = S::set1(weights.factors[row + r]);
    const auto middle = S::set1(weights.rests[row + r]);
    typename S::Vec natural[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) natural[i] = S::to_floats(sums[i]);
    S::halves_to_natural(natural);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (!kWhole && i >= vectors) continue;
      float* const to = this->values(r, d) + i * S::kWidth;
      S::store(to, S::fma(natural[i], factor, S::add(S::load(to), middle)));
    }
  }
};

template <class S>
struct Int4Values {
  static constexpr int kMostRows = S::kAccumulators / 4 < 4 ? S::kAccumulators / 4 : 4;

  template <int R>
  static void run(const Int4Weights<S>& weights, int row, const ValueSpan& span,
                  LineQueue<S>& lines) {
    const std::int16_t* const numbers = weights.numbers + row * weights.kStride;
    ValueTile<S, Int4Terms<S>>::template run<R>({{numbers, span}, weights, row}, span.begin,
                                                span.end, span.v_head_dim, lines);
  }
};

}  // namespace quire
