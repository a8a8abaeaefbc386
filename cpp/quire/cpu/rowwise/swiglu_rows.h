// activation(gate) * up, as ops/activation/swiglu.h says.
#pragma once

#include "quire/cpu/plain_rows.h"
#include "quire/cpu/rowwise/activations.h"
#include "quire/cpu/rowwise/row_tasks.h"

namespace quire {

template <class S>
struct SwigluRows {
  using Vec = typename S::Vec;

  static void run(const SwigluTask& task) {
    PlainRows<S>::visit(task.dtype, [&](auto type) { rows<decltype(type)>(task); });
  }

 private:
  using Function = Vec (*)(Vec);

  template <class T>
  static void rows(const SwigluTask& task) {
    if (task.activation == Activation::silu) return rows<T, &Activations<S>::silu>(task);
    if (task.activation == Activation::gelu) return rows<T, &Activations<S>::gelu>(task);
    if (task.activation == Activation::gelu_tanh) return rows<T, &Activations<S>::gelu_tanh>(task);
    rows<T, &Activations<S>::sigmoid>(task);
  }

  template <class T, Function kFunction>
  static void rows(const SwigluTask& task) {
    for (std::int64_t row = 0; row < task.num_rows; ++row) {
      const T* const gate = reinterpret_cast<const T*>(task.gate + row * task.gate_stride);
      const T* const up = reinterpret_cast<const T*>(task.up + row * task.up_stride);
      T* const out = reinterpret_cast<T*>(task.out + row * task.out_stride);
      std::int64_t i = 0;
      for (; i + S::kWidth <= task.length; i += S::kWidth) {
        S::store(out + i, S::mul(kFunction(S::load(gate + i)), S::load(up + i)));
      }
      if (const int n = static_cast<int>(task.length - i); n > 0) {
        S::store(out + i, S::mul(kFunction(S::load(gate + i, n)), S::load(up + i, n)), n);
      }
    }
  }
};

}  // namespace quire
