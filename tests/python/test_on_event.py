"""pool.on_event: what is told and when, and that no callback can break the pool."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from filled_pool import fill, new_pool

import quire

Told = list[tuple[str, tuple[int, ...]]]


def listen(pool: quire.BlockPool) -> Told:
    told: Told = []
    pool.on_event(lambda kind, blocks: told.append((kind, blocks)))
    return told


def test_the_life_of_a_table() -> None:
    pool, random = new_pool(8), np.random.default_rng(0)
    told = listen(pool)
    table = quire.BlockTable(pool)
    fill(table, 6, random)
    child = table.fork()
    fill(child, 1, random)
    assert told == [
        ("allocated", (0, 1)),
        ("shared", (0, 1)),
        ("allocated", (2,)),
        ("copied", (1, 2)),
    ]
    del told[:], child
    gc.collect()
    assert told == [("freed", (2,))]
    cache = quire.PrefixCache(pool)
    cache.insert(range(6), table)
    table.free()
    assert cache.evict(2) == 2
    assert told[1:] == [
        ("shared", (0, 1)),
        ("evicted", (1,)),
        ("freed", (1,)),
        ("evicted", (0,)),
        ("freed", (0,)),
    ]


def test_replacing_and_refusing() -> None:
    pool = new_pool()
    told: Told = []

    def first(kind: str, blocks: tuple[int, ...]) -> None:
        told.append((kind, blocks))

    assert pool.on_event(first) is None
    wrong: Any = 3
    with pytest.raises(TypeError, match=r"^BlockPool\.on_event: callback: got int, expected"):
        pool.on_event(wrong)
    pool.allocate()
    assert told == [("allocated", (0,))]
    assert pool.on_event(print) is first
    assert pool.on_event(None) is print
    assert pool.on_event(None) is None
    pool.allocate()
    assert len(told) == 1


def test_a_callback_that_raises_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = new_pool()
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_value))

    def fails(kind: str, blocks: tuple[int, ...]) -> None:
        raise KeyError(kind)

    pool.on_event(fails)
    ids = pool.allocate(3)
    pool.release(ids)
    assert [error.args for error in unraisable] == [("allocated",), ("freed",)]
    assert pool.num_used == 0
    pool.check()


def test_a_table_that_goes_while_an_error_is_raised() -> None:
    pool = new_pool()
    told = listen(pool)

    def raises() -> None:
        table = quire.BlockTable(pool)
        table.extend(3)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        raises()
    gc.collect()
    assert told == [("allocated", (0,)), ("freed", (0,))]
    with pytest.raises(quire.OutOfBlocks):
        pool.allocate(65)


def test_a_callback_may_use_the_pool_and_the_table() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    told: Told = []

    def extends(kind: str, blocks: tuple[int, ...]) -> None:
        told.append((kind, blocks))
        if len(told) < 4:
            table.extend(4)
            pool.explain(table)
            pool.check()

    pool.on_event(extends)
    table.extend(4)
    assert told == [("allocated", (i,)) for i in range(4)]
    pool.on_event(None)


def test_a_callback_is_kept_as_long_as_it_is_needed() -> None:
    class Callback:
        def __call__(self, kind: str, blocks: tuple[int, ...]) -> None: ...

    pool = new_pool()
    for next_callback in (print, None):
        callback = Callback()
        alive = weakref.ref(callback)
        pool.on_event(callback)
        del callback
        pool.allocate()
        assert alive() is not None
        pool.on_event(next_callback)
        assert alive() is None
    callback = Callback()
    alive = weakref.ref(callback)
    pool.on_event(callback)
    del callback, pool
    gc.collect()
    assert alive() is None


def test_threads() -> None:
    pool = new_pool(256)
    used: set[int] = set()
    kinds: set[str] = set()

    def follow(kind: str, blocks: tuple[int, ...]) -> None:
        kinds.add(kind)
        if kind == "allocated":
            assert not used & set(blocks)
            used.update(blocks)
        elif kind == "freed":
            assert used >= set(blocks)
            used.difference_update(blocks)

    pool.on_event(follow)

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(100):
            with quire.BlockTable(pool) as table:
                fill(table, 5, random)
                with table.fork() as child:
                    fill(child, 2, random)

    kept = quire.BlockTable(pool)
    kept.extend(9)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert used == set(kept.blocks.tolist())
    assert kinds == {"allocated", "shared", "copied", "freed"}
