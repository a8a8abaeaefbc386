"""PrefixCache.peek and pin: what is there without taking it, and what must stay."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
from cached_rows import append, new_pool, serve

import quire


def test_peek_is_what_match_finds_and_changes_nothing() -> None:
    pool = new_pool(num_blocks=8)
    cache = quire.PrefixCache(pool)
    for first in (0, 50):
        serve(cache, [*range(first, first + 8), 9]).free()
    serve(cache, list(range(8)), "b").free()
    asked: list[list[int]] = [[], [0], [*range(8), 1], [*range(8), 9, 9], [*range(6), 0, 0], [60]]
    before = (repr(pool.stats()), repr(cache.stats()))
    peeked = [[cache.peek(ids, namespace=space) for ids in asked] for space in ("", "b", "c")]
    assert (repr(pool.stats()), repr(cache.stats())) == before
    assert peeked == [[0, 0, 8, 9, 6, 0], [0, 0, 8, 8, 6, 0], [0] * 6]
    for space, tokens in zip(("", "b", "c"), peeked, strict=True):
        assert [len(cache.match(ids, namespace=space)) for ids in asked] == tokens


def test_peek_does_not_make_anything_newer() -> None:
    cache = quire.PrefixCache(new_pool())
    serve(cache, [1, 1, 1, 1]).free()
    serve(cache, [2, 2, 2, 2]).free()
    assert cache.peek([1, 1, 1, 1, 0]) == 4
    cache.evict(1)
    assert [cache.peek([token] * 4 + [0]) for token in (1, 2)] == [0, 4]


def test_what_is_pinned_stays() -> None:
    pool = new_pool(num_blocks=8)
    cache = quire.PrefixCache(pool)
    system = list(range(8))
    serve(cache, [*system, 90, 91]).free()
    assert cache.pin(np.array(system)) == 8
    assert (pool.stats().pinned, pool.stats().cached) == (2, 1)
    assert "cached=1, pinned=2" in repr(pool.stats())
    held = pool.allocate(6)
    with pytest.raises(
        quire.OutOfBlocks,
        match=r"^BlockPool\.allocate: n: got 1, which takes 1 block, "
        r"expected at most the 0 free, beside 2 pinned$",
    ):
        pool.allocate(1)
    assert cache.evict(5) == 0
    assert len(cache.match([*system, 1])) == 8
    cache.unpin(iter(system))
    assert pool.stats().pinned == 0
    pool.allocate(1)
    assert len(cache.match([*system, 1])) == 4
    pool.release(held)


def test_exhaustion_by_pins_changes_nothing() -> None:
    pool = new_pool(num_blocks=4)
    cache = quire.PrefixCache(pool)
    serve(cache, list(range(12))).free()
    cache.pin(range(12))
    table = quire.BlockTable(pool)
    append(table, [50, 51])
    before = (repr(pool.stats()), repr(cache.stats()), table.blocks.tolist())
    with pytest.raises(quire.OutOfBlocks, match="beside 3 pinned"):
        append(table, list(range(50, 58)))
    with pytest.raises(quire.OutOfBlocks, match="beside 3 pinned"):
        cache.match([0, 1, 9])
    assert (repr(pool.stats()), repr(cache.stats()), table.blocks.tolist()) == before
    pool.check()


def test_pins_are_counted() -> None:
    cache = quire.PrefixCache(new_pool())
    serve(cache, list(range(8))).free()
    for _ in range(2):
        assert cache.pin(range(4)) == 4
    cache.unpin(range(4))
    assert cache.evict(9) == 1
    cache.unpin(range(4))
    with pytest.raises(
        ValueError,
        match=r"^PrefixCache\.unpin: token_ids: got 4 tokens that are not pinned, expected",
    ):
        cache.unpin(range(4))
    assert cache.evict(9) == 1


def test_pin_refuses_what_is_not_there() -> None:
    cache: Any = quire.PrefixCache(new_pool())
    serve(cache, [1, 2, 3])
    for ids, space in (([2, 3], ""), ([], ""), ([1, 2, 3], "b")):
        with pytest.raises(ValueError, match=r"^PrefixCache\.pin: token_ids: got \d tokens, of"):
            cache.pin(ids, namespace=space)
    with pytest.raises(TypeError, match=r"^PrefixCache\.pin: token_ids: got int, expected"):
        cache.pin(5)
    with pytest.raises(TypeError, match=r"^PrefixCache\.unpin: namespace: got int, expected"):
        cache.unpin([1], namespace=5)
    assert cache.pool.stats().pinned == 0


def is_same(pair: tuple[int, int]) -> bool:
    return pair[0] == pair[1]


def cached(prompts: Iterable[tuple[int, ...]], ids: list[int]) -> int:
    """How many tokens of ids some prompt begins with, of a cache that has all of them."""
    return max(
        (len(list(takewhile(is_same, zip(p, ids, strict=False)))) for p in prompts), default=0
    )


@pytest.mark.parametrize("seed", range(5))
def test_peek_and_pin_beside_a_dict_of_prompts(seed: int) -> None:
    """Nothing is evicted but what the test evicts, and of pinned prompts nothing is."""
    choose = random.Random(seed)
    cache = quire.PrefixCache(new_pool(num_blocks=400))
    prompts: list[tuple[int, ...]] = []
    for _ in range(60):
        ids = [choose.randrange(-1, 2) for _ in range(choose.randrange(1, 14))]
        assert cache.peek(ids) == cached(prompts, ids[:-1])
        serve(cache, ids).free()
        prompts.append(tuple(ids))
        assert cache.peek([*ids, 5]) == len(ids)
    pinned = choose.sample(sorted(set(prompts)), 4)
    for ids in pinned:
        assert cache.pin(ids) == len(ids)
    cache.evict(1000)
    for ids in pinned:
        assert cache.peek([*ids, 5]) == len(ids)
    assert len(cache) == cache.pool.stats().pinned
    assert cache.pool.stats().cached == 0
    for ids in pinned:
        cache.unpin(ids)
    assert cache.evict(1000) > 0
    assert len(cache) == 0
