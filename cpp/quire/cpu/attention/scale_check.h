// Whether the scales that go by are what they must be, for kernels that look at them as they
// multiply (FusedKernels::looks_at_scales).
#pragma once

namespace quire {

template <class S>
class ScaleCheck {
 public:
  using Vec = typename S::Vec;

  // Must be positive and finite.
  void add(Vec scales) {
    least_ = S::min(least_, scales);
    poison_ = S::fma(scales, S::zero(), poison_);
  }

  // Of the first `count` lanes, or all: steps likewise, and finite middles.
  void add_grids(Vec steps, Vec middles, int count = S::kWidth) {
    add(count < S::kWidth ? S::select(S::lanes(0, count), steps, S::set1(1.0f)) : steps);
    poison_ = S::fma(middles, S::zero(), poison_);
  }

  bool found_bad() const {
    return !(S::reduce_add(poison_) == 0 && S::reduce_max(S::sub(S::zero(), least_)) < 0);
  }

 private:
  Vec least_ = S::set1(1.0f);
  Vec poison_ = S::zero();  // 0 times all: NaN where one is not finite
};

}  // namespace quire
