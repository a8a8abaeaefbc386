// What of a cached sequence a query with a sliding window needs.
//
//   columns, of 4 tokens       [ 5 | -1 | -1 | 2 | 8 ] and 2 rows: 22 tokens, two columns dropped
//   size 8, num_sink_tokens 1  the next query sees the 7 tokens before it, of columns 3, 4 and the
//                              rows, and token 0: all 22 tokens are a hit
//   size 12                    the 11 tokens before token 22 are not all there; but token 4 can go
//   on
//                              from column 0
#pragma once

#include <cstdint>
#include <vector>

namespace quire {

struct PrefixWindow {
  std::int64_t size = 0;  // as sliding_window of attention, the query's own token included; 0: none
  std::int64_t num_sink_tokens = 0;  // the first ones, which queries see beside it
};

// Cuts what was found, blocks of the first columns and holes and then maybe rows of a block, down
// to the longest beginning of which all is there that the next query sees, and makes holes of what
// it does not see. Returns whether the rows are part of it. `window` has a size.
bool cut_to_window(const PrefixWindow& window, std::int64_t block_size, std::int64_t rest_rows,
                   std::vector<std::int32_t>* columns);

}  // namespace quire
