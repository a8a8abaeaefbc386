// What help() shows of BlockTable; see docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kBlockTable =
    R"(BlockTable(pool)
--

One sequence, and the blocks that hold its keys and values.

Freed by free(), at the end of a with statement, or when it is collected. Safe to use from several
threads. len(table) is its number of tokens, np.asarray(table) its block ids.

Example:
    >>> with BlockTable(pool) as table:
    ...     table.append(k, v)
    ...     out = attend(q, [table])
)";

inline constexpr const char* kBlocks =
    R"(The block ids in the order of the sequence, int32, a copy; -1 is a hole.)";

inline constexpr const char* kExtend = R"(extend(self, n)
--

Room for n more tokens, as a slot_mapping, int64 [n].

A last block that is shared and has free rows is copied first. Of a pool with open_blocks these are
slots of open blocks, behind those of k_cache, for write_kv with k_open and v_open, and to be written
before the table is extended again; a sealed last block is copied as well, and stays the table's
beside the copy while truncate can go back to it. Raises OutOfBlocks, with the table as it was,
ValueError for n < 0 or a freed table.

Example:
    >>> write_kv(k, v, pool.k_cache(), pool.v_cache(), table.extend(len(k)))
)";

inline constexpr const char* kAppend = R"(append(self, k, v=None)
--

extend and write in one step, on threads as write_kv.

Args:
    k: [n, num_kv_heads, head_dim], or [num_layers, n, num_kv_heads, head_dim] where the pool has
        several layers. v: likewise with v_head_dim; None where the pool has shared=True, as values are
        the beginnings of its keys. float32, float16 or bfloat16. A quantised pool gets them with scales of their own, as in write_kv. One with open_blocks rounds them to
        bfloat16, which they have to be finite in, of int4 at most 65504 in magnitude, and seals all
        blocks but the last: with the same bits whether tokens come one by one or all at once.

Raises:
    OutOfBlocks, TypeError, ValueError, with the table as it was.

Example:
    >>> table.append(k, v)
)";

inline constexpr const char* kFork =
    R"(fork(self)
--

A second table of the same tokens. It shares every block; the first write to a shared one copies it.

Example:
    >>> child = table.fork()
)";

inline constexpr const char* kTruncate =
    R"(truncate(self, num_tokens)
--

Forgets all but the first num_tokens tokens and gives back blocks that only the others needed.

Tokens that were only tried out leave no trace: attend and gather read those that stay with the bits
that they had before the others came, and what is appended next gets those that it would have had
without them. Always so in a pool without open_blocks. In one that has some, where blocks are sealed
as a table grows, it is so as long as the table has had at most num_tokens + 64 tokens since it had
num_tokens, whether they are taken back at once or in steps, in forks too; further back, blocks that
were sealed 64 tokens before the longest it has been stay sealed. What match, load_table and keep give
goes back to what it was then: shorter, its blocks are read as they were read.

Raises ValueError unless 0 <= num_tokens <= len(table), and where the last token left would lie
within a hole, whose other rows cannot be written again; the end of a hole is allowed. The next
token takes the position of the first that goes, or 0 where none is left.

Example:
    >>> table.truncate(len(table) - 1)
)";

inline constexpr const char* kDropBefore =
    R"(drop_before(self, position, *, num_sink_tokens=0)
--

Gives back the blocks that a sliding window can no longer see, and leaves holes.

len(table) stays. A hole is -1 in blocks, np.asarray(table) and pack_tables; a fork has it too.
Attention with a sliding_window that does not reach a hole goes on as before, to the bit; whatever
would read one raises.

Args:
    position: blocks whose tokens all stand before it go. At most that of the next token; below 0
        nothing goes.
    num_sink_tokens: blocks with one of the first so many tokens stay, for attention with the same
        num_sink_tokens.

Raises:
    TypeError, ValueError, with the table as it was.

Example:
    >>> table.drop_before(len(table) + 1 - 1024, num_sink_tokens=4)
    >>> out = attend(q, [table], sliding_window=1024, num_sink_tokens=4)
)";

inline constexpr const char* kKeep =
    R"(keep(self, positions)
--

Forgets all tokens but some, and moves those into the leading blocks; the others are given back.

Tokens keep their positions, for causal, sliding_window and alibi_slopes, and the next one stands
where it would have stood. Rows move within blocks that are the table's alone; blocks that others
hold, and holes, are replaced by new ones. With open_blocks, all but the last are sealed: where
truncate could go back to the first token that is taken out, with the bits that the others would have
without it, else after rows have moved as the table reads them.

Args:
    positions: [n] int32 or int64, growing, of `positions`. Whoever picked indices keeps
        table.positions[indices].

Raises:
    ValueError: positions that do not grow. IndexError: one where no token is, or that was dropped.
    OutOfBlocks, TypeError. The table is as it was then.

Example:
    >>> table.keep(np.array([0, 1, 2, 3, 60, 61, 62, 63]))
    >>> table.positions, table.next_position
    (array([ 0,  1,  2,  3, 60, 61, 62, 63]), 64)
)";

inline constexpr const char* kPositions =
    R"(Where each token stands in its sequence, int64 [num_tokens], a copy: 0, 1, 2, ... before keep.)";

inline constexpr const char* kNextPosition =
    R"(Where the next token will stand: the tokens of the table and those that keep took out.)";

inline constexpr const char* kGather =
    R"(gather(self, layer=0)
--

(k [num_tokens, num_kv_heads, head_dim], v [num_tokens, num_kv_heads, v_head_dim]), both copies.

Of the pool's dtype; of a quantised pool float32: numbers times their scales, or what the table
reads, sealed or open.

Raises IndexError for an unknown layer, ValueError where a block is a hole.

Example:
    >>> k, v = table.gather()
)";

inline constexpr const char* kFree =
    R"(free(self)
--

Gives all blocks back. Any use of the table after it raises ValueError.

Example:
    >>> table.free()
)";

inline constexpr const char* kPackTables =
    R"(pack_tables(tables, *, pad=-1)
--

(block_tables int32 [B, max_blocks], seq_lens int32 [B]) of tables of one pool.

Args:
    tables: BlockTables, in any iterable. pad: stands in the columns past a table's last block. Of a
        pool with open_blocks, open ones have num_blocks added: block num_blocks + i is
        pool.k_open()[i].

Raises:
    ValueError for a freed table or tables of two pools; TypeError.

Example:
    >>> block_tables, seq_lens = pack_tables([table, child])
)";

}  // namespace quire::python::docs
