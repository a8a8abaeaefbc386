// What help() shows. The lines above the dashes are the signatures, which inspect reads there;
// where there are none, the signature has options that several functions share, and is added to the
// text. T: query tokens of the whole batch; B: sequences; Hq, Hkv: query and key/value heads, Hq a
// multiple of Hkv; D, Dv: head sizes of q/k and of v.
#pragma once

namespace quire::python::docs {

// Of paged_attention before and after its options, which attention_options.cpp describes.
inline constexpr const char* kPagedAttention =
    R"(Attention of each query over the keys and values of its sequence, read from scattered blocks.

Arrays are ndarrays, or objects in CPU memory with __array_interface__ or __dlpack__. Of floats the
last axis is contiguous, the others have any strides, and nothing is copied. What is written may not
be read-only, nor be a DLPack capsule without a version, which cannot say (NumPy's rule): JAX's
arrays are not written, and tensors of a PyTorch before DLPack 1.0 are as tensor.numpy(). New arrays
belong to the library that q came from, as array API's from_dlpack, or the one of its package, makes
them: PyTorch's tensors for a tensor, JAX's arrays for an array of JAX, without a copy; for everything
else NumPy's.

Args:
    q: [T, Hq, D], float32, float16 or bfloat16; where k_cache is of a float8 also float8_e4m3fn or
        float8_e5m2, either. Without cu_seqlens_q T == B: the last token of each sequence.
    k_cache: [num_blocks, block_size, Hkv, D] ("NHD") or [num_blocks, Hkv, block_size, D] ("HND"),
        any of the three dtypes, or quantised: int8, float8_e4m3fn, float8_e5m2, or int4. int4 is an
        array of uint8 [..., D / 2], where no cache_dtype says otherwise, D even: element 2 i in the
        lower half of byte i, element 2 i + 1 in the upper one. A half u stands for middle + (u - 8) * step (arXiv 2402.02750).
    v_cache: as k_cache, with Dv for D; its dtype may differ, but int4 both are or none. Where a value
        is the beginning of its key it is k_cache[..., :Dv], with v_scale as k_scale.
    block_tables: [B, max_blocks] int32 or int64. Entries past ceil(seq_len / block_size) are
        ignored. -1 is a hole: allowed where no query sees a key of the block. First blocks that
        several sequences have are read once for all of them.
    seq_lens: [B] int32 or int64: tokens in the cache, those of q included. Slots past it are never
        read.
    k_open: beside quantised caches: blocks of plain floats, [num_open, block_size, Hkv, D] in the
        layout of k_cache. In block_tables num_blocks + i is the i-th of them; they go with others
        in any order.
    v_open: likewise of values, with Dv; both or none.
    k_tail: the last Dt numbers of each key where they are an array of their own, as the rotary keys
        of latent attention: as k_cache, whose last axis is then D - Dt, with Dt. The dtype is that of
        k_cache, and k_scale is of both. Read without a copy of the array, with the bits that one
        k_cache would have. None where k_cache is int4, and beside open blocks.
)";
inline constexpr const char* kPagedAttentionResults =
    R"(
Returns:
    out, or (out, lse), (out, mass) or (out, lse, mass). A row that sees no key is 0, its lse -inf.
    The bits of a sequence's result depend neither on the rest of the batch nor on num_threads.

Raises:
    TypeError: an unsupported type or dtype. ValueError: a wrong shape or value, or a wrong scale or
    grid of a slot that is read. IndexError: a block id out of range, or a hole that a query sees. Nothing
    has been written then.

Example:
    >>> k, v = np.random.rand(2, 4, 16, 2, 64).astype(np.float32)     # 4 blocks of 16 tokens
    >>> q = np.random.rand(1, 8, 64).astype(np.float32)
    >>> paged_attention(q, k, v, np.array([[2, 0, 3]]), np.array([40])).shape
    (1, 8, 64)
)";

inline constexpr const char* kAttend =
    R"(paged_attention over block tables: the last tokens of each table as queries.

