"""PrefixCache: what Python gives and gets; the tree itself is tested in C++."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cached_rows import append, holds, new_pool, serve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sampled_examples import examples

import quire


def test_a_second_prompt_starts_from_what_the_first_left() -> None:
    pool = new_pool(num_layers=3)
    cache = quire.PrefixCache(pool)
    assert cache.pool is pool
    assert (len(cache), cache.max_blocks, bool(cache)) == (0, None, True)
    system = list(range(100, 110))
    with serve(cache, [*system, 1, 2, 3]):
        assert pool.stats().cached == 0
    assert (len(cache), pool.stats().cached, pool.num_used) == (4, 4, 4)

    tables = [cache.match([*system, 7, token]) for token in range(3)]
    assert [len(table) for table in tables] == [10, 10, 10]
    assert all((table.blocks[:2] == tables[0].blocks[:2]).all() for table in tables)
    assert len({int(table.blocks[2]) for table in tables}) == 3  # two rows copied, in all layers
    for token, table in enumerate(tables):
        assert holds(table, system)
        append(table, [*system, 7, token])
        assert holds(table, [*system, 7, token])
    assert pool.stats().copies_on_write == 0
    pool.check()


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        lambda ids: (token for token in ids),
        lambda ids: np.array(ids, np.int64),
        lambda ids: np.repeat(np.array(ids, np.int32), 2)[::2],
        lambda ids: [np.int32(token) for token in ids],
    ],
)
def test_token_ids_in_every_form(convert: Callable[[list[int]], Any]) -> None:
    cache = quire.PrefixCache(new_pool())
    ids = [5, 1, 2, 3, 9, 8]
    serve(cache, ids).free()
    table = cache.match(convert([*ids, 0]))
    assert holds(table, ids)
    cache.insert(convert(ids), table, namespace="b")
    assert len(cache.match([*ids, 0], namespace="b")) == 6
    assert len(cache.match([])) == len(cache.match(range(1))) == 0


def test_ids_of_64_bits() -> None:
    cache = quire.PrefixCache(new_pool())
    most = 2**63 - 1
    serve(cache, [most, 0, 2**32, 3])
    assert len(cache.match([most, 0, 2**32, 3, 1])) == 4
    assert len(cache.match(np.array([most, 0, 0, 3, 1]))) == 2


def test_negative_ids_are_ids(tmp_path: Path) -> None:
    cache = quire.PrefixCache(new_pool())
    ids = [-1, -(2**63), 5, -(2**31), -7, 6]
    serve(cache, ids).free()
    assert len(cache.match([2**32 - 1, -(2**63), 5, 6])) == 0
    assert len(cache.match(np.array([*ids, 1]))) == 6
    assert cache.peek(np.array([-1, -(2**63), 5, -(2**31) + 1])) == 3
    cache.save(tmp_path)
    loaded = quire.PrefixCache(new_pool())
    assert loaded.load(tmp_path) == 2
    table = loaded.match([*ids, -9])
    assert len(table) == 6
    assert holds(table, ids)


def test_namespaces() -> None:
    cache = quire.PrefixCache(new_pool())
    serve(cache, [1, 2, 3, 4, 5], "a")
    for namespace in ("", "b", "aa", "a\0", "ä", "名"):
        assert len(cache.match([1, 2, 3, 4, 5], namespace=namespace)) == 0
    assert cache.stats().misses_by_reason["other_namespace"] == 6
    serve(cache, [1, 2, 3, 4, 5], "名")
    assert len(cache.match([1, 2, 3, 4, 5, 6], namespace="名")) == 5


def test_the_pool_evicts_before_it_runs_out() -> None:
    pool = new_pool(8)
    cache = quire.PrefixCache(pool)
    serve(cache, list(range(16))).free()
    held = serve(cache, list(range(100, 116)))
    assert (pool.num_free, pool.stats().cached) == (0, 4)
    with pytest.raises(quire.OutOfBlocks, match=r"at most the 0 free and 4 cached$"):
        pool.allocate(5)
    assert len(cache) == 8
    ids = pool.allocate(3)
    assert len(cache) == 5
    assert len(cache.match([*range(15)])) == 4
    assert cache.evict(9) == 1
    assert cache.stats().evictions == 4
    assert holds(held, list(range(100, 116)))
    pool.release(ids)
    cache.clear()
    held.free()
    assert pool.num_used == len(cache) == 0


def test_max_blocks() -> None:
    cache = quire.PrefixCache(new_pool(), max_blocks=np.int64(2))
    assert cache.max_blocks == 2
    serve(cache, list(range(20)))
    assert len(cache) == 2
    assert repr(cache) == "PrefixCache(2 blocks of 2)"


def test_stats() -> None:
    cache = quire.PrefixCache(new_pool())
    ids = list(range(9))
    table = cache.match(ids)  # cold
    table.free()
    assert len(cache.match([1, 2])) == 0  # short
    table = serve(cache, ids)  # preempted
    assert len(cache.match(ids)) == 8
    assert len(cache.match(ids, namespace="b")) == 0
    table.free()
    assert cache.evict(10) == 3
    assert len(cache.match(ids)) == 0
    stats = cache.stats()
    assert (stats.hits, stats.misses) == (1, 5)
    assert (stats.tokens_matched, stats.tokens_asked) == (8, 5 * 9 + 2)
    reasons = ["cold", "short", "evicted", "other_namespace", "preempted"]
    assert stats.misses_by_reason == dict.fromkeys(reasons, 1)
    assert list(stats.misses_by_reason) == reasons
    assert repr(stats).startswith("PrefixCacheStats(hits=1, misses=5, tokens_matched=8, ")


def test_attention_over_shared_blocks() -> None:
    random = np.random.default_rng(0)
    pool = quire.BlockPool(16, block_size=4, num_kv_heads=2, head_dim=8, dtype="bfloat16")
    cache = quire.PrefixCache(pool)
    k, v = random.standard_normal((2, 11, 2, 8)).astype(ml_dtypes.bfloat16)
    q = random.standard_normal((1, 4, 8)).astype(np.float32)
    alone = quire.BlockTable(pool)
    alone.append(k, v)
    cache.insert(range(11), alone)
    shared = cache.match(range(11))
    shared.append(k[10:], v[10:])
    np.testing.assert_array_equal(quire.attend(q, [alone]), quire.attend(q, [shared]))


@pytest.mark.parametrize(
    ("token_ids", "error", "message"),
    [
        (5, TypeError, "got int, expected an array of int32 or int64, or a list of ints"),
        (None, TypeError, "got NoneType, expected"),
        ("ab", TypeError, "got str at index 0, expected an int"),
        ([1, 2.0], TypeError, "got float at index 1, expected an int"),
        ([True], TypeError, "got bool at index 0, expected an int"),
        ([1, 2**63], ValueError, f"got {2**63} at index 1, expected -2\\*\\*63 to 2\\*\\*63 - 1"),
        ([-(2**63) - 1], ValueError, f"got {-(2**63) - 1} at index 0, expected -2"),
        (np.array([1.0]), TypeError, "got dtype float64, expected int32 or int64"),
        (np.array([1], np.uint32), TypeError, "got dtype uint32, expected int32 or int64"),
        (np.array([[1]]), ValueError, r"got shape \[1, 1\], expected one axis"),
    ],
)
def test_wrong_token_ids(token_ids: Any, error: type[Exception], message: str) -> None:
    pool = new_pool()
    cache = quire.PrefixCache(pool)
    table = serve(cache, [1, 2, 3])
    before = repr(cache.stats())
    with pytest.raises(error, match=rf"^PrefixCache\.match: token_ids: {message}"):
        cache.match(token_ids)
    with pytest.raises(error, match=rf"^PrefixCache\.peek: token_ids: {message}"):
        cache.peek(token_ids)
    with pytest.raises(error, match=rf"^PrefixCache\.insert: token_ids: {message}"):
        cache.insert(token_ids, table)
    assert (len(cache), repr(cache.stats()), pool.num_used) == (1, before, 1)


def test_other_wrong_arguments() -> None:
    pool = new_pool()
    cache: Any = quire.PrefixCache(pool)
    table, freed = serve(cache, [1, 2, 3]), quire.BlockTable(pool)
    freed.free()
    make: Any = quire.PrefixCache
    for call, error, message in (
        (lambda: make(3), TypeError, "PrefixCache: pool: got int, expected a BlockPool"),
        (lambda: make(pool, max_blocks=-1), ValueError, "PrefixCache: max_blocks: got -1"),
        (lambda: make(pool, 5), TypeError, "PrefixCache: arguments: got 2 by position"),
        (lambda: make(pool, max_blocks=1.5), TypeError, "PrefixCache: max_blocks: got float"),
        (lambda: cache.match([1], namespace=3), TypeError, "PrefixCache.match: namespace: got int"),
        (lambda: cache.match([1], "a"), TypeError, "PrefixCache.match: arguments: got 2 by"),
        (lambda: cache.match(ids=[1]), TypeError, "PrefixCache.match: ids: got an argument"),
        (lambda: cache.insert([1], 3), TypeError, "PrefixCache.insert: table: got int, expected"),
        (lambda: cache.insert([1], freed), ValueError, "PrefixCache.insert: table: got a freed"),
        (
            lambda: cache.insert([1], quire.BlockTable(new_pool())),
            ValueError,
            "PrefixCache.insert: table: got one of another pool",
        ),
        (
            lambda: cache.insert([1] * 4, table),
            ValueError,
            "PrefixCache.insert: token_ids: got 4 tokens, expected at most the table's 3",
        ),
        (lambda: cache.evict(-1), ValueError, "PrefixCache.evict: num_blocks: got -1"),
        (lambda: cache.evict("1"), TypeError, "PrefixCache.evict: num_blocks: got str"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            call()
    assert len(cache) == 1


def test_a_cache_gives_its_blocks_back_when_it_goes() -> None:
    pool = new_pool()
    cache = quire.PrefixCache(pool)
    serve(cache, list(range(9)))
    assert pool.num_used == 3
    del cache
    assert pool.num_used == 0
    pool.check()


def test_eight_threads_share_a_pool_and_a_cache() -> None:
    pool = new_pool(128)
    cache = quire.PrefixCache(pool)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        try:
            for _ in range(100):
                ids = random.integers(0, 2, random.integers(1, 20)).tolist()
                table = cache.match(ids)
                assert holds(table, ids[: len(table)])
                append(table, ids)
                cache.insert(ids, table)
                table.free()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert pool.stats().used == pool.stats().cached
    pool.check()


IDS = st.lists(st.integers(0, 1), max_size=14)


def test_a_table_in_use_is_remembered_in_a_few_namespaces() -> None:
    """What a cache remembers is bounded by the blocks of its pool."""
    pool = new_pool(8)
    cache = quire.PrefixCache(pool)
    table = quire.BlockTable(pool)
    ids = list(range(1, 13))
    append(table, ids)
    for i in range(500):
        cache.insert(ids, table, namespace=f"tenant {i}")
        assert len(cache) == 3 * min(i + 1, 16)
        assert cache.evict(8) == 0
        with cache.match([*ids, 0], namespace=f"tenant {i}") as found:
            assert len(found) == 12
    pool.check()
    assert cache.stats().evictions == 3 * (500 - 16)
    known = [len(cache.match([*ids, 0], namespace=f"tenant {i}")) == 12 for i in range(500)]
    assert known == [False] * 484 + [True] * 16
    for i in range(500):  # as other ids too
        cache.insert([i, *ids[1:]], table)
    assert len(cache) == 3 * 16
    table.free()
    assert cache.evict(8) == 3
    assert (len(cache), pool.num_used) == (0, 0)


class CacheMachine(RuleBasedStateMachine):
    """Random prompts against the set of all that were inserted, while nothing has to go."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = new_pool(400)
        self.cache = quire.PrefixCache(self.pool)
        self.inserted: set[tuple[str, tuple[int, ...]]] = set()
        self.alive: list[tuple[quire.BlockTable, list[int], str]] = []

    @rule(ids=IDS, namespace=st.sampled_from(["", "b"]), keep=st.booleans(), insert=st.booleans())
    def ask(self, ids: list[int], namespace: str, keep: bool, insert: bool) -> None:
        table = self.cache.match(ids, namespace=namespace)
        longest = 0
        for space, known in self.inserted:
            alike = 0
            while alike < min(len(known), len(ids) - 1) and known[alike] == ids[alike]:
                alike += 1
            longest = max(longest, alike if space == namespace else 0)
        assert len(table) == longest
        assert holds(table, ids[:longest], namespace)
        append(table, ids, namespace)
        if insert:
            self.cache.insert(np.array(ids, np.int32), table, namespace=namespace)
            self.inserted.add((namespace, tuple(ids)))
        if keep:
            self.alive.append((table, list(ids), namespace))

    @rule(more=IDS, which=st.integers(0, 99))
    def go_on(self, more: list[int], which: int) -> None:
        if self.alive:
            table, ids, namespace = self.alive[which % len(self.alive)]
            ids += more
            append(table, ids, namespace)

    @rule(which=st.integers(0, 99))
    def free(self, which: int) -> None:
        if self.alive:
            self.alive.pop(which % len(self.alive))[0].free()

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.inserted.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        self.pool.check()
        for table, ids, namespace in self.alive:
            assert holds(table, ids, namespace)


CacheMachine.TestCase.settings = settings(
    max_examples=examples(40), stateful_step_count=30, deadline=None
)
TestCacheMachine = CacheMachine.TestCase
