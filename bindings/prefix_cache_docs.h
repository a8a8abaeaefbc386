// What help() shows of the prefix cache, in the form of docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kPrefixCache =
    R"(PrefixCache(pool, *, max_blocks=None)
--

Keys and values that stay after their sequence, for others that begin with the same tokens.

Blocks are shared by reference, with any number of tables at once. Those that only the cache holds
are given back when the pool runs out, those of the lowest priority first, of one priority those used
least recently, and the end of a sequence before its beginning; what is pinned stays. len(cache) is the number of cached blocks; one that stands at two places, as
in two namespaces, counts twice. A block stands at 16 places at most, and leaves the one where it was
inserted longest ago for another: so what a cache remembers is bounded by the blocks of the pool,
however often a table that is in use is inserted. Safe to use from several threads.

Of a pool with open_blocks (of int4 always) what is cached is sealed. So after a hit attention does
not give the bits of a sequence that was computed from its first token on, which reads its last blocks
open. In all other pools a hit changes no bit.

Args:
    pool: a BlockPool. max_blocks: the most blocks that are cached; None: as many as there are.

Raises:
    ValueError: max_blocks below 0. TypeError.

Example:
    >>> cache = PrefixCache(pool)
    >>> table = cache.match(token_ids)            # what is known already
    >>> table.append(k[len(table):], v[len(table):])
    >>> cache.insert(token_ids, table)            # for those who come later
)";

inline constexpr const char* kMatch =
    R"(match(self, token_ids, *, namespace='', sliding_window=None, num_sink_tokens=0)
--

A new table that shares the longest cached prefix, of at most len(token_ids) - 1 tokens.

Whole blocks are shared. Where a further block only begins alike, the rows that match are copied
into a block of the table's own. With open_blocks the table reads whole blocks sealed, also those that
the table which was inserted has read open, and the copied rows as what they stand for when sealed,
rounded to bfloat16: what attend gives after a match differs from what it gave there.

With sliding_window=W a prefix is a hit where all is there that the next query sees, as attend with the
same options has it: its own token and the W - 1 before it, and the first num_sink_tokens. The table has
these blocks and holes, -1, in place of all others, as after drop_before. So it finds sequences that
were inserted with holes; without a window a match ends at the first hole.

Args:
    token_ids: [n] int32 or int64, or a list or other iterable of ints; any of -2**63 to 2**63 - 1.
    namespace: nothing is shared between namespaces.
    sliding_window: tokens, 1 or more; None: all are needed. num_sink_tokens: 0 or more; without a
        window it changes nothing.

Returns:
    A BlockTable of as many tokens as were found, maybe none.

Raises:
    OutOfBlocks: rows are to be copied, and no block is free or cached. ValueError: a wrong shape, an
    id of more than 64 bits, sliding_window below 1, or num_sink_tokens below 0. TypeError. Nothing has
    been changed then.

Example:
    >>> table = cache.match([1, 2, 3, 4], namespace='tenant 7')
    >>> table = cache.match(token_ids, sliding_window=1024, num_sink_tokens=4)
)";

inline constexpr const char* kPeek =
    R"(peek(self, token_ids, *, namespace='', sliding_window=None, num_sink_tokens=0)
--

How many tokens match would find now, of at most len(token_ids) - 1.

It takes nothing: no table is made, nothing is counted in stats(), and what is evicted next stays the
same. So a router can ask several caches, and a scheduler order what waits. By the time of the match
another thread may have changed the answer.

Args:
    token_ids, namespace, sliding_window, num_sink_tokens: as for match.

Returns:
    A number of tokens, 0 where the beginning is unknown.

Raises:
    ValueError: as match. TypeError.

Example:
    >>> best = max(caches, key=lambda cache: cache.peek(token_ids))
)";

inline constexpr const char* kInsert =
    R"(insert(self, token_ids, table, *, namespace='', priority=0)
--

Makes the table's first len(token_ids) tokens, which have been written, matchable.

