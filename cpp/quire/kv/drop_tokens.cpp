// Tokens in the middle of a sequence that a table gives up.
#include <algorithm>
#include <span>

#include "quire/base/check.h"
#include "quire/kv/block_table.h"

namespace quire {

void BlockTable::drop_before(std::int64_t position, std::int64_t num_sink_tokens) {
  constexpr std::string_view function = "BlockTable.drop_before";
  const std::lock_guard lock(mutex_);
  require_in_use(function);
  if (position > num_tokens_) {
    raise<ValueError>(place(function, "position"), "got ", position, ", expected at most ",
                      num_tokens_, ", the position of the next token");
  }
  if (num_sink_tokens < 0) {
    raise<ValueError>(place(function, "num_sink_tokens"), "got ", num_sink_tokens,
                      ", expected >= 0");
  }
  const std::int64_t end = std::max<std::int64_t>(0, position) / block_size_;
  const std::int64_t begin = num_sink_tokens / block_size_ + (num_sink_tokens % block_size_ != 0);
  if (begin >= end) return;
  const auto dropped = std::span(blocks_).subspan(begin, end - begin);  // of full blocks
  BlockPool::Books(*pool_)->drop(dropped, block_size_);
  std::fill(dropped.begin(), dropped.end(), kHole);
}

void BlockTable::require_no_hole(std::string_view where, std::int64_t num_tokens) const {
  for (std::int64_t column = 0; column * block_size_ < num_tokens; ++column) {
    if (blocks_[column] != kHole) continue;
    raise<ValueError>(where, "got a hole at column ", column, ": its ", block_size_,
                      " tokens were dropped, expected all of the first ", num_tokens);
  }
}

}  // namespace quire
