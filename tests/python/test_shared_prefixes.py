"""Tables that share their first blocks: attention reads those once, and nobody can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dense_oracle
import numpy as np
import pytest
from filled_pool import fill, new_pool

import quire

SHARED, BATCH = 1100, 7


def family(pool: quire.BlockPool, random: np.random.Generator) -> tuple[list[Any], Any, Any]:
    """Forks of one table with tokens of their own, and the keys and values of each."""
    parent = quire.BlockTable(pool)
    k, v = fill(parent, SHARED, random)
    tables, keys, values = [], [], []
    for i in range(BATCH):
        table = parent.fork()
        own_k, own_v = fill(table, 1 + 40 * i, random)
        tables.append(table)
        keys.append(np.concatenate([k, own_k]))
        values.append(np.concatenate([v, own_v]))
    parent.free()
    return tables, keys, values


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("heads", [(2, 1), (2, 4), (1, 16)])
def test_forks_have_the_bits_of_each_alone(dtype: str, heads: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    num_kv_heads, group = heads
    pool = new_pool(
        2 * BATCH * 30 + 80, num_kv_heads=num_kv_heads, head_dim=128, dtype=dtype, v_head_dim=96
    )
    tables, _, _ = family(pool, random)
    q = random.standard_normal((BATCH, num_kv_heads * group, 128)).astype(np.float32)
    options: dict[str, Any] = {"return_lse": True, "softcap": 20.0}
    out, lse = quire.attend(q, tables, **options)
    for i, table in enumerate(tables):
        alone, alone_lse = quire.attend(q[i : i + 1], [table], **options)
        np.testing.assert_array_equal(out[i : i + 1], alone)
        np.testing.assert_array_equal(lse[i : i + 1], alone_lse)
    reference, _ = quire.attend(q, tables, implementation="dense", **options)
    assert np.abs(out - reference).max() < 2e-3 * np.abs(reference).max()


@pytest.mark.parametrize("drafted", [1, 3])
def test_a_batch_of_forks_matches_float64(drafted: int) -> None:
    random = np.random.default_rng(1)
    pool = new_pool(600, head_dim=128, v_head_dim=128, num_kv_heads=2)
    tables, keys, values = family(pool, random)
    keys, values = keys[1:], values[1:]  # the first has but one token of its own
    q = random.standard_normal(((BATCH - 1) * drafted, 4, 128)).astype(np.float32)
    slopes = np.array([0.02, 0.0, 0.5, 0.1], np.float32)
    starts = np.arange(BATCH, dtype=np.int32) * drafted
    out = quire.attend(q, tables[1:], cu_seqlens_q=starts, alibi_slopes=slopes)
    for i, (k, v) in enumerate(zip(keys, values, strict=True)):
        positions = np.arange(len(k))
        expected, _, _ = dense_oracle.attention(
            q[starts[i] : starts[i + 1]],
            k,
            v,
            positions[-drafted:],
            positions,
            alibi_slopes=slopes,
        )
        np.testing.assert_allclose(out[starts[i] : starts[i + 1]], expected, atol=2e-5)


def test_a_pool_larger_than_memory_has_the_same_bits(tmp_path: Path) -> None:
    out = []
    for options in ({}, {"backing_file": tmp_path / "blocks", "resident_bytes": 1 << 22}):
        random = np.random.default_rng(2)
        pool = new_pool(600, head_dim=128, v_head_dim=128, num_kv_heads=2, **options)
        tables, _, _ = family(pool, random)
        q = random.standard_normal((BATCH, 4, 128)).astype(np.float32)
        out.append(quire.attend(q, tables))
    np.testing.assert_array_equal(out[0], out[1])


def test_a_prefix_cache_shares_too() -> None:
    random = np.random.default_rng(3)
    pool = new_pool(600, head_dim=128, v_head_dim=128, num_kv_heads=2)
    cache = quire.PrefixCache(pool)
    prompt = random.integers(0, 1000, SHARED)
    with quire.BlockTable(pool) as table:
        fill(table, SHARED, random)
        cache.insert(prompt, table)
    tables = [cache.match(np.append(prompt, i)) for i in range(4)]
    for table in tables:
        fill(table, 30, random)
    q = random.standard_normal((4, 4, 128)).astype(np.float32)
    out = quire.attend(q, tables)
    for i, table in enumerate(tables):
        np.testing.assert_array_equal(out[i : i + 1], quire.attend(q[i : i + 1], [table]))