The table stays the caller's; freed, it leaves its blocks in the cache. A last block that is filled
in part is cached too; a table that goes on in it copies it first. What is cached already stays as
it is. Where max_blocks are cached and all in use, only the first blocks are kept. A table with holes
is cached with its holes: what stands after them is found with a sliding_window, until another table
that has the missing blocks is inserted, and is not saved. With open_blocks
only full blocks are cached, as sealed ones; the table reads its own as before, so that whoever matches
them does not get the same bits from attend while the table has some of them open.

Args:
    token_ids: as for match. table: a BlockTable of the cache's pool. namespace: as for match.
    priority: -100 to 100. Of blocks that only caches hold those of a lower one go first, however
        recently they were used; a block that is inserted several times has the highest, until it is
        evicted. It says nothing of blocks in use, for which even the highest makes room: pin keeps.

Raises:
    ValueError: more token_ids than the table has tokens, a table of which keep has removed some of
    these, a freed one or one of another pool, or a priority out of range. TypeError. Nothing has been
    changed then.

Example:
    >>> cache.insert([1, 2, 3, 4], table, namespace='tenant 7')
    >>> cache.insert(system_prompt, table, priority=10)
)";

inline constexpr const char* kPin =
    R"(pin(self, token_ids, *, namespace='')
--

Keeps what is cached of token_ids from eviction, until it is unpinned, and returns how many tokens.

It is what peek(token_ids + [any]) says: whole blocks, and one that begins with the rest of them. What
the pool runs out of does not matter; the error of a pool that runs out says how many blocks are
pinned, as pool.stats().pinned does. Pins are counted: what was pinned twice is unpinned twice. Blocks
that are cached later are not pinned by it. Pins are not saved.

Args:
    token_ids: as for match. namespace: as for match.

Returns:
    How many of the tokens are pinned, 1 or more; len(token_ids) where all are cached.

Raises:
    ValueError: none of the tokens is cached, a wrong shape, or an id of more than 64 bits. TypeError.

Example:
    >>> cache.insert(system_prompt, table)
    >>> cache.pin(system_prompt)
    64
)";

inline constexpr const char* kUnpin =
    R"(unpin(self, token_ids, *, namespace='')
--

Takes back a pin of exactly these token_ids, the latest; the blocks are the newest of the cache then.

Args:
    token_ids: as they were pinned. namespace: as it was pinned in.

Raises:
    ValueError: they are not pinned, as after clear(), a wrong shape, or an id of more than 64 bits.
    TypeError. Nothing has been changed then.

Example:
    >>> cache.unpin(system_prompt)
)";

inline constexpr const char* kEvict =
    R"(evict(self, num_blocks)
--

Gives up to num_blocks blocks that only the cache holds back to the pool, and returns how many.

They go in the order in which the pool would take them. Raises ValueError below 0.

Example:
    >>> cache.evict(16)
    16
)";

inline constexpr const char* kClear =
    R"(clear(self)
--

Forgets all that is cached, what is pinned too. Blocks that tables hold stay theirs; the statistics stay as well.

Example:
    >>> cache.clear()
)";

inline constexpr const char* kCacheStats =
    R"(stats(self)
--

What was asked, found and given up so far, as a PrefixCacheStats. Costs the same at any size.

Example:
    >>> stats = cache.stats()
    >>> stats.tokens_matched / stats.tokens_asked
)";

inline constexpr const char* kPrefixCacheStats = R"(Counts of a PrefixCache, since it was made.)";

inline constexpr const char* kMissesByReason =
    R"(Misses by their reason: a dict whose values sum to misses.

It goes by what is remembered, in bounded memory (16,384 beginnings), of the first block of token_ids
in the namespace:

    cold: never seen, or not remembered.
    short: no more tokens than a block, so that no whole block could match.
    evicted: was cached, and had to go.
    other_namespace: is cached in another namespace.
    preempted: was asked for before, but the table of that match was freed before it was inserted,
        as when a sequence is preempted.
)";

}  // namespace quire::python::docs
