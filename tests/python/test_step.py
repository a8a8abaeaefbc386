"""A step: new tokens of many tables through all layers, with the bits of doing it by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import quire

LAYERS, HEADS, KV_HEADS, DIM = 3, 8, 2, 32
Floats = npt.NDArray[Any]


def new_pool(dtype: str = "bfloat16", num_blocks: int = 64) -> quire.BlockPool:
    return quire.BlockPool(
        num_blocks, num_kv_heads=KV_HEADS, head_dim=DIM, num_layers=LAYERS, dtype=dtype
    )


def rows(tokens: int, heads: int = KV_HEADS, seed: int = 0) -> Floats:
    shape = (LAYERS, tokens, heads, DIM)
    return np.random.default_rng(seed + tokens).standard_normal(shape, np.float32)


def new_tables(pool: quire.BlockPool, lengths: list[int]) -> list[quire.BlockTable]:
    tables = []
    for length in lengths:
        table = quire.BlockTable(pool)
        if length:
            table.append(rows(length), rows(length, seed=1))
        tables.append(table)
    return tables


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "int8", "float8_e4m3fn", "float8_e5m2", "int4"]
)
def test_a_step_has_the_bits_of_extend_write_and_attend(dtype: str) -> None:
    pool = new_pool(dtype)
    lengths, counts = [0, 5, 16, 33, 100], [3, 1, 0, 20, 1]
    by_step, by_hand = new_tables(pool, lengths), new_tables(pool, lengths)
    k, v, q = rows(25), rows(25, seed=1), rows(25, HEADS)
    step = quire.Step(by_step, counts)
    slots = np.concatenate([t.extend(n) for t, n in zip(by_hand, counts, strict=True)])
    cu = np.cumsum([0, *counts])
    assert step.num_tokens == 25
    assert step.cu_seqlens_q.tolist() == cu.tolist()
    expected = [n + i for n, count in zip(lengths, counts, strict=True) for i in range(count)]
    assert step.positions.tolist() == expected
    assert step.slot_mapping.shape == slots.shape
    has_open, is_quantised = (
        dtype == "int4",
        dtype in {"int8", "float8_e4m3fn", "float8_e5m2", "int4"},
    )
    for layer in range(LAYERS):
        scales = {}
        if is_quantised:
            scales |= {"k_scale": pool.k_scale(layer), "v_scale": pool.v_scale(layer)}
        if has_open:
            scales |= {"k_open": pool.k_open(layer), "v_open": pool.v_open(layer)}
        caches = pool.k_cache(layer), pool.v_cache(layer)
        quire.write_kv(k[layer], v[layer], *caches, slots, **scales)
        window = 8 if layer == 1 else None
        options: dict[str, Any] = {"sliding_window": window, "return_lse": True, "num_threads": 2}
        got = step.attend(q[layer], k[layer], v[layer], layer=layer, **options)
        by_hand_got = quire.attend(q[layer], by_hand, layer=layer, cu_seqlens_q=cu, **options)
        np.testing.assert_array_equal(got[0], by_hand_got[0])
        np.testing.assert_array_equal(got[1], by_hand_got[1])
    pool.check()


def test_rows_may_be_written_first() -> None:
    pool = new_pool()
    tables = new_tables(pool, [4, 9])
    k, v, q = rows(2), rows(2, seed=1), rows(2, HEADS)
    step = quire.Step(tables, 1)
    step.write(k[0], v[0])
    alone = step.attend(q[0], None, None)
    np.testing.assert_array_equal(alone, step.attend(q[0], k[0], v[0]))
    with pytest.raises(TypeError, match=r"^Step.attend: v: got None, expected an array"):
        step.attend(q[0], k[0], None)


def test_all_tables_get_room_or_none() -> None:
    pool = new_pool(num_blocks=4)
    tables = new_tables(pool, [16, 3, 3])
    before = [table.gather(1)[0].tobytes() for table in tables]
    refused = r"^Step: num_tokens: got 32 at index 2, which takes 2 blocks, expected at most the 0"
    with pytest.raises(quire.OutOfBlocks, match=refused):
        quire.Step(tables, [1, 1, 32])
    assert [len(table) for table in tables] == [16, 3, 3]
    assert [table.gather(1)[0].tobytes() for table in tables] == before
    assert pool.num_used == 3
    pool.check()


def test_an_exception_takes_every_table_back() -> None:
    pool = new_pool()
    tables = new_tables(pool, [16, 3])

    def fail_in_a_step() -> None:
        with quire.Step(tables, [2, 30]) as step:
            step.write(*(rows(32)[0] for _ in range(2)))
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_a_step()
    assert [len(table) for table in tables] == [16, 3]
    with quire.Step(tables, 2):
        pass
    assert [len(table) for table in tables] == [18, 5]
    quire.Step(tables, 1).take_back()
    assert [len(table) for table in tables] == [18, 5]
    pool.check()


def test_a_step_keeps_its_tables_and_outlives_their_names() -> None:
    pool = new_pool()
    step = quire.Step(new_tables(pool, [5]), 1)
    del pool
    assert step.attend(rows(1, HEADS)[0], rows(1)[0], rows(1)[0]).shape == (1, HEADS, DIM)
    assert repr(step) == "Step(1 token of 1 table)"


def test_a_table_that_changes_ends_the_step() -> None:
    pool = new_pool()
    tables = new_tables(pool, [5, 6])
    step = quire.Step(tables, 1)
    tables[1].extend(1)
    with pytest.raises(ValueError, match=r"^Step.write: tables: got one that has changed"):
        step.write(rows(2)[0], rows(2)[0])
    tables[0].free()
    with pytest.raises(ValueError, match=r"^Step.attend: tables: got a freed table at index 0"):
        step.attend(rows(2, HEADS)[0], rows(2)[0], rows(2)[0])


@pytest.mark.parametrize(
    ("tables", "num_tokens", "error", "message"),
    [
        ([], 1, ValueError, "Step: tables: got none, expected at least one"),
        ([0], [1, 1], ValueError, "Step: num_tokens: got 2 numbers, expected one for each of 1"),
        ([0], -1, ValueError, "Step: num_tokens: got -1 at index 0, expected >= 0"),
        ([0], 1.5, TypeError, "Step: num_tokens: got float, expected an int$"),
        ([0], [1.5], TypeError, "Step: num_tokens: got float, expected an int"),
        ([0], True, TypeError, "Step: num_tokens: got bool, expected an int"),
        ([0, 1, 0], 1, ValueError, "Step: tables: got the table at index 0 at index 2 again"),
        (["x"], 1, TypeError, "Step: tables: got str at index 0, expected a BlockTable"),
    ],
)
def test_what_makes_no_step(
    tables: list[Any], num_tokens: Any, error: type[Exception], message: str
) -> None:
    pool = new_pool()
    known = new_tables(pool, [5, 6])
    given = [known[t] if isinstance(t, int) else t for t in tables]
    with pytest.raises(error, match=f"^{message}"):
        quire.Step(given, num_tokens)
    assert [len(table) for table in known] == [5, 6]


def test_wrong_rows_and_options_write_nothing() -> None:
    pool = new_pool()
    tables = new_tables(pool, [5])
    step = quire.Step(tables, 2)
    before = np.array(pool.k_cache())
    k, q = rows(2)[0], rows(2, HEADS)[0]
    with pytest.raises(ValueError, match=r"^Step.write: k: got shape \[1, 2, 32\], expected \[2"):
        step.write(k[:1], k)
    with pytest.raises(IndexError, match=r"^Step.write: layer: got 3, expected 0 to 2"):
        step.write(k, k, layer=3)
    with pytest.raises(ValueError, match=r"^Step.attend: q: got 1 head,"):
        step.attend(q[:, :1], k, k)
    for option in ["cu_seqlens_q", "key_positions"]:
        with pytest.raises(ValueError, match=rf"^Step.attend: {option}: got some, expected None"):
            step.attend(q, k, k, **{option: np.zeros((1, 1), np.int64)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^Step.attend: layout: got \"HND\""):
        step.attend(q, k, k, layout="HND")  # type: ignore[arg-type]
    np.testing.assert_array_equal(before, pool.k_cache())
