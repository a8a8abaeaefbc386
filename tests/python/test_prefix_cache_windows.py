"""Sequences with a sliding window in a prefix cache: holes inserted, and matches with a window."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from cached_rows import BLOCK_SIZE, append, new_pool

import quire


def windowed(
    pool: quire.BlockPool, ids: list[int], position: int, sinks: int = 0
) -> quire.BlockTable:
    """A table of ids whose blocks before a position were dropped."""
    table = quire.BlockTable(pool)
    append(table, ids)
    table.drop_before(position, num_sink_tokens=sinks)
    return table


def test_attention_goes_on_after_a_match_with_a_window() -> None:
    """The next query sees the same keys, whether its table was computed, dropped or matched."""
    pool = new_pool(num_blocks=64)
    cache = quire.PrefixCache(pool)
    window: Any = {"sliding_window": 10, "num_sink_tokens": 2}
    ids = list(range(30))
    whole = windowed(pool, ids, 0)
    with windowed(pool, ids, len(ids) + 1 - 10, 2) as table:  # what the next query cannot see
        cache.insert(ids, table)
    new = [*ids, 70]
    table = cache.match(new, **window)
    assert len(table) == 30
    assert (table.blocks < 0).any()
    append(table, new)
    append(whole, new)
    q = np.random.default_rng(5).standard_normal((1, 4, 8)).astype(np.float32)
    expected = quire.attend(q, [whole], **window)
    np.testing.assert_array_equal(quire.attend(q, [table], **window), expected)
    with pytest.raises(IndexError, match="got -1 at sequence 0, column 2"):
        quire.attend(q, [table], sliding_window=20)


def test_without_a_window_a_match_ends_at_the_first_hole() -> None:
    pool = new_pool()
    cache = quire.PrefixCache(pool)
    ids = list(range(16))
    cache.insert(ids, windowed(pool, ids, 12, 1))
    assert (len(cache), cache.peek([*ids, 9])) == (2, 4)
    assert cache.match([*ids, 9], sliding_window=5).blocks.tolist()[:3] == [-1, -1, -1]
    assert cache.peek([*ids, 9], sliding_window=5) == 16
    assert cache.peek([*ids, 9], sliding_window=6) == 4
    assert cache.peek([*ids, 9], sliding_window=5, num_sink_tokens=5) == 4


def test_what_stands_after_holes_is_not_saved(tmp_path: Any) -> None:
    pool = new_pool()
    cache = quire.PrefixCache(pool)
    ids = list(range(16))
    cache.insert(ids, windowed(pool, ids, 12, 1))
    cache.save(tmp_path)
    other = quire.PrefixCache(new_pool())
    assert other.load(tmp_path) == 1
    assert other.peek([*ids, 9], sliding_window=5) == 4
    whole = quire.PrefixCache(pool)
    whole.insert(ids, windowed(pool, ids, 0))
    whole.save(tmp_path)
    assert cache.load(tmp_path) == 2  # which fills the holes
    assert cache.peek([*ids, 9]) == 16


@pytest.mark.parametrize("function", ["match", "peek"])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sliding_window": 0}, ValueError, "sliding_window: got 0, expected >= 1"),
        ({"sliding_window": 1.5}, TypeError, "sliding_window: got float, expected"),
        (
            {"sliding_window": 4, "num_sink_tokens": -1},
            ValueError,
            "num_sink_tokens: got -1, expec",
        ),
        ({"num_sink_tokens": None}, TypeError, "num_sink_tokens: got NoneType, expected"),
    ],
)
def test_wrong_windows(
    function: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    cache: Any = quire.PrefixCache(new_pool())
    with pytest.raises(error, match=rf"^PrefixCache\.{function}: {message}"):
        getattr(cache, function)([1, 2], **options)
    assert cache.stats().tokens_asked == 0


def longest(there: dict[tuple[int, ...], bool], ids: list[int], window: int, sinks: int) -> int:
    """Of whole blocks of ids, the most tokens of which all that the next query sees are there."""
    for n in range((len(ids) - 1) // BLOCK_SIZE * BLOCK_SIZE, 0, -BLOCK_SIZE):
        ends = range(BLOCK_SIZE, n + 1, BLOCK_SIZE)
        known = [tuple(ids[:end]) in there for end in ends]
        seen = {i // BLOCK_SIZE for i in range(n) if i > n - window or i < sinks}
        if all(known) and all(there[tuple(ids[: ends[column]])] for column in seen):
            return n
    return 0


@pytest.mark.parametrize("seed", range(6))
def test_beside_a_dict_of_tuples(seed: int) -> None:
    """A cache that evicts nothing has the rows of a token where some sequence had them that began
    with the same tokens up to the end of its block."""
    choose = random.Random(seed)
    pool = new_pool(num_blocks=600)
    cache = quire.PrefixCache(pool)
    there: dict[tuple[int, ...], bool] = {}  # whole blocks, by all tokens up to their end

    for _ in range(60):
        ids = [choose.randrange(2) for _ in range(BLOCK_SIZE * choose.randrange(1, 7))]
        position, sinks = choose.randrange(len(ids) + 1), choose.randrange(3)
        with windowed(pool, ids, position, sinks) as table:
            blocks = table.blocks.tolist()
            cache.insert(ids, table)
        while blocks and blocks[-1] < 0:
            blocks.pop()
        for column, block in enumerate(blocks):
            prefix = tuple(ids[: (column + 1) * BLOCK_SIZE])
            there[prefix] = there.get(prefix, False) or block >= 0
        asked = [choose.randrange(2) for _ in range(26)] if choose.random() < 0.3 else [*ids, 2]
        window, sinks = choose.randrange(1, 14), choose.randrange(4)
        found = cache.peek(asked, sliding_window=window, num_sink_tokens=sinks)
        expected = longest(there, asked, window, sinks)
        if found % BLOCK_SIZE:  # rows of a block that begins alike come on top
            assert found > expected
        else:
            assert found == expected
        assert len(cache.match(asked, sliding_window=window, num_sink_tokens=sinks)) == found
    pool.check()
