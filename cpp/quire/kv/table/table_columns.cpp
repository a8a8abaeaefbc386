#include "quire/kv/table/table_columns.h"

#include "quire/base/check.h"
#include "quire/kv/ledger/block_ledger.h"

namespace quire {

void TableColumns::fill_slots(std::int64_t first, std::span<std::int64_t> slots) const {
  std::int64_t column = first / block_size;
  std::int64_t row = first % block_size;
  for (std::int64_t& slot : slots) {
    slot = read_id(column) * block_size + row;
    if (++row == block_size) {
      row = 0;
      ++column;
    }
  }
}

void TableColumns::require_no_hole(std::string_view where, std::int64_t tokens) const {
  for (std::int64_t column = 0; column * block_size < tokens; ++column) {
    if (blocks[column] != kHole) continue;
    raise<ValueError>(where, "got a hole at column ", column, ", of ",
                      counted(block_size, "dropped token"), ", expected all of the first ", tokens);
  }
}

void TableColumns::check() const {
  const auto fail = [](const char* what, std::int64_t got, const auto&... expected) {
    raise<InvariantError>(place("BlockTable.check", what), "got ", got, ", expected ", expected...);
  };
  if (num_tokens < 0) fail("tokens", num_tokens, ">= 0");
  if (size() != columns_of(num_tokens)) fail("columns", size(), columns_of(num_tokens));
  if (!blocks.empty() && blocks.back() == kHole && last_rows() < block_size) {
    fail("last block", blocks.back(), "no hole, as it has free rows");
  }
  history.check(num_tokens);
  for (std::int64_t column = first_pinned(); column < size(); ++column) {
    const std::int32_t id = history.ids()[column - first_pinned()];
    if ((id == kHole) != (blocks[column] == kHole)) {
      fail("open id", id, blocks[column] == kHole ? "a hole, as the block is one" : "no hole");
    }
  }
}

}  // namespace quire
