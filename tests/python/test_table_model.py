"""Random lives of a pool and its tables, against a plain model: lists of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sampled_examples import examples

import quire

BLOCK_SIZE, NUM_BLOCKS, HEADS, DIM = 4, 24, 2, 3


def rows(tokens: list[int]) -> Any:
    """Keys that tell their token; values are their negatives."""
    values = np.array(tokens, np.float32)[:, None, None]
    return np.broadcast_to(values, (len(tokens), HEADS, DIM)).copy()


class Sequence:
    """A table and what it should hold; compared by identity. holes: columns of dropped blocks."""

    def __init__(
        self, table: quire.BlockTable, tokens: list[int], holes: frozenset[int] = frozenset()
    ) -> None:
        self.table, self.tokens, self.holes = table, tokens, holes
        self.positions: list[int] = []
        self.next_position = 0


class PoolMachine(RuleBasedStateMachine):
    """Every rule is a method of the pool or of a table; every step is followed by a full look."""

    tables = Bundle("tables")
    holdings = Bundle("holdings")

    def __init__(self) -> None:
        super().__init__()
        self.pool = quire.BlockPool(
            NUM_BLOCKS, block_size=BLOCK_SIZE, num_kv_heads=HEADS, head_dim=DIM, dtype="float32"
        )
        self.alive: list[Sequence] = []
        self.held: list[int] = []  # a reference of ours each
        self.next_token = 0
        self.peak_used = self.copies_on_write = 0

    def new_tokens(self, n: int) -> list[int]:
        self.next_token += n
        return list(range(self.next_token - n, self.next_token))

    def remember(
        self, table: quire.BlockTable, tokens: list[int], holes: frozenset[int] = frozenset()
    ) -> Sequence:
        sequence = Sequence(table, tokens, holes)
        self.alive.append(sequence)
        return sequence

    def copies(self, sequence: Sequence, n: int) -> bool:
        """Whether n more tokens begin in a last block that somebody else holds too."""
        begun = n > 0 and len(sequence.tokens) % BLOCK_SIZE > 0
        return begun and self.counts()[sequence.table.blocks[-1]] > 1

    def blocks_needed(self, sequence: Sequence, n: int) -> int:
        """By the plain rule: room in the last block, if it is not shared, then new blocks."""
        room = -len(sequence.tokens) % BLOCK_SIZE
        return -(-max(0, n - room) // BLOCK_SIZE) + self.copies(sequence, n)

    def counts(self) -> list[int]:
        counts = [0] * NUM_BLOCKS
        for sequence in self.alive:
            for block in sequence.table.blocks[sequence.table.blocks >= 0]:
                counts[block] += 1
        for block in self.held:
            counts[block] += 1
        return counts

    @rule(target=tables)
    def create(self) -> Sequence:
        return self.remember(quire.BlockTable(self.pool), [])

    @rule(sequence=tables, n=st.integers(0, 14), by_slots=st.booleans())
    def append(self, sequence: Sequence, n: int, by_slots: bool) -> None:
        tokens = self.new_tokens(n)
        k = rows(tokens)
        enough = self.blocks_needed(sequence, n) <= self.counts().count(0)

        def write() -> None:
            if by_slots:
                slots = sequence.table.extend(n)
                quire.write_kv(k, -k, self.pool.k_cache(), self.pool.v_cache(), slots)
            else:
                sequence.table.append(k, -k)

        if enough:
            self.copies_on_write += self.copies(sequence, n)
            write()
            sequence.tokens.extend(tokens)
            sequence.positions.extend(range(sequence.next_position, sequence.next_position + n))
            sequence.next_position += n
        else:
            with pytest.raises(quire.OutOfBlocks):
                write()

    @rule(target=tables, sequence=tables)
    def fork(self, sequence: Sequence) -> Sequence:
        child = self.remember(sequence.table.fork(), list(sequence.tokens), sequence.holes)
        child.positions = list(sequence.positions)
        child.next_position = sequence.next_position
        return child

    @rule(sequence=tables, keep=st.floats(0, 1))
    def truncate(self, sequence: Sequence, keep: float) -> None:
        n = int(keep * len(sequence.tokens))
        if n % BLOCK_SIZE and n // BLOCK_SIZE in sequence.holes:
            with pytest.raises(ValueError, match=rf"got {n}, within column {n // BLOCK_SIZE}"):
                sequence.table.truncate(n)
            return
        sequence.table.truncate(n)
        if n == 0:
            sequence.next_position = 0
        elif n < len(sequence.tokens):
            sequence.next_position = sequence.positions[n]
        del sequence.tokens[n:], sequence.positions[n:]
        sequence.holes = frozenset(c for c in sequence.holes if c * BLOCK_SIZE < n)

    @rule(sequence=tables, share=st.floats(0, 1), num_sink_tokens=st.sampled_from([0, 0, 1, 5]))
    def drop_before(self, sequence: Sequence, share: float, num_sink_tokens: int) -> None:
        position = int(share * sequence.next_position)
        sequence.table.drop_before(position, num_sink_tokens=num_sink_tokens)
        standing = np.array(sequence.positions, np.int64)
        first = -(-np.searchsorted(standing, num_sink_tokens) // BLOCK_SIZE)
        last = np.searchsorted(standing, position) // BLOCK_SIZE
        sequence.holes |= frozenset(range(first, last))

    @rule(sequence=tables, chosen=st.sets(st.integers(0, 60)), same=st.integers(0, 20))
    def keep(self, sequence: Sequence, chosen: set[int], same: int) -> None:
        table, holes = sequence.table, sequence.holes
        indices = [
            i
            for i in range(len(sequence.tokens))
            if (i < same or i in chosen) and i // BLOCK_SIZE not in holes
        ]
        counts, blocks = self.counts(), table.blocks.tolist()
        moved = next((to for to, i in enumerate(indices) if to != i), None)
        columns = -(-len(indices) // BLOCK_SIZE)
        written = range(columns if moved is None else moved // BLOCK_SIZE, columns)
        shared = [c for c in written if blocks[c] >= 0 and counts[blocks[c]] > 1]
        needed = len(shared) + sum(blocks[c] < 0 for c in written)
        sources = {i // BLOCK_SIZE for i in indices}
        given_up = [
            block
            for c, block in enumerate(blocks)
            if c >= columns and c not in sources and block >= 0 and counts[block] == 1
        ]
        positions = np.array(sequence.positions, np.int64)[indices]
        if needed > counts.count(0) + len(given_up):
            with pytest.raises(quire.OutOfBlocks, match=r"BlockTable\.keep: "):
                table.keep(positions)
            assert table.blocks.tolist() == blocks
            return
        table.keep(positions)
        self.copies_on_write += len(shared)
        used = NUM_BLOCKS - counts.count(0)
        self.peak_used = max(self.peak_used, used - len(given_up) + needed)
        sequence.tokens = [sequence.tokens[i] for i in indices]
        sequence.positions = positions.tolist()
        sequence.holes = frozenset()

    @rule(sequence=consumes(tables), collect=st.booleans())
    def free(self, sequence: Sequence, collect: bool) -> None:
        self.alive.remove(sequence)
        if collect:
            del sequence.table
        else:
            sequence.table.free()
            with pytest.raises(ValueError, match="freed"):
                len(sequence.table)

    @rule(sequence=tables)
    def refuse_wrong_rows(self, sequence: Sequence) -> None:
        with pytest.raises(ValueError, match=r"BlockTable\.append: "):
            sequence.table.append(rows([1, 2]), rows([1]))

    @rule(target=holdings, n=st.integers(0, 9))
    def allocate(self, n: int) -> list[int]:
        if n > self.counts().count(0):
            with pytest.raises(quire.OutOfBlocks):
                self.pool.allocate(n)
            return []
        ids = self.pool.allocate(n).tolist()
        self.held += ids
        return [int(block) for block in ids]

    @rule(target=holdings, sequence=tables)
    def retain_blocks_of_a_table(self, sequence: Sequence) -> list[int]:
        ids = sequence.table.blocks
        ids = ids[ids >= 0]
        self.pool.retain(ids)
        self.held += ids.tolist()
        return [int(block) for block in ids]

    @rule(ids=consumes(holdings))
    def release(self, ids: list[int]) -> None:
        self.pool.release(np.array(ids, np.int32))
        for block in ids:
            self.held.remove(block)

    @rule()
    def refuse_a_release_of_what_is_not_held(self) -> None:
        ids = [*self.held, next(b for b in range(NUM_BLOCKS + 1) if b not in self.held)]
        with pytest.raises((ValueError, IndexError), match=r"BlockPool\.release: "):
            self.pool.release(np.array(ids))

    @invariant()
    def contents(self) -> None:
        for sequence in self.alive:
            assert len(sequence.table) == len(sequence.tokens)
            assert sequence.table.positions.tolist() == sequence.positions
            assert sequence.table.next_position == sequence.next_position
            holes = np.flatnonzero(sequence.table.blocks < 0).tolist()
            assert sorted(sequence.holes) == holes
            if holes:
                with pytest.raises(ValueError, match=f"got a hole at column {holes[0]}, "):
                    sequence.table.gather()
                continue
            k, v = sequence.table.gather()
            expected = rows(sequence.tokens)
            np.testing.assert_array_equal(k, expected)
            np.testing.assert_array_equal(v, -expected)

    @invariant()
    def books(self) -> None:
        self.pool.check()
        counts = self.counts()
        assert self.pool.ref_counts.tolist() == counts
        stats = self.pool.stats()
        assert stats.free == self.pool.num_free == counts.count(0)
        assert stats.used == self.pool.num_used == NUM_BLOCKS - stats.free
        assert stats.shared == sum(count > 1 for count in counts)
        filled: dict[int, int] = {}
        for sequence in self.alive:
            for i, block in enumerate(sequence.table.blocks.tolist()):
                if block < 0:
                    continue
                rows_here = min(BLOCK_SIZE, len(sequence.tokens) - i * BLOCK_SIZE)
                filled[block] = max(filled.get(block, 0), rows_here)
        assert stats.filled_tokens == sum(filled.values())
        assert stats.reserved_tokens == len(filled) * BLOCK_SIZE
        assert stats.wasted_tokens == stats.reserved_tokens - stats.filled_tokens
        assert stats.copies_on_write == self.copies_on_write
        self.peak_used = max(self.peak_used, stats.used)
        assert stats.peak_used == self.peak_used


PoolMachine.TestCase.settings = settings(
    max_examples=examples(60), stateful_step_count=40, deadline=None
)
TestPoolMachine = PoolMachine.TestCase
