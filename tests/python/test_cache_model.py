"""Random lives of a pool with a backing file, its tables, a prefix cache and their files.

The model knows what stands in each table, not which blocks go first: that is for the C++ tests. The
rows of a token tell all tokens before it and their namespace, so a cache that hands out another
prefix's rows is caught.
"""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sampled_examples import examples

import quire

BLOCK_SIZE, NUM_BLOCKS, HEADS, DIM = 4, 20, 2, 64
RESIDENT_BLOCKS = 400  # more than there are: all, until tables are offloaded
GEOMETRY: dict[str, Any] = {
    "block_size": BLOCK_SIZE,
    "num_kv_heads": HEADS,
    "head_dim": DIM,
    "dtype": "float32",
}
PROMPT = [7, 7, 3, 5, 1, 2, 7, 0, 4]

ids = st.lists(st.integers(0, 2), max_size=9)
spaces = st.sampled_from(["", "", "", "b"])
shares = st.floats(0, 1)


def tag(space: str, ids: list[int]) -> int:
    """What stands in the row of the last of these tokens."""
    return zlib.crc32(repr((space, ids)).encode()) % (1 << 22)


def rows(tags: list[int]) -> Any:
    values = np.array(tags, np.float32)[:, None, None]
    return np.broadcast_to(values, (len(tags), HEADS, DIM)).copy()


