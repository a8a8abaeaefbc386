// What help() shows of blocks that leave memory, in the form of docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kResidentBlocks =
    R"(Whether each block is kept in memory, in all layers: bool [num_blocks], a copy.

Blocks whose rows are open are. All True for a pool without backing_file and resident_bytes.)";

inline constexpr const char* kOffload =
    R"(offload(self)
--

Moves the sequence out of memory, into the pool's backing file. Returns how many blocks went.

The table stays what it is: attention streams it, and what is appended is in memory again. Blocks
that another table or a user holds as well stay; they are the next to go when room is needed and
nobody has used them. Rows that the table reads open stay in memory too.

Raises:
    ValueError: a freed table, or a pool without backing_file and resident_bytes. OSError: the file
    cannot be written.

Example:
    >>> waiting.offload()           # room for those that run
    >>> waiting.restore()
)";

inline constexpr const char* kRestore =
    R"(restore(self)
--

Moves the sequence back into memory, and others out where room is needed. Returns how many blocks
came.

Nothing has to be restored: attention over blocks that are not in memory streams them.

Raises:
    ValueError: a freed table, a pool without backing_file and resident_bytes, or a table larger
    than what the pool keeps in memory. OSError.

Example:
    >>> table.restore()
)";

}  // namespace quire::python::docs
