// Matrix products in vectors of float32, a column of the result in each lane.
//
// A weight's panel stays in the second-level cache while all rows go over it, some at a time, as
// many as leave registers for their sums. Rows are packed as float32, so that a number of x is one
// broadcast. The order of sums is that of linear.h, which does not know how many rows there are.
#pragma once

#include <algorithm>
#include <cstring>

#include "quire/cpu/gemm/finish_columns.h"
#include "quire/cpu/gemm/group_sums.h"
#include "quire/cpu/gemm/packed_numbers.h"

namespace quire {

template <class S>
struct LaneGemm {
  using Vec = typename S::Vec;
  using Pair = typename S::Pair;

  // Rows that go over a panel together: each has two sums of two vectors.
  static constexpr int kRows = S::kRowGroups[0] / 2;
  static constexpr int kVectors = 2;
  static constexpr int kColumns = kVectors * S::kWidth;
  static_assert(kPanelColumns % kColumns == 0);

  // A packed row: its numbers, and the sums of its groups.
  static std::int64_t row_floats(const GemmTask& task) {
    return task.depth + round_up(task.depth / task.group_depth, kHalfColumns);
  }

  static std::int64_t packed_bytes(const GemmTask& task) {
    return task.num_rows * row_floats(task) * std::int64_t{sizeof(float)};
  }

  static std::int64_t scratch_bytes(const GemmTask&, std::int64_t) {
    return kRows * kPanelColumns * std::int64_t{sizeof(float)};
  }

  static std::int64_t panels_at_once(const GemmTask&) { return 1; }

  static void pack_rows(const GemmTask& task, std::int64_t tile, std::byte* packed) {
    const std::int64_t end = std::min(task.num_rows, (tile + 1) * kTileRows);
    for (std::int64_t row = tile * kTileRows; row < end; ++row) {
      const std::byte* const from = task.x + row * task.x_stride;
      float* const to = reinterpret_cast<float*>(packed) + row * row_floats(task);
      if (task.x_dtype == DType::float32) {
        pack_row(task, reinterpret_cast<const float*>(from), to);
      } else if (task.x_dtype == DType::float16) {
        pack_row(task, reinterpret_cast<const Float16*>(from), to);
      } else {
        pack_row(task, reinterpret_cast<const BFloat16*>(from), to);
      }
    }
  }

  static void multiply(const GemmTask& task, const std::byte* packed, const PanelRange& panels,
                       std::byte* scratch) {
    if (task.format == DType::float32) return multiply_by<float>(task, packed, panels, scratch);
    if (task.format == DType::float16) return multiply_by<Float16>(task, packed, panels, scratch);
    if (task.format == DType::bfloat16) {
      return multiply_by<BFloat16>(task, packed, panels, scratch);
    }
    if (task.format == DType::int8) {
      return task.has_groups ? multiply_by<Int8InGroups>(task, packed, panels, scratch)
                             : multiply_by<Int8>(task, packed, panels, scratch);
    }
    multiply_by<Int4Numbers>(task, packed, panels, scratch);
  }

  static constexpr GemmPath path() {
    return {&packed_bytes, &scratch_bytes, &pack_rows, &multiply, &panels_at_once};
  }

 private:
  // How far before its use a weight is asked for, into the second-level cache, in bytes: a line
  // with each pair of K, since lines that are asked for all at once are waited for.
  static constexpr int kAhead = 8192;

  template <class T>
  static void pack_row(const GemmTask& task, const T* from, float* to) {
    std::int64_t k = 0;
    for (; k + S::kWidth <= task.row_length; k += S::kWidth) S::store(to + k, S::load(from + k));
    if (const int rest = static_cast<int>(task.row_length - k); rest > 0) {
      S::store(to + k, S::load(from + k, rest), rest);
    }
    std::memset(to + task.row_length, 0,
                static_cast<std::size_t>(task.depth - task.row_length) * sizeof(float));
    if (!task.has_groups) return;
    for (std::int64_t group = 0; group < task.depth / task.group_depth; ++group) {
      to[task.depth + group] = GroupSums<S>::sum(to + group * task.group_depth, task.group_depth);
    }
  }

  template <class T>
  static void multiply_by(const GemmTask& task, const std::byte* packed, const PanelRange& panels,
                          std::byte* scratch) {
    const float* const rows = reinterpret_cast<const float*>(packed);
    float* const sums = reinterpret_cast<float*>(scratch);
    for (std::int64_t i = 0; i < panels.count; ++i) {
      const std::byte* const panel = panels.data + i * task.panel_bytes;
      for (std::int64_t row = 0; row < task.num_rows;) {
        const std::int64_t count = add_rows<T, kRows>(task, rows + row * row_floats(task),
                                                      task.num_rows - row, panel, sums);
        for (std::int64_t r = 0; r < count; ++r) {
          FinishColumns<S>::run(task, row + r, panels.begin + i, sums + r * kPanelColumns,
                                kHalfColumns);
        }
        row += count;
      }
    }
  }

