// Rows, dealt to threads.
#pragma once

#include "quire/base/thread_pool.h"
#include "quire/ops/row_arrays.h"

namespace quire {

// What pays for a thread, in numbers that are read or written: some 20 us.
inline constexpr std::int64_t kRowWorkOfOne = 1 << 16;
// Numbers of an item: large enough to cost more than being dealt, small enough for a cache.
inline constexpr std::int64_t kRowsAtOnce = 1 << 14;

// Calls body(first row, number of rows) for all rows of `numbers_of_row` numbers each, in runs that
// are a fixed step apart. Rows are computed one by one, so no bit knows how they are dealt.
template <class Body>
void deal_rows(const RowAxes& rows, std::int64_t numbers_of_row, int num_threads,
               const Body& body) {
  const std::int64_t num_rows = rows.num_rows();
  const std::int64_t at_once = std::max<std::int64_t>(1, kRowsAtOnce / numbers_of_row);
  const std::int64_t items = (num_rows + at_once - 1) / at_once;
  const Crew crew = crew_for(num_rows * numbers_of_row, kRowWorkOfOne, items, num_threads);
  deal(crew, items, [&](std::int64_t item, int) {
    const std::int64_t end = std::min(num_rows, (item + 1) * at_once);
    for (std::int64_t row = item * at_once; row < end;) {
      const std::int64_t count = rows.run_from(row, end);
      body(row, count);
      row += count;
    }
  });
}

}  // namespace quire
