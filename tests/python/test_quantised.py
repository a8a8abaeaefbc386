"""Quantised caches: what write_kv stores, and attention against float64 on what is stored, on every
instruction set, with poison in the numbers and scales of every slot that must not be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantised_cases import (
    FLOATS,
    IMPLEMENTATIONS,
    LARGEST,
    QUANTISED,
    Paged,
    attention,
    poison,
    quantise,
)
from sampled_examples import examples

import quire

EXACT = 1e-5  # of the largest value, in float32
# Fused attention rounds weights to bfloat16 where results are, and in int8 caches to 16 bits of
# their row's largest.
WEIGHTS = {"float32": 1e-3, "bfloat16": 1e-2}


@pytest.mark.parametrize("dtype", QUANTISED)
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_attention_matches_float64_on_the_stored_numbers(
    instruction_set: str, dtype: str, data: st.DataObject
) -> None:
    def pick(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    length = data.draw(st.integers(1, 300))
    tokens = data.draw(st.integers(1, min(length, pick(1, 1, 4, 40))))
    kv_heads, group = pick((1, 1), (2, 4), (2, 2), (1, 3), (2, 7), (1, 12))
    head_dim = pick(64, 128, 1, 3, 31, 96, 192, 130)
    v_head_dim = pick(head_dim, 64, 40, 65)
    block_size = pick(16, 32, 1, 5, 100)
    layout, q_dtype, out_dtype = pick("NHD", "HND"), pick(*FLOATS), pick(*FLOATS)
    dynamic, window = pick(True, True, False), pick(None, None, 1, 17, 70)
    num_blocks = -(-length // block_size) + 2
    order = random.permutation(num_blocks)
    sides = []
    for size in (head_dim, v_head_dim):
        rows = random.standard_normal((length, kv_heads, size)) * random.lognormal(
            size=(length, 1, 1)
        )
        given_scale = None if dynamic else random.uniform(0.001, 0.05, kv_heads)
        numbers, scales = quantise(rows, dtype, given_scale)
        if dtype == "int8":  # which users may store
            numbers[random.random(numbers.shape) < 0.01] = -128
        paged = Paged(numbers, scales, dtype, block_size, order, layout)
        sides.append((paged, paged.scale if dynamic else scales[0]))
    (k, k_scale), (v, v_scale) = sides
    if window is not None:  # slots that no query sees any more
        for position in range(length - tokens - window + 1):
            slot = order[position // block_size], position % block_size
            for side in (k, v):
                side.scale[slot] = np.nan
                target = side.cache.swapaxes(1, 2) if layout == "HND" else side.cache
                target[slot] = poison((), dtype)
    q = random.standard_normal((tokens, kv_heads * group, head_dim)).astype(FLOATS[q_dtype])
    expected, expected_lse = attention(q, k.real, v.real, window)
    # of a score, where queries are rounded to 16 bits of their row's largest as well
    of_score = np.abs(q.astype(np.float32)).max() / 65534 * np.abs(k.real).sum(axis=2).max()
    of_score = of_score / np.sqrt(head_dim) if dtype == "int8" else 0.0
    largest = max(1.0, np.abs(v.real).max())
    for implementation in IMPLEMENTATIONS:
        out = np.full(expected.shape, np.nan, FLOATS[out_dtype])
        _, lse = quire.paged_attention(
            q, k.cache, v.cache, order[None, : num_blocks], np.array([length]),
            cu_seqlens_q=np.array([0, tokens]), sliding_window=window, k_scale=k_scale,
            v_scale=v_scale, layout=layout, out=out, return_lse=True, implementation=implementation,
        )  # fmt: skip
        error = np.abs(out.astype(np.float64) - expected).max()
        rounds = implementation == "fused"
        bound = WEIGHTS[out_dtype] if rounds or out_dtype == "bfloat16" else EXACT
        assert error < largest * (bound + 2 * of_score * rounds), implementation
        np.testing.assert_allclose(lse, expected_lse, atol=1e-4 + of_score * rounds, rtol=1e-5)


@pytest.mark.parametrize("tokens", [3, 24])
@pytest.mark.parametrize("dtype", QUANTISED)
def test_many_rows_of_every_size(instruction_set: str, dtype: str, tokens: int) -> None:
    """Where results are bfloat16, whose products are of pairs: heads that end anywhere in one."""
    random = np.random.default_rng(7)
    bfloat16 = FLOATS["bfloat16"]
    for size in (1, 2, 15, 16, 17, 24, 31, 32, 33, 47, 48, 63, 66, 128):
        v_size = 160 - size
        sides = []
        for row_size in (size, v_size):
            numbers, scales = quantise(random.standard_normal((70, 1, row_size)), dtype)
            cache, scale = numbers.reshape(7, 10, 1, row_size), scales.reshape(7, 10, 1)
            sides.append((cache, scale, numbers.astype(np.float32) * scales[..., None]))
        (k_cache, k_scale, k), (v_cache, v_scale, v) = sides
        q = random.standard_normal((tokens, 12, size)).astype(bfloat16)
        out = quire.paged_attention(
            q, k_cache, v_cache, np.arange(7)[None], np.array([69]), k_scale=k_scale,
            v_scale=v_scale, cu_seqlens_q=np.array([0, tokens]),
        )  # fmt: skip
        expected, _ = attention(q, k[:69], v[:69])
        error = np.abs(out.astype(np.float64) - expected).max()
        assert error < 0.01 * np.abs(v).max(), size


@pytest.mark.parametrize("dtype", QUANTISED)
def test_rows_that_see_different_keys(instruction_set: str, dtype: str) -> None:
    """A few tokens, which go through the keys together, over every number of keys."""
    random = np.random.default_rng(6)
    numbers, scales = quantise(random.standard_normal((2, 70, 1, 40)), dtype)
    numbers[1, :, 0, 0] = 100  # so that a key too many or too few shows
    k, v = numbers.astype(np.float32) * scales[..., None]
    caches = [np.ascontiguousarray(rows.reshape(7, 10, 1, 40)) for rows in numbers]
    k_scale, v_scale = (rows.reshape(7, 10, 1) for rows in scales)
    for length in range(4, 71):
        for tokens in (2, 3, 4):
            q = random.standard_normal((tokens, 1, 40)).astype(np.float32)
            out = quire.paged_attention(
                q, *caches, np.arange(7)[None], np.array([length]), k_scale=k_scale,
                v_scale=v_scale, cu_seqlens_q=np.array([0, tokens]),
            )  # fmt: skip
            expected, _ = attention(q, k[:length], v[:length])
            np.testing.assert_allclose(out, expected, atol=2e-3, err_msg=f"{length}, {tokens}")


@pytest.mark.parametrize("dtype", QUANTISED)
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("source", ["float32", "bfloat16"])
def test_write_kv_stores_the_documented_numbers_and_scales(
    instruction_set: str, dtype: str, layout: str, source: str
) -> None:
    random = np.random.default_rng(1)
    for size, v_size in ((64, 128), (1, 3), (33, 100)):
        k, v = (
            (random.standard_normal((50, 2, n)) * 10.0 ** random.integers(-30, 30, (50, 2, 1)))
            .astype(FLOATS[source])
            for n in (size, v_size)
        )  # fmt: skip
        k[3] = v[4] = 0  # a row of zeros
        k[5] = 1e-45
        slots = random.permutation(10 * 7)[:50]
        slots[:2] = slots[2]  # the last of one slot wins
        slots[9] = -1
        k[9] = np.nan  # a row that is skipped may hold anything
        caches = [poison((10, 7, 2, n), dtype) for n in (size, v_size)]
        untouched = [cache.copy() for cache in caches]
        scales = [np.full((10, 7, 2), -1, np.float32) for _ in caches]
        given = [c.swapaxes(1, 2).copy() if layout == "HND" else c for c in caches]
        quire.write_kv(
            k, v, *given, slots, k_scale=scales[0], v_scale=scales[1], layout=layout
        )  # fmt: skip
        for cache, before, scale, rows in zip(given, untouched, scales, (k, v), strict=True):
            stored = (cache.swapaxes(1, 2) if layout == "HND" else cache).reshape(70, 2, -1)
            before = before.reshape(stored.shape)
            expected, expected_scale = quantise(rows[slots >= 0], dtype)
            written = slots[slots >= 0]
            last = {slot: i for i, slot in enumerate(written)}
            for slot in range(70):
                where = last.get(slot)
                numbers = before[slot] if where is None else expected[where]
                factor = -1 if where is None else expected_scale[where]
                assert stored[slot].tobytes() == numbers.tobytes(), slot
                np.testing.assert_array_equal(scale.reshape(70, 2)[slot], factor)
        assert (scales[0] != 0).all()
        assert np.isfinite(scales[0]).all()


@pytest.mark.parametrize("dtype", QUANTISED)
@pytest.mark.parametrize("scale", [0.05, np.array([0.05, 0.5], np.float32)])
def test_a_static_scale_is_read_and_cuts_off(instruction_set: str, dtype: str, scale: Any) -> None:
    random = np.random.default_rng(2)
    k, v = random.standard_normal((2, 20, 2, 48)).astype(np.float32) * 10
    if dtype == "float8_e5m2":  # whose largest is so much larger
        scale = np.asarray(scale, np.float32) / 256
    caches = [np.zeros((2, 16, 2, 48), QUANTISED[dtype]) for _ in "kv"]
    quire.write_kv(k, v, *caches, np.arange(20), k_scale=scale, v_scale=scale)
    for rows, cache in zip((k, v), caches, strict=True):
        expected, _ = quantise(rows, dtype, scale)
        assert cache.reshape(32, 2, 48)[:20].tobytes() == expected.tobytes()
    assert LARGEST[dtype] == np.abs(caches[0].astype(np.float32)).max()


@pytest.mark.parametrize("dtype", QUANTISED)
def test_every_number_of_the_dtype_is_read(instruction_set: str, dtype: str) -> None:
    numbers = np.arange(256, dtype=np.uint8).view(QUANTISED[dtype])
    finite = np.where(np.isfinite(numbers.astype(np.float32)), numbers, np.zeros_like(numbers))
    zeros = np.zeros((1, 1, 1, 256), QUANTISED[dtype])
    picks = 16 * np.eye(256, dtype=np.float32)  # each picks out an element, as 16 / sqrt(256) is 1

    def attend(implementation: Any, q: Any, k_cache: Any, v_cache: Any) -> Any:
        return quire.paged_attention(
            q[None], k_cache, v_cache, np.array([[0]]), np.array([1]), k_scale=1.0, v_scale=0.5,
            return_lse=True, implementation=implementation,
        )  # fmt: skip

    for implementation in IMPLEMENTATIONS:
        for rows in (1, 2, 3, 4, 12, 64):  # read directly, and packed
            out, _ = attend(implementation, picks[:rows], zeros, numbers.reshape(zeros.shape))
            for row in out[0]:
                np.testing.assert_allclose(row, numbers.astype(np.float32) / 2, rtol=1e-6)
            for first in range(0, 256, rows):
                got = attend(
                    implementation, picks[first : first + rows], finite.reshape(zeros.shape), zeros
                )[1][0]
                np.testing.assert_allclose(
                    got, finite[first : first + rows].astype(np.float32), rtol=1e-6
                )
            assert (dtype == "int8") or np.isnan(
                attend(implementation, picks[:rows], numbers.reshape(zeros.shape), zeros)[1]
            ).all()


@pytest.mark.parametrize("dtype", QUANTISED)
def test_pool_tables_and_forks_keep_scales_with_their_blocks(dtype: str) -> None:
    random = np.random.default_rng(3)
    pool = quire.BlockPool(
        12, block_size=4, num_kv_heads=2, head_dim=9, v_head_dim=5, num_layers=2, dtype=dtype
    )
    assert pool.dtype == QUANTISED[dtype]
    table = quire.BlockTable(pool)

    def rows(count: int) -> tuple[Any, Any]:
        k = random.standard_normal((2, count, 2, 9)).astype(np.float32)
        return k * 5, random.standard_normal((2, count, 2, 5)).astype(np.float32)

    def check(table: Any, k: Any, v: Any) -> None:
        for layer in range(2):
            for got, written in zip(table.gather(layer), (k[layer], v[layer]), strict=True):
                numbers, scales = quantise(written, dtype)
                assert got.dtype == np.float32
                expected = numbers.astype(np.float32) * scales[..., None]
                np.testing.assert_array_equal(got, expected)
            q = random.standard_normal((1, 4, 9)).astype(np.float32)
            keys, values = table.gather(layer)
            out = quire.attend(q, [table], layer=layer)
            np.testing.assert_allclose(out, attention(q, keys, values)[0], atol=1e-4)

    k, v = rows(6)
    table.append(k, v)
    check(table, k, v)
    child = table.fork()
    more_k, more_v = rows(5)
    child.append(more_k, more_v)  # copies the shared block
    assert pool.stats().copies_on_write == 1
    check(table, k, v)
    check(child, np.concatenate([k, more_k], 1), np.concatenate([v, more_v], 1))
    child.truncate(7)
    check(child, np.concatenate([k, more_k[:, :1]], 1), np.concatenate([v, more_v[:, :1]], 1))

    cache = quire.PrefixCache(pool)
    cache.insert(np.arange(6), table)
    table.free()
    matched = cache.match(np.array([0, 1, 2, 3, 4, 9]))  # a block, and a row of the next
    assert len(matched) == 5
    check(matched, k[:, :5], v[:, :5])
    pool.check()


def test_scales_are_views_of_the_pool() -> None:
    pool = quire.BlockPool(3, block_size=5, num_kv_heads=2, head_dim=3, num_layers=2, dtype="int8")
    for layer in range(2):
        for scale in (pool.k_scale(layer), pool.v_scale(layer)):
            assert scale.shape == (3, 5, 2)
            assert scale.dtype == np.float32
            assert (scale == 0).all()
    views = [pool.k_cache(1), pool.v_cache(1), pool.k_scale(1), pool.v_scale(1)]
    for i, view in enumerate(views):
        view[...] = i + 1
    for i, view in enumerate(views):  # nothing lies in another's place
        assert (view == i + 1).all()
    assert not pool.k_scale(0).any()
    assert not pool.v_cache(0).any()
    with pytest.raises(IndexError, match=r"BlockPool\.k_scale: layer: got 2, expected 0 to 1"):
        pool.k_scale(2)
    plain = quire.BlockPool(1, num_kv_heads=1, head_dim=1)
    for method in (plain.k_scale, plain.v_scale):
        with pytest.raises(TypeError, match="_scale: pool: got a pool of bfloat16"):
            method()


def test_a_quantised_cache_beside_a_plain_one(instruction_set: str) -> None:
    random = np.random.default_rng(4)
    k, v = random.standard_normal((2, 40, 2, 32)).astype(np.float32)
    caches: list[Any] = [np.zeros((3, 16, 2, 32), dtype) for dtype in (np.int8, np.float16)]
    scale = np.zeros((3, 16, 2), np.float32)
    quire.write_kv(k, v, *caches, np.arange(40), k_scale=scale)
    numbers, scales = quantise(k, "int8")
    q = random.standard_normal((5, 8, 32)).astype(np.float32)
    expected, _ = attention(q, numbers * scales[..., None], v.astype(np.float16))
    for implementation in IMPLEMENTATIONS:
        out = quire.paged_attention(
            q, *caches, np.array([[0, 1, 2]]), np.array([40]), cu_seqlens_q=np.array([0, 5]),
            k_scale=scale, implementation=implementation,
        )  # fmt: skip
        np.testing.assert_allclose(out, expected, atol=2e-5)


@pytest.mark.parametrize("dtype", QUANTISED)
def test_the_same_bits_in_any_batch_and_on_any_threads(instruction_set: str, dtype: str) -> None:
    random = np.random.default_rng(5)
    pool = quire.BlockPool(400, num_kv_heads=2, head_dim=64, dtype=dtype)
    tables = []
    for length in (3000, 1, 800, 17):
        table = quire.BlockTable(pool)
        table.append(*random.standard_normal((2, length, 2, 64)).astype(np.float32))
        tables.append(table)
    for dtype_of_q in FLOATS.values():
        q = random.standard_normal((4, 8, 64)).astype(dtype_of_q)
        together = quire.attend(q, tables, num_threads=2)
        for i, table in enumerate(tables):
            alone = quire.attend(q[i : i + 1], [table], num_threads=1)
            assert alone.tobytes() == together[i : i + 1].tobytes()
