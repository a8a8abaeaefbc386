// What help() shows of explain; see docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kExplain =
    R"(explain(self, table)
--

Which blocks a table has, how far each is filled, and who holds it, all as of one moment.

Args:
    table: a BlockTable of this pool.

Returns:
    A TableReport: .blocks has a BlockReport for each block, in the order of the tokens, with id (-1:
    a hole), num_tokens, filled_rows, tables, caches, users, references, is_resident and is_open. It
    shows itself as a few lines, however long the table.

Raises:
    TypeError: not a BlockTable. ValueError: a freed one, or one of another pool.

Example:
    >>> pool.explain(table)
    37 tokens in 3 blocks of 16: 2 shared, 1 private
      column   block  tokens  held by
           0       0   16/16  2 tables, 1 cache
           1       3   16/16  2 tables
           2       5    5/16  this table
)";

}  // namespace quire::python::docs