class Sequence:
    """A table and what it should hold; compared by identity. holes: columns of dropped blocks."""

    def __init__(self, table: quire.BlockTable, space: str, ids: list[int]) -> None:
        self.table, self.space, self.ids = table, space, ids
        self.tags = [tag(space, ids[: i + 1]) for i in range(len(ids))]
        self.positions = list(range(len(ids)))
        self.next_position = len(ids)
        self.holes: frozenset[int] = frozenset()

    def like(self, table: quire.BlockTable) -> Sequence:
        other = Sequence(table, self.space, [])
        other.ids, other.tags, other.positions = self.ids[:], self.tags[:], self.positions[:]
        other.next_position, other.holes = self.next_position, self.holes
        return other

    def expect_contents(self, table: quire.BlockTable) -> None:
        assert table.positions.tolist() == self.positions
        assert table.next_position == self.next_position
        assert frozenset(np.flatnonzero(table.blocks < 0).tolist()) == self.holes
        if not self.holes:
            k, v = table.gather()
            np.testing.assert_array_equal(k, rows(self.tags))
            np.testing.assert_array_equal(v, -rows(self.tags))
            return
        block = table.blocks[np.arange(len(self.tags)) // BLOCK_SIZE]
        there, row = block >= 0, np.arange(len(self.tags)) % BLOCK_SIZE
        k = table.pool.k_cache()[block[there], row[there]]
        np.testing.assert_array_equal(k, rows(self.tags)[there])


class CacheMachine(RuleBasedStateMachine):
    sequences = Bundle("sequences")
    max_blocks: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name)
        block_bytes = 2 * BLOCK_SIZE * HEADS * DIM * 4
        self.pool = quire.BlockPool(
            NUM_BLOCKS,
            **GEOMETRY,
            backing_file=self.path / "blocks",
            resident_bytes=RESIDENT_BLOCKS * block_bytes,
        )
        self.cache = quire.PrefixCache(self.pool, max_blocks=self.max_blocks)
        self.may_have_holes = False  # what stands after some is not saved
        self.inserted: set[tuple[str, tuple[int, ...]]] = set()
        self.alive: list[Sequence] = []
        self.held: list[int] = []

    def teardown(self) -> None:
        for sequence in self.alive:
            sequence.table.free()
        self.pool.release(np.array(self.held, np.int32))
        self.cache.clear()
        assert self.pool.num_used == 0
        self.pool.check()
        self.directory.cleanup()

    def remember(self, sequence: Sequence) -> Sequence:
        self.alive.append(sequence)
        return sequence

    @rule(target=sequences, known=shares, more=ids, space=spaces)
    def serve(self, known: float, more: list[int], space: str) -> Sequence:
        """A prompt: what is cached is taken, the rest is computed."""
        prompt = PROMPT[: int(known * len(PROMPT))] + more
        try:
            table = self.cache.match([*prompt, 9], namespace=space)
        except quire.OutOfBlocks:
            return self.remember(Sequence(quire.BlockTable(self.pool), space, []))
        sequence = self.remember(Sequence(table, space, prompt[: len(table)]))
        sequence.expect_contents(table)
        self.append(sequence, prompt[len(table) :])
        return sequence

    @rule(sequence=sequences, more=ids)
    def append(self, sequence: Sequence, more: list[int]) -> None:
        ids = sequence.ids + more
        tags = [tag(sequence.space, ids[: i + 1]) for i in range(len(sequence.ids), len(ids))]
        before = sequence.table.blocks.tolist()
        try:
            sequence.table.append(rows(tags), -rows(tags))
        except quire.OutOfBlocks:
            assert sequence.table.blocks.tolist() == before
            return
        sequence.ids, sequence.tags = ids, sequence.tags + tags
        sequence.positions += range(sequence.next_position, sequence.next_position + len(more))
        sequence.next_position += len(more)

    @rule(sequence=sequences, share=shares)
    def insert(self, sequence: Sequence, share: float) -> None:
        ids = sequence.ids[: round(share * len(sequence.ids))]
        if sequence.positions[: len(ids)] != list(range(len(ids))):
            with pytest.raises(ValueError, match=r"PrefixCache\.insert: "):
                self.cache.insert(ids, sequence.table, namespace=sequence.space)
            return
        self.cache.insert(ids, sequence.table, namespace=sequence.space)
        self.may_have_holes |= bool(sequence.holes)
        self.inserted.add((sequence.space, tuple(ids)))
        if self.max_blocks is None and len(ids) % BLOCK_SIZE == 0 and not sequence.holes:
            # nothing that a table holds is evicted
            found = self.cache.match([*ids, 9], namespace=sequence.space)
            assert len(found) == len(ids)

    @rule(
        target=sequences,
        known=shares,
        space=spaces,
        window=st.integers(1, 9),
        sinks=st.integers(0, 3),
    )
    def match_window(self, known: float, space: str, window: int, sinks: int) -> Sequence:
        """All is there that the next query sees, and nothing else is taken."""
        prompt = PROMPT[: int(known * len(PROMPT))]
        seen: Any = {"namespace": space, "sliding_window": window, "num_sink_tokens": sinks}
        peeked = self.cache.peek([*prompt, 9], **seen)
        assert peeked >= self.cache.peek([*prompt, 9], namespace=space)
        try:
            table = self.cache.match([*prompt, 9], **seen)
        except quire.OutOfBlocks:
            return self.remember(Sequence(quire.BlockTable(self.pool), space, []))
        n = len(table)
        assert n == peeked
        needed = {i // BLOCK_SIZE for i in range(n) if i > n - window or i < sinks}
        needed |= {n // BLOCK_SIZE}  # where it goes on, if it has rows there
        sequence = self.remember(Sequence(table, space, prompt[:n]))
        sequence.holes = frozenset(range(len(table.blocks))) - needed
        sequence.expect_contents(table)
        return sequence

    @rule(target=sequences, sequence=sequences)
    def fork(self, sequence: Sequence) -> Sequence:
        return self.remember(sequence.like(sequence.table.fork()))

    @rule(sequence=sequences, share=shares)
    def truncate(self, sequence: Sequence, share: float) -> None:
        n = int(share * len(sequence.ids))
        if n % BLOCK_SIZE and n // BLOCK_SIZE in sequence.holes:
            return  # refused, see test_table_model.py
        sequence.table.truncate(n)
        if n < len(sequence.ids):
            sequence.next_position = sequence.positions[n] if n > 0 else 0
        elif n == 0:
            sequence.next_position = 0
        del sequence.ids[n:], sequence.tags[n:], sequence.positions[n:]
        sequence.holes = frozenset(c for c in sequence.holes if c * BLOCK_SIZE < n)

    @rule(sequence=sequences, share=shares)
    def drop_before(self, sequence: Sequence, share: float) -> None:
        position = int(share * sequence.next_position)
        sequence.table.drop_before(position)
        last = int(np.searchsorted(np.array(sequence.positions, np.int64), position)) // BLOCK_SIZE
        sequence.holes |= frozenset(range(last))

    @rule(sequence=sequences, step=st.integers(1, 3))
    def keep(self, sequence: Sequence, step: int) -> None:
        chosen = [
            i for i in range(0, len(sequence.ids), step) if i // BLOCK_SIZE not in sequence.holes
        ]
        positions = [sequence.positions[i] for i in chosen]
        try:
            sequence.table.keep(np.array(positions, np.int64))
        except quire.OutOfBlocks:
            return
        sequence.ids = [sequence.ids[i] for i in chosen]
        sequence.tags = [sequence.tags[i] for i in chosen]
        sequence.positions, sequence.holes = positions, frozenset()

    @rule(sequence=consumes(sequences))
    def free(self, sequence: Sequence) -> None:
        self.alive.remove(sequence)
        sequence.table.free()

    @rule(sequence=sequences, back=st.booleans())
    def offload(self, sequence: Sequence, back: bool) -> None:
        blocks = sequence.table.blocks
        sequence.table.offload()
        alone = [b for b in blocks if b >= 0 and self.pool.ref_counts[b] == 1]
        assert not self.pool.resident_blocks[alone].any()
        if back:
            sequence.table.restore()
            assert self.pool.resident_blocks[blocks[blocks >= 0]].all()

    @rule(sequence=sequences)
    def attend(self, sequence: Sequence) -> None:
        """All keys weigh the same for a query of zeros."""
        if sequence.holes or not sequence.ids:
            return
        out = quire.attend(np.zeros((1, HEADS, DIM), np.float32), [sequence.table])
        np.testing.assert_allclose(out, -np.mean(sequence.tags, dtype=np.float64), rtol=1e-5)

    @rule(target=sequences, sequence=sequences)
    def save_and_load_table(self, sequence: Sequence) -> Sequence:
        path = self.path / "table"
        sequence.table.save(path)
        elsewhere = quire.BlockPool(NUM_BLOCKS, **GEOMETRY)
        sequence.expect_contents(quire.load_table(elsewhere, path))
        before = self.pool.stats().free
        try:
            return self.remember(sequence.like(quire.load_table(self.pool, path)))
        except quire.OutOfBlocks:
            assert self.pool.stats().free == before
            return self.remember(Sequence(quire.BlockTable(self.pool), "", []))

    @rule(evict=st.integers(0, 6), room=st.integers(0, NUM_BLOCKS))
    def save_and_load_cache(self, evict: int, room: int) -> None:
        """Loaded, the cache is what it was; of what is there already nothing is loaded again."""
        self.cache.save(self.path)
        size = len(self.cache)
        elsewhere = quire.PrefixCache(quire.BlockPool(NUM_BLOCKS * 2, **GEOMETRY))
        saved = elsewhere.load(self.path)
        assert saved == size or (self.may_have_holes and saved < size)
        blocks = set()  # full ones that a prompt finds, each by the tokens up to its end
        for space, ids in self.inserted:
            found = self.cache.peek([*ids, 9], namespace=space)
            assert elsewhere.peek([*ids, 9], namespace=space) == found
            ends = range(BLOCK_SIZE, found + 1, BLOCK_SIZE)
            blocks |= {(space, ids[:end]) for end in ends}
        assert saved >= len(blocks)
        evictions = self.cache.stats().evictions
        assert self.cache.load(self.path) == 0
        assert self.cache.stats().evictions == evictions
        self.cache.evict(evict)
        before, free = len(self.cache), self.pool.num_free
        try:
            added = self.cache.load(self.path)
        except quire.OutOfBlocks:
            assert (len(self.cache), self.pool.num_free) == (before, free)
            return
        assert len(self.cache) == before + added <= size

    @rule(n=st.integers(0, 5))
    def evict(self, n: int) -> None:
        idle = self.pool.stats().cached
        assert self.cache.evict(n) == min(n, idle)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        assert len(self.cache) == self.pool.stats().cached == 0

    @rule(n=st.integers(0, 6))
    def allocate(self, n: int) -> None:
        stats = self.pool.stats()
        if n > stats.free + stats.cached:
            with pytest.raises(quire.OutOfBlocks):
                self.pool.allocate(n)
            return
        self.held += self.pool.allocate(n).tolist()

    @rule()
    def release(self) -> None:
        self.pool.release(np.array(self.held, np.int32))
        self.held.clear()

    @invariant()
    def contents(self) -> None:
        for sequence in self.alive:
            sequence.expect_contents(sequence.table)

    @invariant()
    def books(self) -> None:
        self.pool.check()
        in_use = {b for s in self.alive for b in s.table.blocks.tolist() if b >= 0} | set(self.held)
        stats = self.pool.stats()
        assert stats.used - stats.cached == len(in_use)
        assert stats.cached <= len(self.cache) <= (self.max_blocks or 10 * NUM_BLOCKS)


class SmallCacheMachine(CacheMachine):
    max_blocks = 5


CacheMachine.TestCase.settings = settings(
    max_examples=examples(40), stateful_step_count=40, deadline=None
)
SmallCacheMachine.TestCase.settings = settings(
    max_examples=examples(20), stateful_step_count=40, deadline=None
)
TestCacheMachine = CacheMachine.TestCase
TestSmallCacheMachine = SmallCacheMachine.TestCase
