// What help() shows of on_event; see docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kOnEvent =
    R"(on_event(self, callback)
--

Calls callback(kind, block_ids) for all that happens to blocks from now on; None: no more.

kind is a str and block_ids a tuple of ints:

    allocated: blocks that were free have their first reference.
    shared: blocks in use have one reference more, of a table, a user or a cache.
    copied: (from, to): rows of a shared block were copied, for a table to write after them.
    evicted: a cache gave a block up, for want of room or asked to; not by clear().
    offloaded: blocks in use are not kept in memory any more, or found no room there.
    restored: blocks in use that were offloaded are kept in memory again.
    freed: blocks have lost their last reference.

So the blocks in use are those allocated and not freed since; of a pool with resident_bytes those of
them are not kept in memory that were offloaded and not restored since. A call that is refused may
name blocks that it took and gave back.

The callback runs before the call that made the event returns, in the order in which things
happened, and under no lock: it may use pools, tables and caches, and what comes of that is told
after it returns: one that takes or frees a block for every event it hears is told of that for ever,
and the call never returns. Where several threads work, one calls it for all, one event at a time; the others
do not wait. What it raises goes to sys.unraisablehook, and changes nothing. It is kept, with all
that it refers to, until it is replaced or the pool goes: one that refers to the pool keeps it
alive.

Args:
    callback: a callable, or None.

Returns:
    The former callback, or None. A thread may be calling it still.

Raises:
    TypeError: neither a callable nor None.

Example:
    >>> former = pool.on_event(lambda kind, block_ids: print(kind, block_ids))
    >>> pool.release(pool.allocate(2))
    allocated (0, 1)
    freed (0, 1)
)";

inline constexpr const char* kOnCacheEvent =
    R"(on_event(self, callback)
--

Calls callback(event) for each node that is stored or removed from now on; None: no more.

event is a quire.PrefixEvent: some tokens, at most a block of them, after those of their parent. Who
keeps the nodes that were stored and not removed since knows what is cached, as a router does that sends
a request to the server that has most of it. What is cached already is not told. As with
BlockPool.on_event the callback runs before the call that made the event returns, under no lock, one
event at a time and in order; it may use the cache and its pool. What it raises goes to
sys.unraisablehook. A cache that goes tells nothing; clear it before.

Args:
    callback: a callable, or None.

Returns:
    The former callback, or None. A thread may be calling it still.

Raises:
    TypeError: neither a callable nor None.

Example:
    >>> former = cache.on_event(lambda event: print(event.kind, event.token_ids))
    >>> cache.insert([1, 2, 3], table)
    stored (1, 2, 3)
)";

}  // namespace quire::python::docs
