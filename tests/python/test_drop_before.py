"""drop_before: what it frees, what stays, and what a table with holes can still do."""

from __future__ import annotations

from typing import Any

import dense_oracle
import numpy as np
import pytest
from filled_pool import fill, new_pool, repeating

import quire


def test_dropping_frees_whole_blocks_alone() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    random = np.random.default_rng(0)
    fill(table, 18, random)
    blocks = table.blocks.tolist()
    table.drop_before(-5)
    table.drop_before(3)
    assert table.blocks.tolist() == blocks
    table.drop_before(11, num_sink_tokens=1)
    assert table.blocks.tolist() == [blocks[0], -1, *blocks[2:]]
    assert np.asarray(table).tolist() == table.blocks.tolist()
    assert repr(table) == f"BlockTable(18 tokens in 5 blocks [{', '.join(map(str, table.blocks))}])"
    assert len(table) == 18
    assert pool.num_used == 4
    child = table.fork()
    table.drop_before(18)
    assert table.blocks.tolist() == [-1, -1, -1, -1, blocks[4]]
    assert pool.num_used == 4  # the child's
    packed, lengths = quire.pack_tables([table, child], pad=-7)
    assert packed.tolist() == [table.blocks.tolist(), child.blocks.tolist()]
    assert lengths.tolist() == [18, 18]
    child.free()
    assert pool.num_used == 1
    fill(table, 2, random)  # the copy that the fork asked for is not needed any more
    assert table.blocks[4] == blocks[4]
    table.drop_before(20)  # all
    assert pool.num_used == 0
    assert len(table) == 20
    fill(table, 1, random)
    assert (table.blocks >= 0).tolist() == [False] * 5 + [True]
    pool.check()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((19,), ValueError, "position: got 19, expected at most 18, the position of the next"),
        ((4, -1), ValueError, "num_sink_tokens: got -1, expected >= 0"),
        ((1.5,), TypeError, "position: got float"),
        ((4, None), TypeError, "num_sink_tokens: got NoneType"),
    ],
)
def test_refused_drops(arguments: Any, error: type[Exception], message: str) -> None:
    table = quire.BlockTable(new_pool())
    fill(table, 18, np.random.default_rng(0))
    blocks = table.blocks
    position, *rest = arguments
    with pytest.raises(error, match=rf"BlockTable\.drop_before: {message}"):
        table.drop_before(position, **dict(zip(["num_sink_tokens"], rest, strict=False)))
    assert (table.blocks == blocks).all()
    table.free()
    with pytest.raises(ValueError, match=r"BlockTable\.drop_before: table: got a freed one"):
        table.drop_before(0)


def test_truncating_into_a_hole() -> None:
    table = quire.BlockTable(new_pool())
    random = np.random.default_rng(0)
    fill(table, 18, random)
    table.drop_before(12, num_sink_tokens=4)
    for n in (5, 6, 7, 9, 11):
        with pytest.raises(ValueError, match=f"got {n}, within column {n // 4}, which is a hole"):
            table.truncate(n)
    assert len(table) == 18
    table.truncate(8)
    assert (table.blocks >= 0).tolist() == [True, False]
    k, v = fill(table, 3, random)
    assert (table.blocks >= 0).tolist() == [True, False, True]
    q = random.standard_normal((1, 4, 16)).astype(np.float32)
    out = quire.attend(q, [table], sliding_window=3)
    expected, _, _ = dense_oracle.attention(q, k, v, [2], [0, 1, 2])
    np.testing.assert_allclose(out, expected, atol=1e-5)
    table.truncate(2)
    assert table.gather()[0].shape[0] == 2


def test_a_cache_takes_what_is_there() -> None:
    pool = new_pool()
    cache = quire.PrefixCache(pool)
    table = quire.BlockTable(pool)
    fill(table, 18, np.random.default_rng(0))
    table.drop_before(12, num_sink_tokens=4)
    ids = list(range(18))
    cache.insert(ids, table)
    assert len(cache) == 3  # that of the sink tokens, and two after the holes
    assert len(cache.match(ids)) == 4
    match = cache.match(ids, sliding_window=5, num_sink_tokens=4)
    assert match.blocks[:4].tolist() == table.blocks[:4].tolist()
    assert len(match) == 17
    table.free()
    pool.check()


def test_a_window_slides_while_others_read() -> None:
    """A writer appends and drops; readers fork, look and attend within the window."""
    pool = new_pool(400)
    random = np.random.default_rng(0)
    table = quire.BlockTable(pool)
    fill(table, 40, random)

    def write() -> None:
        fill(table, 3, random)
        table.drop_before(len(table) - 20, num_sink_tokens=2)
        if len(table) > 1000:
            table.truncate(0)
            fill(table, 40, random)

    with repeating(write):
        q = np.ones((1, 4, 16), np.float32)
        for _ in range(300):
            with table.fork() as child:
                out = quire.attend(q, [child], sliding_window=16, num_sink_tokens=2)
                assert np.isfinite(out).all()
            assert quire.pack_tables([table])[1][0] >= 0
    pool.check()