Args:
    q: [T, Hq, D].
    tables: BlockTables of one pool, in any iterable. Nobody can change them while this runs.
    layer: of the pool.
    The other options are those of paged_attention; key_positions is None, as tables have theirs,
    and k_scale and v_scale of None are the pool's. Of a pool with shared=True k_scale is its values'
    too, and v_scale is None.

Returns:
    out [T, Hq, Dv], or a tuple, as paged_attention.

Raises:
    As paged_attention; ValueError for a freed table or tables of two pools; IndexError for a layer.

Example:
    >>> out = attend(q, [table, table.fork()])
)";

inline constexpr const char* kLastImplementation =
    R"(last_implementation()
--

The implementation that the last attention of this thread ran on, or None.

Example:
    >>> last_implementation()
    'fused'
)";

inline constexpr const char* kMergeStates =
    R"(merge_states(outs, lses, *, out=None, lse=None)
--

Joins partial results of attention over disjoint sets of keys.

lse = log(sum_i exp(lses[i])), out = sum_i exp(lses[i] - lse) * outs[i] (arXiv 2501.01005, section
2.2), in float64 in the order of i.

Args:
    outs: [n, ..., Dv], float32, float16 or bfloat16, at most five axes.
    lses: [n, ...] float32, any strides. An infinite one, of either sign, is that of a part without
        keys, whose values are not read: -inf is what paged_attention gives, +inf what
        FlashAttention-2 does. (0, -inf) is the identity.
    out: [..., Dv] to write into, of any of the three dtypes; None: a new array of outs' dtype.
    lse: [...] float32 to write into, any strides; None: a new array.

Returns:
    (out, lse), those given, or new arrays of outs' library. Without any key 0 and -inf.

Raises:
    TypeError, ValueError. Nothing has been written then.

Example:
    >>> out, lse = merge_states(np.stack([out1, out2]), np.stack([lse1, lse2]))
)";

inline constexpr const char* kWriteKv =
    R"(write_kv(k, v, k_cache, v_cache, slot_mapping, *, k_scale=None, v_scale=None, k_open=None,
v_open=None, cache_dtype=None, layout='NHD')
--

Writes rows of keys and values into their slots of a paged cache. A large write runs on threads, as
many as paged_attention's by default. Which arrays are taken, and which are written, paged_attention
says.

Args:
    k: [n, Hkv, D]. v: [n, Hkv, Dv]. float32, float16 or bfloat16.
    k_cache, v_cache: as in paged_attention. Values are rounded to nearest even into their dtypes.
        v and v_cache None: values are the first numbers of their keys (latent attention), and
        paged_attention reads them with v_cache=k_cache[..., :Dv]. v_scale and v_open are None then,
        and the cache is not of int4, whose keys and values are on grids of two kinds.
    slot_mapping: [n] int32 or int64: slot = block * block_size + offset; -1 skips the row. Of rows
        with one slot the last wins. A block of int4 caches is written whole: of its slots all have
        rows, in any order, or none.
    k_scale: of a quantised k_cache. float32 [num_blocks, block_size, Hkv] is written: each token
        and head has a scale of its own, its largest magnitude / 127 (int8), 448 (float8_e4m3fn) or
        57344 (float8_e5m2). [Hkv], [1] or a number is read: numbers are cut off at so many times it. Of
        int4 the grids that paged_attention describes are written: step = (highest - lowest) / 15, at least 2^-24,
        and middle = lowest + 8 * step, of a channel of a block.
    v_scale: likewise for v_cache; of int4 the grids of each token and head.
    k_open, v_open: beside quantised caches, as in paged_attention. Slots from num_blocks *
        block_size on are theirs, and their rows are stored as plain floats, each block as far as it
        has any; what they are rounded to is finite.
    cache_dtype: of caches that are held as uint8, both of them: "float8_e4m3fn" or "float8_e5m2", a
        name or a NumPy dtype: what the bytes are. None: the arrays' own dtypes, and uint8 is int4. Of
        other caches it may only name the dtype that they have.
    layout: "NHD" or "HND", of all caches.

