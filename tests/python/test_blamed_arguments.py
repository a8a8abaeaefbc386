"""Messages name an argument that the caller has passed, and count one thing as one thing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import quire

HEADS, SIZE = 2, 16


def new_pool(num_blocks: int = 8, block_size: int = 4, dtype: str = "float32") -> quire.BlockPool:
    return quire.BlockPool(
        num_blocks, block_size=block_size, num_kv_heads=HEADS, head_dim=SIZE, dtype=dtype
    )


def rows(count: int, size: int = SIZE) -> Any:
    return np.ones((count, HEADS, size), np.float32)


def filled(pool: quire.BlockPool, tokens: int) -> quire.BlockTable:
    table = quire.BlockTable(pool)
    table.append(rows(tokens), rows(tokens))
    return table


def queries(count: int = 1, heads: int = 4, size: int = SIZE) -> Any:
    return np.ones((count, heads, size), np.float32)


def with_a_hole() -> quire.BlockTable:
    table = filled(new_pool(), 9)
    table.drop_before(5)
    return table


def attend_into_the_pool() -> Any:
    pool = new_pool()
    table = filled(pool, 4)
    return quire.attend(
        queries(4, 2), [table], cu_seqlens_q=np.array([0, 4]), out=pool.k_cache()[1]
    )


def append_of_its_own(dtype: str) -> None:
    """Rows that lie where they would be written."""
    pool = new_pool(dtype=dtype)
    own = pool.k_cache()[0] if dtype == "float32" else pool.k_open()[0]
    quire.BlockTable(pool).append(own, rows(4))


def out_of_blocks(call: Callable[[quire.BlockTable], Any]) -> Any:
    pool = new_pool(3)
    table = filled(pool, 4)
    others = pool.allocate(2)
    try:
        return call(table)
    finally:
        pool.release(others)


def match_without_room() -> Any:
    pool = new_pool(2)
    cache = quire.PrefixCache(pool)
    table = filled(pool, 7)
    cache.insert(range(7), table)
    return cache.match(range(7))


def keep_without_room() -> Any:
    pool = new_pool(2)
    table = filled(pool, 8)
    held = table.fork()
    assert held.num_tokens == 8
    table.keep(np.array([1, 3]))


CASES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: quire.attend(queries(size=8), [filled(new_pool(), 9)]),
        "attend: q: got shape [1, 4, 8], expected [1, >= 1, 16] ([T, Hq, D], D of the pool)",
    ),
    (
        lambda: quire.attend(queries(size=8), [filled(new_pool(dtype="int4"), 9)]),
        "attend: q: got shape [1, 4, 8], expected [1, >= 1, 16] ([T, Hq, D], D of the pool)",
    ),
    (
        lambda: quire.attend(queries(2), [filled(new_pool(), 9)]),
        "attend: q: got 2 rows, expected 1, one for each of tables (cu_seqlens_q gives",
    ),
    (
        lambda: quire.attend(queries(heads=1), [filled(new_pool(), 9)]),
        "attend: q: got 1 head, expected a multiple of the cache's 2",
    ),
    (
        lambda: quire.attend(queries(), [with_a_hole()]),
        "attend: tables: got -1 at sequence 0, column 0, expected 0 to 7, as a query sees this",
    ),
    (
        lambda: quire.attend(queries(), [filled(new_pool(), 9)], k_scale=1.0),
        "attend: k_scale: got a scale for a pool.k_cache() of float32, expected None",
    ),
    (attend_into_the_pool, "attend: out: got memory that overlaps pool.k_cache()'s, expected"),
    (
        lambda: append_of_its_own("float32"),
        "BlockTable.append: k: got memory that overlaps pool.k_cache()'s, expected",
    ),
    (
        lambda: append_of_its_own("int4"),
        "BlockTable.append: k: got memory that overlaps pool.k_open()'s, expected",
    ),
    (
        lambda: filled(new_pool(1, 4), 5),
        "BlockTable.append: k: got 5 tokens, expected at most 4, the room of the whole pool",
    ),
    (
        lambda: out_of_blocks(lambda table: table.append(rows(1), rows(1))),
        "BlockTable.append: k: got 1, which takes 1 block, expected at most the 0 free",
    ),
    (
        lambda: out_of_blocks(lambda table: table.extend(5)),
        "BlockTable.extend: n: got 5, which takes 2 blocks, expected at most the 0 free",
    ),
    (
        lambda: out_of_blocks(lambda table: table.pool.allocate()),
        "BlockPool.allocate: n: got 1, which takes 1 block, expected at most the 0 free",
    ),
    (
        match_without_room,
        "PrefixCache.match: token_ids: got 6 cached tokens, the last 2 of which take a block",
    ),
    (
        keep_without_room,
        "BlockTable.keep: positions: got 2, which takes 1 block, expected at most the 0 free",
    ),
    (
        lambda: quire.PrefixCache(new_pool()).insert([1], quire.BlockTable(new_pool())),
        "PrefixCache.insert: table: got one of another pool",
    ),
]


@pytest.mark.parametrize(("call", "message"), CASES, ids=[case[1][:50] for case in CASES])
def test_what_is_blamed(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, IndexError, quire.OutOfBlocks)) as raised:
        call()
    assert str(raised.value).startswith(message)
    path, argument, _ = message.split(": ", 2)
    function: Any = quire
    for name in path.split("."):
        function = getattr(function, name)
    assert argument in inspect.signature(function).parameters


def test_append_is_refused_without_the_bits_of_int4_changing() -> None:
    """A refused append names k and leaves the table as it was, open blocks and all."""
    pool = new_pool(3, dtype="int4")
    table = filled(pool, 4)
    before = [array.tobytes() for array in table.gather()]
    pool.allocate(2)
    message = "BlockTable.append: k: got 1, which takes 1 block, expected at most the 0 free"
    with pytest.raises(quire.OutOfBlocks, match=f"^{message}"):
        table.append(rows(1), rows(1))
    assert [array.tobytes() for array in table.gather()] == before


def plain(**others: Any) -> Any:
    cache = np.zeros((1, 1, HEADS, SIZE), np.float32)
    given = {
        "q": queries(),
        "k_cache": cache,
        "v_cache": cache,
        "block_tables": np.array([[0]]),
        "seq_lens": np.array([1]),
    }
    return quire.paged_attention(**{**given, **others})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seq_lens": np.array([2])}, r"seq_lens: got 2 .* 0 to 1 \(1 block of 1 token\)"),
        ({"seq_lens": np.array([1, 1]), "block_tables": np.array([[0], [0]])}, "q: got 1 row, "),
        ({"q": queries(heads=1)}, "q: got 1 head, expected a multiple"),
        (
            {
                "q": queries(2),
                "seq_lens": np.array([2]),
                "block_tables": np.array([[0, 0]]),
                "cu_seqlens_q": np.array([0, 2]),
                "key_positions": np.array([[0]]),
            },
            "key_positions: got 1 column, expected 2",
        ),
    ],
)
def test_one_is_singular(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain(**given)


def test_one_open_block_is_singular() -> None:
    cache = np.zeros((1, 2, 1, 8), np.int8)
    scale = np.ones((1, 2, 1), np.float32)
    blocks = np.zeros((1, 2, 1, 8), np.float32)
    message = "expected 0 to 3, of which the last 1 block is open, or -1 to skip the row"
    with pytest.raises(IndexError, match=message):
        quire.write_kv(
            *(np.ones((1, 1, 8), np.float32),) * 2,
            cache,
            cache.copy(),
            np.array([9]),
            k_scale=scale,
            v_scale=scale.copy(),
            k_open=blocks,
            v_open=blocks.copy(),
        )


def test_texts_of_one() -> None:
    pool = new_pool(1, 1)
    table = filled(pool, 1)
    cache = quire.PrefixCache(pool)
    cache.insert([5], table)
    assert repr(table) == "BlockTable(1 token in 1 block [0])"
    assert repr(cache) == "PrefixCache(1 block)"
    assert repr(pool.explain(table)).startswith("1 token in 1 block of 1: ")
    assert "BlockPool: 1 block of 1 token" in pool._repr_html_()
    report = str(quire.verify(1, block_size=1))
    assert ", 1 decode step, batch 1" in report
    assert "in scattered blocks of 1 token, " in report
