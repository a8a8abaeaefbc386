// Rows of plain floats of one dtype as rows of another.
#pragma once

#include "quire/cpu/attention/attention_rows.h"
#include "quire/task/cache_task.h"

namespace quire {

template <class S>
struct ConvertRows {
  static void run(const RowsCopy& rows, DType from, DType to) {
    AttentionRows<S>::visit(from, [&](auto from_type) {
      AttentionRows<S>::visit(to, [&](auto to_type) {
        for (std::int64_t row = 0; row < rows.count; ++row) {
          convert_row(
              reinterpret_cast<const decltype(from_type)*>(rows.from + row * rows.from_stride),
              reinterpret_cast<decltype(to_type)*>(rows.to + row * rows.to_stride), rows.length);
        }
      });
    });
  }

 private:
  template <class From, class To>
  static void convert_row(const From* from, To* to, std::int64_t length) {
    std::int64_t i = 0;
    for (; i + S::kWidth <= length; i += S::kWidth) S::store(to + i, S::load(from + i));
    if (const int rest = static_cast<int>(length - i); rest > 0) {
      S::store(to + i, S::load(from + i, rest), rest);
    }
  }
};

}  // namespace quire