Raises:
    IndexError: a slot out of range. ValueError: a wrong shape or value; for a quantised cache also
    a NaN or infinity in k or v, and for int4 a magnitude above 65504 or a block of which some
    slots have rows. TypeError. Nothing has been written then.

Example:
    >>> write_kv(k, v, pool.k_cache(), pool.v_cache(), table.extend(len(k)))
)";

inline constexpr const char* kBlockPool =
    R"(BlockPool(num_blocks, *, block_size=16, num_kv_heads, head_dim, v_head_dim=None,
num_layers=1, dtype='bfloat16', backing_file=None, resident_bytes=None, open_blocks=None,
shared=False)
--

A pool of equally large blocks of keys and values, and who holds them. Safe to use from several
threads.

Args:
    num_blocks: of each layer. A block id stands for one block in every layer, and a table needs
        ceil(tokens / block_size) of them however many layers there are; memory grows with both.
    block_size: tokens of a block.
    num_kv_heads: heads of keys and values in each layer.
    head_dim: elements of a key. v_head_dim: those of a value; None: as head_dim.
    num_layers: layers of the model whose keys and values lie here, each with arrays of its own,
        k_cache(layer) and v_cache(layer), and all under one block table a sequence. append takes the
        rows of all of them at once, attend reads one.
    dtype: float32, float16 or bfloat16, or quantised: int8, float8_e4m3fn, float8_e5m2 or int4, as
        a name or a NumPy dtype.
    backing_file, resident_bytes, open_blocks: see below.
    shared: a value is the first v_head_dim numbers of its key, as in latent attention (DeepSeek-V2,
        arXiv 2405.04434, section 2.1), and is stored there alone: v_cache and v_scale are views of
        what keys have, append and Step take no v. It has nothing to do with blocks that tables share.
        Not for int4, whose keys and values are on grids of
        two kinds.

A pool, its tables and its caches belong to the process that made them: in a child of os.fork() every
method, property and function that takes one raises QuireError, and garbage collection leaves them alone.
Views of blocks are plain memory there; with backing_file it is the parent's. The child may make its own.

Of a quantised pool tables may have their last blocks open, in bfloat16, and those before them
sealed, in the pool's dtype: open_blocks says how many, the one that is written included. None: 2 of
int4, which has 1 at least, and 0 of others. That brings the error of attention down, as the last
tokens matter most. append seals what it has gone past, extend what it finds. For 64 tokens more
a sealed block's rows stay in bfloat16 beside it, so that BlockTable.truncate leaves what there was:
64 / block_size blocks more of each table, rounded up. Blocks from allocate are sealed ones.

Of int4 a number is four bits, keys with a grid for each channel of a block and head, values one for
each token and head. head_dim and v_head_dim are even, and blocks from allocate are written whole
with write_kv.

backing_file is the path of a file that the pool makes and lies in, for pools larger than memory. All
of its disk space is taken at once, and its name removed: the space is free again with the pool.
resident_bytes is how much of it may be in memory. Blocks used longest ago leave it, those that
nobody holds first; attend reads them ahead of its kernels and gives them back, with the same bits
as in memory. What is touched through k_cache and v_cache, or by paged_attention over them, the
system reads where it is touched, and it counts only once its table is used. Without resident_bytes
the system decides what is in memory. A process made by fork must not use such a pool.

Open blocks stay in memory, and are a part of resident_bytes, before all others: a table takes
open_blocks of them and 64 / block_size, rounded up, that are kept beside sealed ones, and append a
few more, however long the prompt; extend has as many open as it gives slots for. What would be more
is refused with OutOfBlocks, and nothing has changed: a table inserted into a prefix cache and freed
takes none.

