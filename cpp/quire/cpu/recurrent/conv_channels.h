// A convolution along tokens, as ops/recurrent/causal_conv1d.h says, of up to kChannelsAtOnce
// channels. Their weights and last numbers lie together as floats: 16 KiB with the 4 taps that
// models have, which the first-level cache holds, and 64 KiB with kMostTaps, which the second-level
// one does.
#pragma once

#include <algorithm>

#include "quire/cpu/plain_rows.h"
#include "quire/cpu/recurrent/recurrent_tasks.h"
#include "quire/cpu/rowwise/activations.h"
#include "quire/ops/recurrent/causal_conv1d.h"

namespace quire {

template <class S>
class ConvChannels {
 public:
  static void run(const ConvTask& task) {
    PlainRows<S>::visit(task.dtype, [&](auto type) { tokens<decltype(type)>(task); });
  }

 private:
  using Vec = typename S::Vec;
  static constexpr std::int64_t kMostTaps = CausalConv1dArgs::kMostTaps;

  // Of each tap, or token before the first one, a row of channels.
  struct Rows {
    alignas(64) float weight[kMostTaps * kChannelsAtOnce];
    alignas(64) float past[kMostTaps * kChannelsAtOnce];
    alignas(64) float bias[kChannelsAtOnce];
  };

  template <class T>
  static void tokens(const ConvTask& task) {
    Rows rows;
    gather(task.weight, task.weight_stride, task.weight_dtype, task.num_channels, task.taps,
           rows.weight);
    gather(task.state, task.state_stride, task.state_dtype, task.num_channels, task.taps - 1,
           rows.past);
    std::fill(rows.bias, rows.bias + kChannelsAtOnce, 0.0f);
    if (task.bias != nullptr) {
      gather(task.bias, static_cast<std::int64_t>(size_of(task.bias_dtype)), task.bias_dtype,
             task.num_channels, 1, rows.bias);
    }
    for (std::int64_t t = 0; t < task.num_tokens; ++t) {
      T* const out = reinterpret_cast<T*>(task.out + t * task.out_stride);
      for (std::int64_t c = 0; c < task.num_channels; c += S::kWidth) {
        const int n = PlainRows<S>::lanes(task.num_channels - c);
        Vec sum = S::load(rows.bias + c);
        for (std::int64_t j = 0; j < task.taps; ++j) {
          sum = S::fma(S::load(rows.weight + j * kChannelsAtOnce + c),
                       number<T>(task, rows, t + j, c, n), sum);
        }
        if (task.silu) sum = Activations<S>::silu(sum);
        S::store(out + c, sum, n);
      }
    }
    keep_last<T>(task, rows);
  }

  // Channels from c on of what was `taps - 1` tokens before token `at`.
  template <class T>
  static Vec number(const ConvTask& task, const Rows& rows, std::int64_t at, std::int64_t c,
                    int n) {
    const std::int64_t token = at - (task.taps - 1);
    if (token < 0) return S::load(rows.past + at * kChannelsAtOnce + c);
    return S::load(reinterpret_cast<const T*>(task.x + token * task.x_stride) + c, n);
  }

  // Numbers [channel][i] as floats [i][channel].
  static void gather(const std::byte* from, std::int64_t stride, DType dtype, std::int64_t channels,
                     std::int64_t count, float* to) {
    PlainRows<S>::visit(
        dtype, [=](auto type) { gather_of<decltype(type)>(from, stride, channels, count, to); });
  }
  template <class T>
  static void gather_of(const std::byte* from, std::int64_t stride, std::int64_t channels,
                        std::int64_t count, float* to) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const T* const row = reinterpret_cast<const T*>(from + c * stride);
      for (std::int64_t i = 0; i < count; ++i) to[i * kChannelsAtOnce + c] = widened(row + i);
    }
    const std::int64_t end = (channels + S::kWidth - 1) / S::kWidth * S::kWidth;
    for (std::int64_t i = 0; i < count; ++i) {
      std::fill(to + i * kChannelsAtOnce + channels, to + i * kChannelsAtOnce + end, 0.0f);
    }
  }

  // The last taps - 1 numbers become the state.
  template <class T>
  static void keep_last(const ConvTask& task, const Rows& rows) {
    if (task.state_dtype == DType::float32) return keep_last_as<T, float>(task, rows);
    keep_last_as<T, T>(task, rows);
  }
  template <class T, class State>
  static void keep_last_as(const ConvTask& task, const Rows& rows) {
    for (std::int64_t c = 0; c < task.num_channels; ++c) {
      State* const to = reinterpret_cast<State*>(task.state + c * task.state_stride);
      for (std::int64_t i = 0; i < task.taps - 1; ++i) {
        const std::int64_t token = task.num_tokens - (task.taps - 1) + i;
        const float kept =
            token < 0 ? rows.past[(token + task.taps - 1) * kChannelsAtOnce + c]
                      : widened(reinterpret_cast<const T*>(task.x + token * task.x_stride) + c);
        S::store(to + i, S::set1(kept), 1);
      }
    }
  }

  template <class T>
  static float widened(const T* p) {
    float lanes[S::kWidth];  // a sum of them would lose the sign of a zero
    S::store(lanes, S::load(p, 1));
    return lanes[0];
  }
  static float widened(const float* p) { return *p; }
};

}  // namespace quire
