// What help() shows of saving and loading, in the form of docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kSaveTable =
    R"(save(self, path)
--

Writes the table's tokens to a safetensors file, which load_table and any other tool reads.

For each layer L it has 'layers.L.k' [num_tokens, Hkv, D] and 'layers.L.v' [num_tokens, Hkv, Dv] in
the pool's dtype, and where that is quantised 'layers.L.k_scale' and 'layers.L.v_scale' [num_tokens,
Hkv, 1]; the metadata have the pool's geometry and a checksum (XXH64) of each tensor. Tokens whose
block is a hole have no rows there, and 'quire.blocks' of the metadata says which blocks have. Of
a pool with open_blocks those are the tokens of sealed blocks, and those of the last
'quire.open_columns' columns are in 'layers.L.k_open' and 'layers.L.v_open', as bfloat16. Of int4
there are two numbers a byte, and the scales are grids, k_scale [num_blocks, Hkv, D, 2] and v_scale
[num_tokens, Hkv, 2]. Where keep has removed tokens before others, 'positions' [num_tokens] has
theirs, as int64. Of a pool with shared=True there are no 'layers.L.v', 'layers.L.v_scale' and
'layers.L.v_open', and the metadata have 'quire.shared'.

The file is written aside, as .NAME.saving, brought to the disk and renamed: a process that is killed
meanwhile leaves the old file as it was, and maybe .NAME.saving, which the next save there removes.
A symbolic link is followed. Only a regular file that may be written is replaced; its mode stays, and
its owner and group where the system allows that, but no access lists. A new file gets the mode that
the umask leaves. Nobody can change the table while its rows are read.

Args:
    path: a str, bytes or os.PathLike.

Raises:
    OSError: the system refuses, or the path is a directory or a read-only file. ValueError: a path
    that is empty or of a pipe, a socket or a device; a freed table, or one with holes of more than
    2**24 blocks in all, or with positions past 2**40, or of a pool with open_blocks and with a grid
    of int4 that attend would refuse or an open number that append would. TypeError. The old file
    stands then. One OSError says that the new one does: of a directory that could not be brought to
    the disk after the renaming.

Example:
    >>> table.save('session.safetensors')
    >>> table = load_table(pool, 'session.safetensors')
)";

inline constexpr const char* kLoadTable =
    R"(load_table(pool, path)
--

A new table of the tokens that BlockTable.save has written, in blocks of its own.

It has the positions, the next position and the holes of the saved one; holes take no blocks. With
open_blocks its columns are sealed and open as they were: attend gives the same bits, and goes on
doing so where the pool has as many open_blocks; what BlockTable.truncate could have gone back to before
it was saved is not in the file. Where a pool of int8 or float8 without open_blocks
saved it, all columns are sealed. A pool without open_blocks takes no file of one that has some.

The file is mapped, checked as a whole, and then copied block by block. Nobody may shorten it
meanwhile; to save over it is safe.

Args:
    pool: a BlockPool of the geometry and dtype that the file was saved with; num_blocks may differ.
    path: a str, bytes or os.PathLike.

Raises:
    OSError: the file cannot be read. ValueError: the path is empty or of no regular file; the file
    is not a table's, not of this geometry, of another version, cut short or corrupt; the message
    says which. OutOfBlocks. TypeError.
    The pool is as it was then.

Example:
    >>> table = load_table(pool, 'session.safetensors')
)";

inline constexpr const char* kSaveCache =
    R"(save(self, dir)
--

Writes all that is cached to a safetensors file in a directory, which is made where it is missing.

The file, prefix_cache.safetensors, has the token ids, the namespaces and each block's rows once, as
'layers.L.k' and 'layers.L.v' [rows, Hkv, D] (keys alone where the pool has shared=True), with scales
or grids as a table's. It replaces the old one as a whole or not at all, as BlockTable.save does.

Others may use the cache meanwhile. What it holds at the beginning is saved; those blocks cannot be
evicted before they are written, so an allocation may find no room that would have found some.
Statistics are not saved.

Args:
    dir: a str, bytes or os.PathLike.

Raises:
    OSError: the system refuses, or the old file is read-only. ValueError: an empty path, or a block
    of int4 has a grid that attend would refuse. TypeError. The old file stands then, as for
    BlockTable.save, and directories that were made are removed.

Example:
    >>> cache.save('prefixes')
)";

inline constexpr const char* kLoadCache =
    R"(load(self, dir)
--

Adds what PrefixCache.save has written to the cache, and returns how many blocks were added.

What the file shares with the cache stays, and takes no room; other blocks that no table holds may be
evicted for the rest. With max_blocks only so many blocks are loaded, those used last. The order in
which blocks are evicted is that of the saved cache. The file is checked as load_table does.

Args:
    dir: a str, bytes or os.PathLike.

Raises:
    OSError: the file cannot be read. ValueError: an empty path; the file is not a cache's, not of
    this pool's geometry, of another version, cut short or corrupt; the message says which.
    OutOfBlocks: the pool has no room for all. TypeError. The pool and the cache are as they were then.

Example:
    >>> cache = PrefixCache(pool)
    >>> cache.load('prefixes')
    4096
)";

}  // namespace quire::python::docs
