#include "quire/kv/prefix/prefix_window.h"

#include <algorithm>
#include <iterator>

#include "quire/kv/ledger/block_ledger.h"

namespace quire {

// Of the columns without a hole between them that end together, the whole is what to try: who takes
// fewer of them needs earlier ones.
bool cut_to_window(const PrefixWindow& window, std::int64_t block_size, std::int64_t rest_rows,
                   std::vector<std::int32_t>* columns) {
  const auto columns_of = [&](std::int64_t tokens) {
    return tokens / block_size + (tokens % block_size != 0);
  };
  const std::int64_t whole =
      std::find(columns->begin(), columns->end(), kHole) - columns->begin();  // before any hole
  for (std::int64_t end = std::ssize(*columns), rows = rest_rows; end > 0 || rows > 0; rows = 0) {
    std::int64_t begin = end;
    while (begin > 0 && (*columns)[begin - 1] != kHole) --begin;
    const std::int64_t tokens = end * block_size + rows;
    const std::int64_t first_seen =
        std::max<std::int64_t>(0, tokens - (window.size - 1)) / block_size;
    const std::int64_t sinks = std::min(columns_of(std::min(window.num_sink_tokens, tokens)), end);
    if (begin <= first_seen && sinks <= whole) {
      columns->resize(end);
      for (std::int64_t column = sinks; column < std::min(first_seen, end); ++column) {
        (*columns)[column] = kHole;
      }
      return rows > 0;
    }
    for (end = begin; end > 0 && (*columns)[end - 1] == kHole;) --end;
  }
  columns->clear();
  return false;
}

}  // namespace quire
