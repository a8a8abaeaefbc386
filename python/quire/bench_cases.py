"""What is measured: attention over a paged cache, and writing into one; each with its roofs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from quire._core import BlockPool, BlockTable, paged_attention, write_kv
from quire.machine_peaks import Arithmetic, Deck, Machine, arithmetic_of

Array = npt.NDArray[Any]
Timed = Callable[[], float]  # runs once; returns seconds

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
ROOF_OF: dict[Arithmetic, str] = {"float32": "float32 FMA", "bfloat16": "bfloat16 dot"}
MEMORY, MEMCPY = "memory", "memcpy"

LEAST_CHUNK = 8192

# Query tokens of a sequence that still count as a draft to verify, not as a prompt.
MOST_VERIFIED = 16


@dataclass(frozen=True)
class CacheShape:
    """A paged cache: of a pool, or of two plain arrays [blocks, block_size, heads, size]."""

    num_kv_heads: int = 8
    head_dims: tuple[int, int] = (128, 128)  # of keys, of values
    block_size: int = 16
    dtype: str = "bfloat16"
    storage: Literal["pool", "arrays"] = "pool"
    shared_values: bool = False  # a value is the beginning of its key, and stored there alone

    @property
    def bytes_per_key(self) -> int:
        """Of one token's keys and values."""
        stored = self.head_dims[0] if self.shared_values else sum(self.head_dims)
        return self.num_kv_heads * stored * DTYPES[self.dtype].itemsize

    @property
    def chunk_bytes(self) -> int:
        """The pieces in which the memory roof is read: what paging lets lie together.

        One head's keys and values of a block, as a pool keeps them; of as many neighbouring heads
        as make 8 KiB, where one has less. Plain arrays are held to the same.
        """
        of_head = self.block_size * self.bytes_per_key // self.num_kv_heads
        return of_head * min(self.num_kv_heads, -(-LEAST_CHUNK // of_head))


USUAL = CacheShape()


class ColdCache:
    """A cache of `num_bytes`, more than the processor's, whose blocks are dealt in random order."""

    def __init__(self, shape: CacheShape, num_bytes: int) -> None:
        self.shape = shape
        self.random = np.random.default_rng(0)
        num_blocks = max(1, num_bytes // (shape.bytes_per_key * shape.block_size))
        dtype = DTYPES[shape.dtype]
        self.pool: BlockPool | None = None
        if shape.storage == "pool":
            self.pool = BlockPool(
                num_blocks,
                block_size=shape.block_size,
                num_kv_heads=shape.num_kv_heads,
                head_dim=shape.head_dims[0],
                v_head_dim=shape.head_dims[1],
                dtype=dtype,
                shared=shape.shared_values,
            )
            # free blocks are handed out in random order too
            self.pool.release(self.random.permutation(self.pool.allocate(num_blocks)))
            self.k, self.v = self.pool.k_cache(), self.pool.v_cache()
        else:
            of_block = (num_blocks, shape.block_size, shape.num_kv_heads)
            self.k = np.empty((*of_block, shape.head_dims[0]), dtype)
            self.v = self.k[..., : shape.head_dims[1]]
            if not shape.shared_values:
                self.v = np.empty((*of_block, shape.head_dims[1]), dtype)
        for cache in (self.k,) if shape.shared_values else (self.k, self.v):
            cache[...] = self.random.standard_normal(cache.shape[1:], np.float32).astype(dtype)
        self._blocks = Deck(self.random.permutation(num_blocks).astype(np.int32))
        self._tables: list[BlockTable] = []

    def tables(self, lengths: Sequence[int], shared: int = 0) -> npt.NDArray[np.int32]:
        """Tables [batch, blocks] of the blocks that have not been used for longest.

        The first `shared` tokens of each, whole blocks, are in blocks that all of them have.
        """
        blocks = [-(-length // self.shape.block_size) for length in lengths]
        tables = np.full((len(lengths), max(blocks)), -1, np.int32)
        common = shared // self.shape.block_size
        tables[:, :common] = self._blocks.deal(common)
        for row, count in zip(tables, blocks, strict=True):
            row[common:count] = self._blocks.deal(count - common)
        return tables

    def slots(self, num_tokens: int) -> npt.NDArray[np.int64]:
        """A slot_mapping [num_tokens] into the blocks that have not been used for longest."""
        size = self.shape.block_size
        blocks = self._blocks.deal(-(-num_tokens // size)).astype(np.int64)
        return (blocks[:, None] * size + np.arange(size)).reshape(-1)[:num_tokens]

    def new_table(self, num_tokens: int) -> BlockTable:
        """An empty table with room in the pool for as many tokens, in blocks that are cold."""
        assert self.pool is not None
        while self.pool.num_free < -(-num_tokens // self.shape.block_size):
            self._tables.pop(0).free()
        self._tables.append(BlockTable(self.pool))
        return self._tables[-1]


@dataclass(frozen=True)
class Contestants:
    """What takes turns in a measurement: Quire, the roofs above it, and others beside it."""

    quire: Timed
    roofs: dict[str, Timed]
    others: dict[str, Timed] = field(default_factory=dict)


@dataclass(frozen=True)
class AttentionCase:
    """One call of paged_attention; causal."""

    lengths: tuple[int, ...] = (4096,)  # of each sequence, the query tokens included
    query_tokens: int = 1  # of each sequence, its last
    num_heads: int = 32
    shape: CacheShape = USUAL
    threads: int = 1
    cpu: str = ""  # instruction set; "": the one in use
    beside_gather: bool = False
    shared: int = 0  # tokens, of whole blocks, that all sequences begin with

    @property
    def num_bytes(self) -> int:
        """Keys and values, each read once."""
        own = sum(length - self.shared for length in self.lengths)
        return (self.shared + own) * self.shape.bytes_per_key

    @property
    def flops(self) -> float:
        """Two products over every visible pair of a query and a key, 2 FLOPs a multiply-add."""
        n = self.query_tokens
        pairs = sum(n * (length - n) + n * (n + 1) // 2 for length in self.lengths)
        return 2.0 * sum(self.shape.head_dims) * self.num_heads * pairs

    @property
    def label(self) -> str:
        """What it is, in words: two cases of one label and as many threads are the same."""
        n, longest = self.query_tokens, max(self.lengths)
        keys = str(longest)
        if min(self.lengths) < longest:
            mean = sum(self.lengths) / len(self.lengths)
            keys = f"{min(self.lengths)}-{longest} (mean {mean:.0f})"
        if n in (1, longest):
            what = f"{'decode' if n == 1 else 'prefill'} {keys}"
        else:
            what = f"{'verify' if n <= MOST_VERIFIED else 'prefill'} {n} of {keys}"
        batch = f", batch {len(self.lengths)}" if len(self.lengths) > 1 else ""
        shared = f", {self.shared} shared" if self.shared else ""
        return what + batch + shared + _suffix(self.shape, self.num_heads, self.cpu)

    def contestants(self, machine: Machine, cache: ColdCache) -> Contestants:
        """Fused, and gather where asked for, over cold blocks; the roofs of memory, arithmetic."""
        shape, batch = self.shape, len(self.lengths)
        dtype = DTYPES[shape.dtype]
        num_rows = batch * self.query_tokens
        q = cache.random.standard_normal((num_rows, self.num_heads, shape.head_dims[0]), np.float32)
        q = q.astype(dtype)
        out = np.zeros((num_rows, self.num_heads, shape.head_dims[1]), dtype)
        lengths = np.array(self.lengths, np.int32)
        starts = np.arange(batch + 1, dtype=np.int32) * self.query_tokens

        def attend(implementation: Literal["fused", "gather"]) -> float:
            tables = cache.tables(self.lengths, self.shared)
            begin = time.perf_counter()
            paged_attention(
                q,
                cache.k,
                cache.v,
                tables,
                lengths,
                cu_seqlens_q=starts,
                out=out,
                implementation=implementation,
                num_threads=self.threads,
            )
            return time.perf_counter() - begin

        kind = arithmetic_of(shape.dtype)
        return Contestants(
            lambda: attend("fused"),
            {
                MEMORY: lambda: machine.read(self.num_bytes, shape.chunk_bytes, self.threads),
                ROOF_OF[kind]: lambda: machine.compute(self.flops, kind, self.threads),
            },
            {"gather": lambda: attend("gather")} if self.beside_gather else {},
        )


@dataclass(frozen=True)
class WriteCase:
    """New keys and values written into the cache, by write_kv or by BlockTable.append."""

    operation: Literal["write_kv", "append"] = "write_kv"
    tokens: int = 2048
    source: str = "bfloat16"  # dtype of what is written
    shape: CacheShape = USUAL
    threads: int = 1
    cpu: str = ""

    @property
    def num_bytes(self) -> int:
        """Half of what is read and written: what memcpy calls its bytes."""
        written = self.tokens * self.shape.bytes_per_key
        read = written * DTYPES[self.source].itemsize // DTYPES[self.shape.dtype].itemsize
        return (written + read) // 2

    @property
    def flops(self) -> float:
        """None that count."""
        return 0.0

    @property
    def label(self) -> str:
        """What it is, in words."""
        source = "" if self.source == self.shape.dtype else f" from {self.source}"
        return f"{self.operation} {self.tokens}{source}" + _suffix(self.shape, 32, self.cpu)

    def contestants(self, machine: Machine, cache: ColdCache) -> Contestants:
        """The operation, from cold memory to cold blocks, beside memcpy."""
        dtype = DTYPES[self.source]

        def source(size: int) -> Array:
            rows = (self.tokens, self.shape.num_kv_heads, size)
            piece = machine.cold_piece(int(np.prod(rows)) * dtype.itemsize)
            return piece.view(dtype).reshape(rows)

        def sources() -> tuple[Array, Array | None]:
            size, v_size = self.shape.head_dims
            return source(size), None if self.shape.shared_values else source(v_size)

        def write() -> float:
            k, v = sources()
            slots = cache.slots(self.tokens)
            begin = time.perf_counter()
            write_kv(k, v, cache.k, None if v is None else cache.v, slots)
            return time.perf_counter() - begin

        def append() -> float:
            k, v = sources()
            table = cache.new_table(self.tokens)
            begin = time.perf_counter()
            table.append(k, v)
            return time.perf_counter() - begin

        return Contestants(
            write if self.operation == "write_kv" else append,
            {MEMCPY: lambda: machine.copy(self.num_bytes, self.threads)},
        )


Case: TypeAlias = AttentionCase | WriteCase


def _suffix(shape: CacheShape, num_heads: int, cpu: str) -> str:
    """What differs from (32, 8) heads of 128, bfloat16, a pool with blocks of 16 tokens."""
    heads = num_heads, shape.num_kv_heads
    parts = {
        f"heads {heads[0]}:{heads[1]}": heads != (32, USUAL.num_kv_heads),
        f"D {shape.head_dims[0]}": shape.head_dims != USUAL.head_dims,
        f"Dv {shape.head_dims[1]}": shape.head_dims[0] != shape.head_dims[1],
        shape.dtype: shape.dtype != USUAL.dtype,
        f"block {shape.block_size}": shape.block_size != USUAL.block_size,
        shape.storage: shape.storage != USUAL.storage,
        "values in keys": shape.shared_values,
        cpu: bool(cpu),
    }
    return "".join(f", {part}" for part, differs in parts.items() if differs)
