"""PrefixCache.on_event: a router that follows it, and that no callback can break the cache."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref
from typing import Any

import pytest
from cached_rows import BLOCK_SIZE, append, new_pool, serve

import quire


class Router:
    """What a cache has, by what it tells: for each node its namespace, all its tokens, and whether
    their rows are there."""

    def __init__(self, cache: quire.PrefixCache) -> None:
        self.known: dict[int, tuple[str, tuple[int, ...], bool]] = {}
        self.events: list[quire.PrefixEvent] = []
        cache.on_event(self.follow)

    def follow(self, event: quire.PrefixEvent) -> None:
        self.events.append(event)
        if event.kind == "removed":
            del self.known[event.node]
            return
        if event.parent is None:
            assert event.namespace is not None
            space, before = event.namespace, ()
        else:
            assert event.namespace is None
            space, before, _ = self.known[event.parent]
        self.known[event.node] = (space, before + event.token_ids, event.block is not None)

    def best(self, ids: list[int], space: str = "") -> int:
        """Tokens of whole blocks that ids begin with, all of them there."""
        there = {
            tokens for known, tokens, has_rows in self.known.values() if known == space and has_rows
        }
        n = 0
        while n + BLOCK_SIZE < len(ids) and tuple(ids[: n + BLOCK_SIZE]) in there:
            n += BLOCK_SIZE
        return n


def test_stored_and_removed() -> None:
    pool = new_pool(num_blocks=4)
    cache = quire.PrefixCache(pool)
    router = Router(cache)
    table = serve(cache, [1, 2, 3, 4, -5], "tenant")
    first, second = router.events
    assert (first.kind, first.parent, first.namespace) == ("stored", None, "tenant")
    assert (first.token_ids, first.block) == ((1, 2, 3, 4), table.blocks[0])
    assert (second.parent, second.namespace, second.token_ids) == (first.node, None, (-5,))
    table.free()
    pool.release(pool.allocate(3))  # evicts within the allocation
    assert [(event.kind, event.node) for event in router.events[2:]] == [("removed", second.node)]
    cache.clear()
    assert router.events[-1] == quire.PrefixEvent(
        "removed", first.node, None, (1, 2, 3, 4), "tenant", first.block
    )
    assert router.known == {}


def test_holes_are_told_without_a_block() -> None:
    pool = new_pool()
    cache = quire.PrefixCache(pool)
    router = Router(cache)
    table = quire.BlockTable(pool)
    append(table, list(range(12)))
    table.drop_before(8)
    cache.insert(range(12), table)
    assert [event.block is None for event in router.events] == [True, True, False]
    assert router.best([*range(12), 1]) == 0
    with serve(cache, list(range(12))):
        assert router.best([*range(12), 1]) == 12
        assert len(router.known) == 3
    table.free()
    assert cache.evict(9) == 3
    assert router.known == {}


@pytest.mark.parametrize("seed", range(4))
def test_a_router_knows_what_a_match_finds(seed: int) -> None:
    choose = random.Random(seed)
    pool = new_pool(num_blocks=24)
    cache = quire.PrefixCache(pool, max_blocks=choose.choice([None, 9]))
    router = Router(cache)
    for _ in range(300):
        ids = [choose.randrange(2) for _ in range(choose.randrange(1, 24))]
        space = choose.choice(["", "b"])
        found = cache.peek(ids, namespace=space)
        assert found // BLOCK_SIZE * BLOCK_SIZE == router.best(ids, space)
        if choose.random() < 0.2:
            cache.evict(choose.randrange(9))
        elif choose.random() < 0.02:
            cache.clear()
        else:
            serve(cache, ids, space).free()
        assert len(router.known) == len(cache)


def test_a_callback_may_use_the_cache_and_is_replaced() -> None:
    pool = new_pool()
    cache = quire.PrefixCache(pool)
    seen: list[int] = []

    def first(event: quire.PrefixEvent) -> None:
        seen.append(cache.peek([*event.token_ids, 0]))
        if event.token_ids == (1, 1, 1, 1):
            serve(cache, [2, 2, 2, 2]).free()

    assert cache.on_event(first) is None
    serve(cache, [1, 1, 1, 1]).free()
    assert seen == [4, 4]
    assert cache.on_event(None) is first
    serve(cache, [3, 3, 3, 3]).free()
    assert len(seen) == 2
    wrong: Any = 5
    with pytest.raises(
        TypeError, match=r"^PrefixCache\.on_event: callback: got int, expected a fun"
    ):
        cache.on_event(wrong)


def test_what_a_callback_raises_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    cache = quire.PrefixCache(new_pool())

    def fail(event: quire.PrefixEvent) -> None:
        raise RuntimeError(event.kind)

    cache.on_event(fail)
    serve(cache, [1, 2, 3, 4, 5])
    assert [str(one.exc_value) for one in raised] == ["stored", "stored"]
    assert len(cache) == 2


def test_a_cache_that_goes_tells_nothing_and_lets_its_callback_go() -> None:
    pool = new_pool()
    cache = quire.PrefixCache(pool)
    router = Router(cache)
    ghost = weakref.ref(router)
    serve(cache, [1, 2, 3]).free()
    events = router.events
    del cache, router
    gc.collect()
    assert ghost() is None
    assert [event.kind for event in events] == ["stored"]
    assert pool.num_used == 0


def test_events_of_the_pool_and_of_two_caches() -> None:
    pool = new_pool()
    caches = [quire.PrefixCache(pool) for _ in range(2)]
    routers = [Router(cache) for cache in caches]
    told: list[str] = []
    pool.on_event(lambda kind, blocks: told.extend([kind] * len(blocks)))
    table = serve(caches[0], [1, 2, 3, 4])
    caches[1].insert([1, 2, 3, 4], table)
    assert [len(router.known) for router in routers] == [1, 1]
    table.free()
    pool.allocate(32)
    assert [len(router.known) for router in routers] == [0, 0]
    assert told.count("evicted") == 2


def test_many_threads_are_followed() -> None:
    pool = new_pool(num_blocks=48)
    cache = quire.PrefixCache(pool)
    router = Router(cache)

    def work(worker: int) -> None:
        choose = random.Random(worker)
        for _ in range(100):
            ids = [choose.randrange(2) for _ in range(choose.randrange(1, 16))]
            try:
                serve(cache, ids).free()
            except quire.OutOfBlocks:
                cache.evict(4)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.evict(0)
    assert len(router.known) == len(cache)
    pool.check()
