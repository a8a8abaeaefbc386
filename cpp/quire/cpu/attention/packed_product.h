// The products of panels with many query rows (packed_tile.h): R rows by one chunk of columns, kept
// in registers.
#pragma once

#include "quire/cpu/attention/packed_tile.h"
#include "quire/cpu/attention/value_tile.h"

namespace quire {

// Scores: sums over the elements of a head, from 0 on. Queries lie in blocks:
// [entries / kWidth][R][kWidth].
template <class S, class Product>
struct PanelScoreTerms : FloatTerms<S, Panel<S>, Product, S::kWidth> {
  static typename S::Vec start(int, std::int64_t, int) { return S::zero(); }

  template <int R, class Add>
  void for_entries(int, int end, Add add) const {
    for (std::int64_t first = 0; first < end; first += S::kWidth) {
      const std::int64_t stop = end < first + S::kWidth ? end : first + S::kWidth;
      const float* const block = this->weights + first * R - first;
      for (std::int64_t i = first; i < stop; ++i) add(i, block);
    }
  }
};

template <class S, class Product>
struct PackedProduct {
  using Lines = LineQueue<S>;

  // scores[r, key] = the product of row r of q and the key, for R rows and the keys of one panel.
  template <int R, int kKeys>
  static void score(const float* q, const float* panel, int entries, float* scores, Lines& lines) {
    ValueTile<S, PanelScoreTerms<S, Product>>::template run_chunk<R>({{q, {panel}, scores, kKeys}},
                                                                     0, entries, lines);
  }

  // values[r, 0..chunk) += the sum over entries [begin, end) of weights[r, entry] * the panel's
  // entry.
  template <int R, int kKeys>
  static void add_panel(const float* weights, const float* panel, int begin, int end, float* values,
                        std::int64_t values_stride, Lines& lines) {
    using Terms = FloatTerms<S, Panel<S>, Product, kKeys / Product::kElements>;
    ValueTile<S, Terms>::template run_chunk<R>({weights, {panel}, values, values_stride}, begin,
                                               end, lines);
  }
};

}  // namespace quire
