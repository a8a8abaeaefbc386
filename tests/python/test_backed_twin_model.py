"""Random lives of a pool in a file, with little of it in memory, beside a pool in memory: whatever
happens to both, every table holds the same bits, and attention to it has them too."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool_in_file import KINDS, in_memory

import quire

BLOCK_SIZE, NUM_BLOCKS, HEADS, KV_HEADS, DIM, LAYERS = 16, 160, 4, 2, 16, 2


class Twins:
    """Each step is done to both pools, and refused by both or by none."""

    def __init__(self, path: Path, seed: int, **options: Any) -> None:
        self.path, self.rng = path, np.random.default_rng(seed)
        geometry: dict[str, Any] = {
            "block_size": BLOCK_SIZE,
            "num_kv_heads": KV_HEADS,
            "head_dim": DIM,
            "num_layers": LAYERS,
            **options,
        }
        self.resident = self.least_of(geometry) + (320 << 10)
        self.pools = [
            quire.BlockPool(NUM_BLOCKS, **geometry),
            quire.BlockPool(
                NUM_BLOCKS,
                **geometry,
                backing_file=path / "blocks",
                resident_bytes=self.resident,
            ),
        ]
        self.caches = [quire.PrefixCache(pool, max_blocks=60) for pool in self.pools]
        self.tables: list[list[quire.BlockTable]] = []
        self.ids: list[list[int]] = []  # of each table; [] where it is not a beginning any more
        self.refusals = self.most_offloaded = 0

    def least_of(self, geometry: dict[str, Any]) -> int:
        with pytest.raises(ValueError, match="expected at least") as refusal:
            quire.BlockPool(
                NUM_BLOCKS, **geometry, backing_file=self.path / "least", resident_bytes=1
            )
        return int(str(refusal.value).split("at least ")[1].split()[0])

    def both(self, step: Callable[[int], Any]) -> list[Any] | None:
        """What it returns for each; None where there was no block for it."""
        results: list[Any] = []
        refused = 0
        for twin in range(2):
            try:
                results.append(step(twin))
            except quire.OutOfBlocks:
                refused += 1
        assert refused in (0, 2)
        self.refusals += refused // 2
        return None if refused else results

    def add(self, tables: list[quire.BlockTable] | None, ids: list[int]) -> None:
        if tables is not None:
            self.tables.append(tables)
            self.ids.append(ids)

    def drop(self, i: int) -> None:
        for table in self.tables.pop(i):
            table.free()
        self.ids.pop(i)

    def rows(self, n: int) -> Any:
        return self.rng.standard_normal((2, LAYERS, n, KV_HEADS, DIM), np.float32)

    def write(self, i: int, n: int, extends: bool) -> None:
        k, v = self.rows(n)

        def step(twin: int) -> None:
            table, pool = self.tables[i][twin], self.pools[twin]
            if not (extends and pool.open_blocks):
                return table.append(k, v)
            slots = table.extend(n) - NUM_BLOCKS * BLOCK_SIZE
            for layer in range(LAYERS):
                quire.write_kv(k[layer], v[layer], pool.k_open(layer), pool.v_open(layer), slots)
            return None

        if self.both(step) is not None and (self.ids[i] or len(self.tables[i][0]) == n):
            self.ids[i] = self.ids[i] + self.rng.integers(0, 1 << 30, n).tolist()

    def step(self) -> None:
        rng = self.rng
        if not self.tables or rng.random() < 0.1:
            self.add([quire.BlockTable(pool) for pool in self.pools], [])
        i = int(rng.integers(len(self.tables)))
        ours, size = self.tables[i], len(self.tables[i][0])
        match rng.integers(14):
            case 0 | 1 | 2:
                self.write(i, int(rng.integers(1, 40)), False)
            case 3:
                self.write(i, int(rng.integers(200, 900)), False)
            case 4:
                self.write(i, int(rng.integers(1, 50)), True)
            case 5:
                self.add([table.fork() for table in ours], self.ids[i][:])
            case 6:
                n = int(rng.integers(size + 1))
                if n % BLOCK_SIZE == 0 or ours[0].blocks[n // BLOCK_SIZE] >= 0:
                    for table in ours:
                        table.truncate(n)
                    self.ids[i] = self.ids[i][:n]
            case 7:
                position = int(rng.integers(ours[0].next_position + 1))
                for table in ours:
                    table.drop_before(position, num_sink_tokens=BLOCK_SIZE)
                if (ours[0].blocks < 0).any():
                    self.ids[i] = []
            case 8:
                there = np.flatnonzero(ours[0].blocks[np.arange(size) // BLOCK_SIZE] >= 0)
                kept = ours[0].positions[there[rng.random(len(there)) < rng.choice([0.1, 0.9])]]
                if self.both(lambda twin: ours[twin].keep(kept)) is not None:
                    self.ids[i] = []
            case 9:
                for cache, table in zip(self.caches, ours, strict=True):
                    cache.insert(self.ids[i], table)
            case 10:
                ids = self.ids[i] or [1, 2, 3]
                asked = [*ids[: int(rng.integers(len(ids) + 1))], 5, 5]
                found = self.both(lambda twin: self.caches[twin].match(asked))
                if found is not None:
                    self.add(found, asked[: len(found[0])])
                n = int(rng.integers(8))
                assert self.caches[0].evict(n) == self.caches[1].evict(n)
            case 11:
                ours[1].offload()
                blocks = [block for block in self.pools[1].explain(ours[1]).blocks if block.id >= 0]
                assert not any(b.is_resident for b in blocks if b.references == 1 and not b.is_open)
            case 12:
                with contextlib.suppress(ValueError):  # more than fits
                    ours[1].restore()
                    assert all(block.is_resident for block in self.pools[1].explain(ours[1]).blocks)
            case 13:
                for twin in range(2):
                    ours[twin].save(self.path / f"saved {twin}")
                assert (self.path / "saved 0").read_bytes() == (self.path / "saved 1").read_bytes()
                self.add(
                    self.both(
                        lambda twin: quire.load_table(self.pools[twin], self.path / "saved 0")
                    ),
                    self.ids[i][:],
                )
        while len(self.tables) > 6:
            self.drop(int(rng.integers(len(self.tables))))

    def expect_the_same(self) -> None:
        for ours, files in self.tables:
            assert ours.blocks.tolist() == files.blocks.tolist()
            assert ours.positions.tolist() == files.positions.tolist()
            reports = [
                pool.explain(table).blocks
                for pool, table in zip(self.pools, (ours, files), strict=True)
            ]
            assert [b.is_open for b in reports[0]] == [b.is_open for b in reports[1]]
            if (ours.blocks >= 0).all():
                layer = int(self.rng.integers(LAYERS))
                for a, b in zip(ours.gather(layer), files.gather(layer), strict=True):
                    assert a.tobytes() == b.tobytes()
        whole = [pair for pair in self.tables if len(pair[0]) and (pair[0].blocks >= 0).all()]
        if whole:
            q_lens = [int(self.rng.integers(1, min(len(pair[0]), 6) + 1)) for pair in whole]
            q = self.rng.standard_normal((sum(q_lens), HEADS, DIM), np.float32)
            options: dict[str, Any] = {
                "cu_seqlens_q": np.cumsum([0, *q_lens]),
                "return_lse": True,
                "return_block_mass": bool(self.rng.integers(2)),
                "implementation": str(self.rng.choice(["fused", "fused", "gather", "dense"])),
                "num_threads": int(self.rng.integers(1, 4)),
                "sliding_window": 100 if self.rng.integers(2) else None,
                "layer": int(self.rng.integers(LAYERS)),
            }
            results = [
                quire.attend(q, [pair[twin] for pair in whole], **options) for twin in range(2)
            ]
            for a, b in zip(*results, strict=True):
                assert a.tobytes() == b.tobytes()
        stats = [pool.stats() for pool in self.pools]
        for name in ("free", "used", "shared", "cached", "filled_tokens", "open_blocks"):
            assert getattr(stats[0], name) == getattr(stats[1], name)
        self.most_offloaded = max(self.most_offloaded, stats[1].offloaded)
        assert stats[1].resident_bytes <= self.resident
        assert len(self.caches[0]) == len(self.caches[1])
        assert in_memory(self.pools[1]) <= self.resident
        self.pools[1].check()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bfloat16", "int4", "int8_open"])
def test_the_same_bits_whatever_happens(tmp_path: Path, kind: str, seed: int) -> None:
    twins = Twins(tmp_path, seed, **KINDS[kind])
    for _ in range(120):
        twins.step()
        twins.expect_the_same()
    assert twins.most_offloaded > 10
    while twins.tables:
        twins.drop(0)
    for cache in twins.caches:
        cache.clear()
    assert [pool.num_used for pool in twins.pools] == [0, 0]
    assert twins.pools[1].stats().open_blocks == 0