Raises:
    ValueError: a size below 1, resident_bytes too few to work with, or without backing_file;
        open_blocks below 0, or 1 for int4, or above 0 for a dtype that is not quantised; for int4 an
        odd head_dim or v_head_dim, or shared; with shared a v_head_dim above head_dim.
    TypeError. MemoryError. OSError: the file exists, cannot be made, or finds no room.

Example:
    >>> pool = BlockPool(1024, num_kv_heads=8, head_dim=128)
    >>> table = BlockTable(pool)
)";

inline constexpr const char* kKCache =
    R"(k_cache(self, layer=0)
--

A writable view of a layer's keys, [num_blocks, block_size, num_kv_heads, head_dim].

Of int4 uint8, two numbers a byte, with head_dim / 2. Nothing is copied, and the view keeps the pool
alive. Raises IndexError for an unknown layer.

Example:
    >>> pool.k_cache()[block, row]
)";

inline constexpr const char* kVCache =
    R"(v_cache(self, layer=0)
--

A writable view of a layer's values, [num_blocks, block_size, num_kv_heads, v_head_dim].

Of int4 uint8, two numbers a byte, with v_head_dim / 2. Of a pool with shared=True it is
k_cache(layer)[..., :v_head_dim]. Nothing is copied, and the view keeps the pool alive. Raises
IndexError for an unknown layer.

Example:
    >>> pool.v_cache()[block, row]
)";

inline constexpr const char* kKScale =
    R"(k_scale(self, layer=0)
--

A writable view of a layer's scales of keys, float32 [num_blocks, block_size, num_kv_heads].

A key is its numbers in k_cache times its scale. Of int4 they are grids, float16 [num_blocks,
num_kv_heads, head_dim, 2], as paged_attention has them. Nothing is copied, and the view keeps the pool
alive. Raises TypeError for a pool that is not quantised, IndexError for an unknown layer.

Example:
    >>> write_kv(k, v, pool.k_cache(), pool.v_cache(), slots, k_scale=pool.k_scale(),
    ...          v_scale=pool.v_scale())
)";

inline constexpr const char* kVScale =
    R"(v_scale(self, layer=0)
--

A writable view of a layer's scales of values, float32 [num_blocks, block_size, num_kv_heads].

A value is its numbers in v_cache times its scale. Of int4 they are grids, float16 [num_blocks,
block_size, num_kv_heads, 2], as paged_attention has them. Of a pool with shared=True it is
k_scale(layer). Nothing is copied, and the view keeps the pool alive. Raises TypeError for a pool that is not quantised, IndexError for an unknown layer.

Example:
    >>> pool.v_scale()[block, row]
)";

inline constexpr const char* kAllocate = R"(allocate(self, n=1)
--

n free blocks, with one reference each, as int32 [n].

Raises OutOfBlocks where fewer are free, and takes none then.

Example:
    >>> ids = pool.allocate(3)
    >>> pool.release(ids)
)";

inline constexpr const char* kRetain =
    R"(retain(self, ids)
--

One reference more for each block id (int32 or int64 [n], or an int); all or nothing.

Raises IndexError for an unknown id, ValueError for a free block.

Example:
    >>> pool.retain(ids)
)";

inline constexpr const char* kRelease =
    R"(release(self, ids)
--

One reference fewer for each block id (int32 or int64 [n], or an int); all or nothing.

Only references of allocate and retain can be released; those of tables are the tables'. Raises
IndexError for an unknown id, ValueError for a block of which fewer references are left than named.

Example:
    >>> pool.release(ids)
)";

inline constexpr const char* kRefCounts =
    R"(References to each block, int32 [num_blocks], a copy.)";

inline constexpr const char* kStats =
    R"(stats(self)
--

The pool in numbers, as PoolStats; takes the same short time for every pool in memory.

Example:
    >>> pool.stats().wasted_tokens
    15
)";

inline constexpr const char* kCheck =
    R"(check(self)
--

Verifies every invariant of the pool's books; raises RuntimeError on the first that fails.)";

inline constexpr const char* kPoolStats = R"(A pool in numbers, all as of one moment.)";

}  // namespace quire::python::docs