  // As many rows as there are, Rows at most; returns how many.
  template <class T, int Rows>
  static std::int64_t add_rows(const GemmTask& task, const float* rows, std::int64_t rest,
                               const std::byte* panel, float* sums) {
    if constexpr (Rows > 1) {
      if (rest < Rows) return add_rows<T, (Rows + 1) / 2>(task, rows, rest, panel, sums);
    }
    for (int column = 0; column < kPanelColumns; column += kColumns) {
      add_columns<T, Rows>(task, rows, panel, column, sums);
    }
    return Rows;
  }

  // The sums of Rows rows and kColumns columns over all of K.
  template <class T, int Rows>
  static void add_columns(const GemmTask& task, const float* rows, const std::byte* panel,
                          int column, float* sums) {
    using Numbers = PackedNumbers<S, T>;
    const std::int64_t stride = row_floats(task);
    Vec total[Rows][kVectors];
    clear(total);
    if constexpr (Numbers::kHasGroups) {
      Vec sums_of_group[Rows][kVectors];
      for (std::int64_t k = 0, group = 0; k < task.depth; k += task.group_depth, ++group) {
        const std::byte* block = panel + group * task.group_bytes;
        clear(sums_of_group);
        for (std::int64_t i = 0; i < task.group_depth; i += kBlockDepth) {
          add_block<T, Rows>(rows + k + i, stride, block, column, sums_of_group);
          block += 2 * Numbers::kHalfBytes;
        }
        const auto* const scales = reinterpret_cast<const float*>(block) + column;
        for (int at = 0; at < kGroupScaleBytes; at += 64) S::prefetch(block + kAhead + at);
        add_group<Rows>(scales, rows + task.depth + group, stride, sums_of_group, total);
      }
    } else {
      for (std::int64_t k = 0; k < task.depth; k += kBlockDepth, panel += 2 * Numbers::kHalfBytes) {
        add_block<T, Rows>(rows + k, stride, panel, column, total);
      }
    }
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        S::store(sums + r * kPanelColumns + column + v * S::kWidth, total[r][v]);
      }
    }
  }

  template <int Rows>
  static void clear(Vec (&sums)[Rows][kVectors]) {
    for (auto& row : sums) {
      for (Vec& sum : row) sum = S::zero();
    }
  }

  // What a group adds to the totals: its sums times the scales, then x's sums times the offsets.
  template <int Rows>
  static void add_group(const float* scales, const float* x_sums, std::int64_t stride,
                        const Vec (&sums)[Rows][kVectors], Vec (&total)[Rows][kVectors]) {
    for (int v = 0; v < kVectors; ++v) {
      const Vec scale = S::load(scales + v * S::kWidth);
      const Vec offset = S::load(scales + kPanelColumns + v * S::kWidth);
      for (int r = 0; r < Rows; ++r) {
        total[r][v] = S::fma(sums[r][v], scale, total[r][v]);
        total[r][v] = S::fma(S::set1(x_sums[r * stride]), offset, total[r][v]);
      }
    }
  }

  // 32 numbers of K: even and odd products apart, then together, then onto the sums.
  template <class T, int Rows>
  static void add_block(const float* rows, std::int64_t stride, const std::byte* block, int column,
                        Vec (&total)[Rows][kVectors]) {
    using Numbers = PackedNumbers<S, T>;
    constexpr int kQuarters = 4;
    constexpr int kPairs = kBlockDepth / 2 / kQuarters;
    constexpr int kLines = 2 * Numbers::kHalfBytes / 64 / kQuarters;
    Pair sums[Rows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] = {S::zero(), S::zero()};
    }
    for (int quarter = 0; quarter < kQuarters; ++quarter) {
      for (int line = 0; line < kLines; ++line) {
        S::prefetch(block + kAhead + (quarter * kLines + line) * 64);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kPairs; ++i) {
        add_pair<T, Rows>(rows, stride, block, column, quarter * kPairs + i, sums);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        total[r][v] = S::add(total[r][v], S::add(sums[r][v].lo, sums[r][v].hi));
      }
    }
  }

  // A pair of K of all rows.
  template <class T, int Rows>
  static void add_pair(const float* rows, std::int64_t stride, const std::byte* block, int column,
                       int pair, Pair (&sums)[Rows][kVectors]) {
    using Numbers = PackedNumbers<S, T>;
    Pair numbers[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const int at = column + v * S::kWidth;
      numbers[v] = Numbers::pair(block + at / kHalfColumns * Numbers::kHalfBytes, pair,
                                 static_cast<int>(at % kHalfColumns));
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec even = S::set1(rows[r * stride + 2 * pair]);
      const Vec odd = S::set1(rows[r * stride + 2 * pair + 1]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v].lo = S::fma(even, numbers[v].lo, sums[r][v].lo);
        sums[r][v].hi = S::fma(odd, numbers[v].hi, sums[r][v].hi);
      }
    }
  }
};

}  // namespace quire
