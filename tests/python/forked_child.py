"""What a child has of its parent's pools after os.fork(): errors, and nothing that hangs.

    python forked_child.py WHAT

forks children that do WHAT, and fails where one does not leave in peace. With `busy` before it,
threads of the parent are inside calls meanwhile.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

import quire

ROWS = np.random.default_rng(0).standard_normal((700, 2, 32), np.float32)
QUERY = np.ones((1, 4, 32), np.float32)
QUERIES, LENGTHS = np.ones((64, 4, 32), np.float32), np.array([0, 64], np.int32)
CHILDREN = 60  # of a busy parent
DUNDERS = {"__len__", "__repr__", "__array__", "__bool__", "_repr_html_"}


class Parent:
    """A pool, a table and a cache of every feature."""

    def __init__(self) -> None:
        self.pool = quire.BlockPool(256, num_kv_heads=2, head_dim=32, dtype="int8", open_blocks=1)
        self.pool.on_event(lambda kind, ids: None)
        self.table = quire.BlockTable(self.pool)
        self.table.append(ROWS, ROWS)
        self.cache = quire.PrefixCache(self.pool)
        self.cache.insert(range(300), self.table)
        self.view = self.pool.k_cache()

    def arguments(self) -> dict[str, tuple[Any, ...]]:
        """Of methods that need some."""
        return {
            "allocate": (1,),
            "retain": ([0],),
            "release": ([0],),
            "explain": (self.table,),
            "on_event": (None,),
            "extend": (1,),
            "append": (ROWS, ROWS),
            "truncate": (0,),
            "drop_before": (1,),
            "keep": ([0],),
            "match": (range(9),),
            "peek": (range(9),),
            "pin": (range(9),),
            "unpin": (range(9),),
            "insert": (range(9), self.table),
            "evict": (1,),
            "save": ("never-written",),
            "load": ("never-read",),
        }

    def uses(self) -> dict[str, Callable[[], object]]:
        """Every method and property, and every function that takes one of them."""
        uses: dict[str, Callable[[], object]] = {
            "attend": lambda: quire.attend(QUERY, [self.table]),
            "pack_tables": lambda: quire.pack_tables([self.table]),
            "load_table": lambda: quire.load_table(self.pool, "never-read"),
            "BlockTable": lambda: quire.BlockTable(self.pool),
            "PrefixCache": lambda: quire.PrefixCache(self.pool),
        }
        for used in (self.pool, self.table, self.cache):
            for name in dir(type(used)):
                if name.startswith("_") and name not in DUNDERS:
                    continue
                member = getattr(type(used), name)
                if isinstance(member, property):
                    uses[f"{type(used).__name__}.{name}"] = lambda m=member, u=used: m.fget(u)
                elif callable(member):
                    given = self.arguments().get(name, ())
                    uses[f"{type(used).__name__}.{name}"] = lambda m=member, u=used, g=given: m(
                        u, *g
                    )
        return uses


def refuse(parent: Parent) -> None:
    """Everything raises, and says why; the memory of blocks is there."""
    before = parent.view.copy()
    for name, use in parent.uses().items():
        try:
            use()
            refusal = "nothing"
        except quire.QuireError as error:
            refusal = str(error)
        except FileNotFoundError:
            refusal = "another process" if name == "load_table" else "no file"
        assert "another process" in refusal, (name, refusal)
    assert (parent.view == before).all()


def collect(parent: Parent) -> None:
    """What goes does nothing."""
    with parent.table:
        pass
    table, pool = parent.table, parent.pool
    vars(parent).clear()
    gc.collect()
    del table
    gc.collect()
    del pool
    gc.collect()


def use_own(_: Parent) -> None:
    """Pools of the child's own work in full."""
    pool = quire.BlockPool(256, num_kv_heads=2, head_dim=32, dtype="float16")
    heard: list[str] = []
    pool.on_event(lambda kind, ids: heard.append(kind))
    table = quire.BlockTable(pool)
    table.append(ROWS, ROWS)
    other = table.fork()
    other.append(ROWS[:3], ROWS[:3])
    cache = quire.PrefixCache(pool)
    cache.insert(range(500), table)
    assert len(cache.match(range(400))) == 399
    options: dict[str, Any] = {"cu_seqlens_q": LENGTHS}
    out = quire.attend(QUERIES, [table], num_threads=3, **options)
    np.testing.assert_array_equal(out, quire.attend(QUERIES, [table], num_threads=1, **options))
    pool.check()
    assert {"allocated", "shared", "copied"} <= set(heard)


def end(_: Parent) -> None:
    """The interpreter ends with the parent's objects alive."""
    raise SystemExit(0)


WHAT = {"refuse": refuse, "collect": collect, "use_own": use_own, "end": end}


def leaves_in_peace(act: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        try:
            act()
        except SystemExit:
            raise  # and so the interpreter ends as it does
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, status
            return
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("a child hangs")


def in_pool_of_processes(number: int) -> int:
    """For multiprocessing."""
    use_own(PARENT)
    return number


def lives(parent: Parent) -> list[Callable[[], None]]:
    """What threads of the parent do over and over."""
    own = quire.BlockTable(parent.pool)

    def change() -> None:
        own.append(ROWS[:20], ROWS[:20])
        own.fork().free()
        own.truncate(0)
        parent.pool.stats()

    def compute() -> None:
        quire.attend(QUERIES, [parent.table], cu_seqlens_q=LENGTHS, num_threads=3)

    def cache() -> None:
        parent.cache.insert(range(200), parent.table)
        parent.cache.match(range(190)).free()
        parent.cache.evict(3)
        quire.PrefixCache(parent.pool)

    return [change, compute, cache]


def main(what: str, busy: bool) -> None:
    done = False
    failures: list[BaseException] = []

    def live(act: Callable[[], None]) -> None:
        try:
            while not done:
                act()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=live, args=(act,)) for act in lives(PARENT) if busy]
    for thread in threads:
        thread.start()
    try:
        if what == "multiprocessing":
            with multiprocessing.get_context("fork").Pool(2) as processes:
                result = processes.map_async(in_pool_of_processes, range(8))
                assert result.get(timeout=60) == list(range(8))
        else:
            for _ in range(CHILDREN if busy else 1):
                leaves_in_peace(lambda: WHAT[what](PARENT))
    finally:
        done = True
    for thread in threads:
        thread.join()
    assert not failures, failures
    PARENT.pool.check()
    assert len(PARENT.table) == len(ROWS)
    print("well")


PARENT = Parent()

if __name__ == "__main__":
    main(sys.argv[-1], "busy" in sys.argv)
