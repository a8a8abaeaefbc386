"""Fused attention on quantised caches where one number of a row is much larger than the others: a
channel of a query, a value, a weight. What few rows are multiplied with is rounded relative to the
largest of its row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quire

BOUND = 1e-4  # of the largest result
KEYS, HEAD_DIM, CHANNEL = 500, 128, 5
DTYPES = ("int8", "float8_e4m3fn", "int4")


def rows(seed: int, heads: int = 2) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    k, v = random.standard_normal((2, KEYS, heads, HEAD_DIM), np.float32)
    return random.standard_normal((1, 4 * heads, HEAD_DIM), np.float32), k, v


def sequence(dtype: str, k: Any, v: Any) -> quire.BlockTable:
    options = {} if dtype == "int4" else {"open_blocks": 0}
    pool = quire.BlockPool(40, num_kv_heads=k.shape[1], head_dim=HEAD_DIM, dtype=dtype, **options)
    table = quire.BlockTable(pool)
    table.append(k, v)
    return table


def expect_exact(q: Any, table: quire.BlockTable) -> Any:
    got = quire.attend(q, [table], implementation="fused")
    expected = quire.attend(q, [table], implementation="dense")
    assert np.abs(got - expected).max() <= BOUND * np.abs(expected).max()
    return got


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [3.0, 10.0, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("keys", ["random", "the same", "zero"])
def test_a_large_channel_of_a_query(
    instruction_set: str, dtype: str, factor: float, keys: str
) -> None:
    """Where all keys have the same number there, it makes no difference, and all others do."""
    if (keys, factor > 1e3) == ("the same", True):
        return  # float32 has not so many digits
    for seed in range(3):
        q, k, v = rows(seed)
        q[..., CHANNEL] *= factor
        if keys != "random":
            k[..., CHANNEL] = 0.7 if keys == "the same" else 0
        expect_exact(q, sequence(dtype, k, v))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [3.0, 10.0, 1e3, 1e6])
def test_only_some_rows_of_a_group(instruction_set: str, dtype: str, factor: float) -> None:
    """What a row asks for is its own affair: the others keep their bits."""
    q, k, v = rows(1)
    table = sequence(dtype, k, v)
    usual = quire.attend(q, [table], implementation="fused")
    for row in range(8):
        some = q.copy()
        some[:, row, CHANNEL] *= factor
        got = expect_exact(some, table)
        others = [other for other in range(8) if other != row]
        assert np.array_equal(got[:, others], usual[:, others])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [3.0, 10.0, 1e3, 3e4])
def test_a_large_channel_of_some_values(instruction_set: str, dtype: str, factor: float) -> None:
    """Of the largest result in other channels, to which those values add next to nothing, it may
    be more."""
    q, k, v = rows(2)
    v[3::64, :, CHANNEL] = factor if dtype == "int4" else 100 * factor
    table = sequence(dtype, k, v)
    got, expected = (
        np.delete(quire.attend(q, [table], implementation=name), CHANNEL, axis=-1)
        for name in ("fused", "dense")
    )
    assert np.abs(got - expected).max() <= 2 * BOUND * np.abs(expected).max()


@pytest.mark.parametrize("distance", [3.0, 6.0, 12.0, 18.0])
def test_a_key_without_value_has_nearly_all_weight(instruction_set: str, distance: float) -> None:
    """As the first token often has; with one scale for all values they are small beside it."""
    q, k, v = rows(3)
    q[:, 1::4] = q[:, 2::4] = q[:, 3::4] = q[:, ::4]
    for head in range(2):
        row = q[0, 4 * head]
        scores = k[:, head] @ row / np.sqrt(HEAD_DIM)
        k[0, head] += row * (scores.max() + distance - scores[0]) * np.sqrt(HEAD_DIM) / (row @ row)
    v[0] = 0
    k, v = (np.clip(np.rint(x * 10), -127, 127).astype(np.int8)[None] for x in (k, v))
    scale = np.float32(0.1)
    got, expected = (
        quire.paged_attention(
            q, k, v, np.zeros((1, 1), np.int32), np.array([KEYS], np.int32), k_scale=scale,
            v_scale=scale, implementation=name,
        )
        for name in ("fused", "dense")
    )  # fmt: skip
    assert np.abs(got - expected).max() <= 3 * BOUND * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_tiny_queries_and_huge_keys(instruction_set: str, dtype: str) -> None:
    q, k, v = rows(4)
    expect_exact(q * 1e-25, sequence(dtype, k * 1e25, v))
