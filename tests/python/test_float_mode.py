"""Every operation computes in the processor's default mode, whatever the host has set: torch, for
one, has a switch that takes subnormal numbers for 0."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from float_mode import current_mode, unusual_mode

import quire

TINY = 2.0**-133  # subnormal in float32 and bfloat16
FLOATS = [np.float32, np.float16, ml_dtypes.bfloat16]
POOLS = [("float32", None), ("float16", None), ("bfloat16", None), ("int8", 0), ("int8", 1),
         ("float8_e4m3fn", 0), ("float8_e4m3fn", 1), ("int4", 1)]  # fmt: skip


def numbers(*shape: int, seed: int = 0) -> Any:
    """Of all sizes, many of which are subnormal in some dtype."""
    random = np.random.default_rng(seed)
    exponents = random.integers(-145, 4, shape)
    return np.ldexp(random.standard_normal(shape), exponents).astype(np.float32)


def in_bytes(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(in_bytes(part) for part in result)
    return np.asarray(result).tobytes() if result is not None else None


def expect_same(operation: Callable[[], Any]) -> None:
    expected = in_bytes(operation())
    with unusual_mode():
        result = operation()
    assert current_mode() == 0
    assert in_bytes(result) == expected


def test_the_mode_is_unusual() -> None:
    """Without which the others show nothing."""
    tiny, many = np.full(64, TINY, np.float32), np.linspace(1, 2, 64, dtype=np.float32)
    usual = (tiny * np.float32(2), many * many)
    with unusual_mode():
        unusual = (tiny * np.float32(2), many * many)
    assert not np.array_equal(usual[0], unusual[0])
    assert not np.array_equal(usual[1], unusual[1])


@pytest.mark.parametrize("implementation", ["fused", "gather", "dense"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tokens", [1, 9])
def test_attention(instruction_set: str, implementation: str, dtype: Any, tokens: int) -> None:
    k, v = numbers(2, 3, 16, 2, 32, seed=1).astype(dtype)
    q = (numbers(tokens, 4, 32, seed=2) * 4).astype(np.float32)

    def attend() -> Any:
        return quire.paged_attention(
            q, k, v, np.array([[2, 0, 1]], np.int32), np.array([45], np.int32),
            cu_seqlens_q=np.array([0, tokens], np.int32), return_lse=True,
            return_block_mass=True, implementation=implementation,
        )  # fmt: skip

    expect_same(attend)


@pytest.mark.parametrize("dtype", FLOATS)
def test_merge_states(dtype: Any) -> None:
    outs = numbers(3, 4, 2, 8).astype(dtype)
    lses = numbers(3, 4, 2, seed=1)
    expect_same(lambda: quire.merge_states(outs, lses))


@pytest.mark.parametrize("dtype", [*FLOATS, np.int8, ml_dtypes.float8_e4m3fn])
def test_write_kv(instruction_set: str, dtype: Any) -> None:
    k, v = numbers(2, 20, 2, 32)
    scaled = dtype not in FLOATS

    def write() -> Any:
        caches = np.zeros((2, 2, 16, 2, 32), dtype)
        scales = np.zeros((2, 2, 16, 2), np.float32)
        named = {"k_scale": scales[0], "v_scale": scales[1]} if scaled else {}
        quire.write_kv(k, v, caches[0], caches[1], np.arange(20), **named)
        return caches, scales

    expect_same(write)


@pytest.mark.parametrize(("dtype", "open_blocks"), POOLS)
def test_tables(instruction_set: str, dtype: str, open_blocks: int | None, tmp_path: Path) -> None:
    """A sequence that grows, is cut, thinned out, cached, found, saved and loaded."""
    named = {} if open_blocks is None else {"open_blocks": open_blocks}
    k, v = numbers(2, 90, 2, 32)
    q = numbers(1, 4, 32, seed=1)

    def live() -> Any:
        pool = quire.BlockPool(40, num_kv_heads=2, head_dim=32, dtype=dtype, **named)
        cache = quire.PrefixCache(pool)
        results = []
        with quire.BlockTable(pool) as table, contextlib.ExitStack() as stack:
            table.append(k[:70], v[:70])
            table.append(k[70:71], v[70:71])
            results.append(table.gather())
            table.truncate(60)
            table.append(k[60:75], v[60:75])
            cache.insert(range(75), table)
            child = stack.enter_context(table.fork())
            child.append(k[75:], v[75:])
            child.keep(np.arange(0, 90, 3))
            results.append(child.gather())
            found = stack.enter_context(cache.match(range(73)))
            found.append(k[:9], v[:9])
            results.append(found.gather())
            child.save(tmp_path / "table.safetensors")
            loaded = stack.enter_context(quire.load_table(pool, tmp_path / "table.safetensors"))
            results.append(loaded.gather())
            results.append(quire.attend(q, [loaded], return_lse=True))
        return tuple(results)

    expect_same(live)


def test_scales_that_are_subnormal_are_positive(tmp_path: Path) -> None:
    pool = quire.BlockPool(4, num_kv_heads=1, head_dim=8, dtype="int8")
    with quire.BlockTable(pool) as table:
        table.append(*np.ones((2, 5, 1, 8), np.float32))
        pool.k_scale()[:] = TINY

        def use() -> Any:
            table.save(tmp_path / "table.safetensors")
            with quire.load_table(pool, tmp_path / "table.safetensors") as loaded:
                return loaded.gather(), quire.attend(np.ones((1, 1, 8), np.float32), [loaded])

        expect_same(use)
