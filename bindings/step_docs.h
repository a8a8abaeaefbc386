// What help() shows of Step; see docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kStep =
    R"(Step(tables, num_tokens)
--

Some new tokens of many sequences on their way through all layers of a model.

It has room for the new tokens in every table, and finds once what all layers have in common: their
tables packed and checked, and how the work is cut. tables are different BlockTables of one pool,
num_tokens is how many tokens each gets, an int >= 0 for all or one for each. The bits are those of
BlockTable.extend, write_kv and attend by hand; scales, grids and open blocks are the pool's affair.

In a with statement an exception takes every table back to the length that it had; take_back() does
so without one. Whoever changes one of the tables before the last layer is done ends the step: what
follows raises ValueError. One thread at a time may use a step.

Raises:
    OutOfBlocks: the pool has too little room for all; no table has changed. ValueError: a freed
    table, one that is named twice, tables of two pools, or a number below 0. TypeError.

Example:
    >>> with Step([table, table.fork()], 1) as step:
    ...     for layer in range(pool.num_layers):
    ...         out = step.attend(q, k, v, layer=layer)     # rows [2, Hq, D], [2, Hkv, D]
)";

inline constexpr const char* kStepAttend =
    R"(Writes the new tokens' keys and values of a layer, then attends with the new tokens as queries.

Args:
    q: [T, Hq, D], the new tokens of the first table, then those of the second, and so on; T is
        num_tokens.
    k: [T, Hkv, D]. v: [T, Hkv, Dv], None where the pool has shared=True. float32, float16 or bfloat16.
        None and None: they have been written.
    layer: of the pool.
    The other options are those of attend; cu_seqlens_q is None, as the step has its own.

Returns:
    out [T, Hq, Dv], or a tuple, as paged_attention.

Raises:
    As attend and write.

Example:
    >>> out = step.attend(q, k, v, layer=1)
)";

inline constexpr const char* kStepWrite =
    R"(write(self, k, v=None, *, layer=0)
--

Writes the new tokens' keys and values of a layer.

Args:
    k: [T, Hkv, D]. v: [T, Hkv, Dv], None where the pool has shared=True, as values are the beginnings of
        its keys. float32, float16 or bfloat16, rounded to the pool's dtype.
    layer: of the pool.

Raises:
    ValueError: a wrong shape, a number that a quantised pool cannot hold, or a table that has changed
    since the step was made. TypeError: a wrong dtype. IndexError: a layer. Nothing has been written
    then.

Example:
    >>> step.write(k, v, layer=1)
)";

inline constexpr const char* kTakeBack =
    R"(take_back(self)
--

Takes every table back to the length that it had before the step, which is over then.

Tables that were freed or shortened meanwhile stay as they are.

Example:
    >>> step.take_back()
)";

}  // namespace quire::python::docs
