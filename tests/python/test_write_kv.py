"""write_kv: every row in its slot, rounded, and nothing else touched."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import DTYPES

import quire


def caches(layout: str, dtype: str, v_head_dim: int = 8) -> list[np.ndarray]:
    shape = (5, 4, 3) if layout == "NHD" else (5, 3, 4)
    return [np.full((*shape, d), -7, DTYPES[dtype]) for d in (8, v_head_dim)]


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize(("source", "target"), list(itertools.product(DTYPES, repeat=2)))
def test_rows_reach_their_slots(layout: str, source: str, target: str) -> None:
    random = np.random.default_rng(0)
    k = random.standard_normal((6, 3, 8)).astype(DTYPES[source])
    v = random.standard_normal((6, 3, 13)).astype(DTYPES[source])
    slots = np.array([19, 0, -1, 7, 0, 12], np.int64)
    k_cache, v_cache = caches(layout, target, 13)
    quire.write_kv(k, v, k_cache, v_cache, slots, layout=layout)
    for rows, cache in ((k, k_cache), (v, v_cache)):
        expected = np.full_like(cache, -7)
        natural = expected if layout == "NHD" else expected.swapaxes(1, 2)
        for row, slot in enumerate(slots):
            if slot >= 0:  # row 4 comes after row 1 and wins slot 0
                natural[slot // 4, slot % 4] = rows[row].astype(DTYPES[target])
        assert cache.tobytes() == expected.tobytes()


@pytest.mark.parametrize("target", ["float16", "bfloat16"])
def test_rounding_is_to_nearest_even(target: str) -> None:
    """All ties and their neighbours, subnormals, overflow, infinities and NaN."""
    exact = np.arange(0x10000, dtype=np.uint16).view(DTYPES[target]).astype(np.float32)
    bits = exact[np.isfinite(exact)].view(np.uint32)
    half = np.uint32(1 << (12 if target == "float16" else 15))
    near = np.concatenate([bits, bits + half, bits + half - 1, bits + half + 1]).view(np.float32)
    special = np.array(
        [np.inf, -np.inf, np.nan, -np.nan, 3.4e38, -3.4e38, 1e-45, 65520], np.float32
    )
    values = np.concatenate([near, special])
    values = np.pad(values, (0, -len(values) % 8)).reshape(-1, 1, 8)
    cache = np.zeros((len(values), 1, 1, 8), DTYPES[target])
    quire.write_kv(values, values, cache, cache.copy(), np.arange(len(values)))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(DTYPES[target]).reshape(-1)
    got = cache.reshape(-1)
    nan = np.isnan(expected.astype(np.float32))
    assert np.isnan(got[nan].astype(np.float32)).all()
    assert got[~nan].tobytes() == expected[~nan].tobytes()


@pytest.mark.parametrize("slot", [20, -2, 2**62, -(2**63)])
def test_a_slot_out_of_range_changes_nothing(slot: int) -> None:
    k_cache, v_cache = caches("NHD", "float32")
    k = np.ones((3, 3, 8), np.float32)
    with pytest.raises(IndexError, match=rf"write_kv: slot_mapping: got {slot} at row 2"):
        quire.write_kv(k, k, k_cache, v_cache, np.array([0, 1, slot]))
    assert (k_cache == -7).all()
    assert (v_cache == -7).all()


def test_strided_rows_and_caches() -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((8, 6, 20)).astype(np.float32)[::-2, ::2, 3:11]
    big = np.zeros((10, 4, 6, 16), np.float16)
    k_cache, v_cache = big[::2, :, ::2, :8], big[1::2, :, 1::2, 8:]
    quire.write_kv(rows, rows, k_cache, v_cache, np.array([3, 9, 14, 0], np.int32))
    for row, slot in enumerate([3, 9, 14, 0]):
        for cache in (k_cache, v_cache):
            np.testing.assert_array_equal(cache[slot // 4, slot % 4], rows[row].astype(np.float16))
    assert np.count_nonzero(big) == 2 * rows.size


def test_nothing_to_write() -> None:
    k_cache, v_cache = caches("NHD", "float32")
    none = np.zeros((0, 3, 8), np.float32)
    quire.write_kv(none, none, k_cache, v_cache, np.zeros(0, np.int32))
    assert (k_cache == -7).all()


@pytest.mark.parametrize("source", ["float32", "bfloat16"])
def test_large_writes_on_threads(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 MiB, streamed past the caches: the same bits as NumPy, and of two rows the later wins."""
    random = np.random.default_rng(2)
    k, v = random.standard_normal((2, 1000, 8, 64), np.float32).astype(DTYPES[source])
    slots = random.integers(0, 640, 1000)
    expected = np.zeros((2, 640, 8, 64), DTYPES["bfloat16"])
    for row, slot in enumerate(slots):
        expected[:, slot] = k[row], v[row]
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("QUIRE_NUM_THREADS", threads)
        pool = quire.BlockPool(40, num_kv_heads=8, head_dim=64)
        quire.write_kv(k, v, pool.k_cache(), pool.v_cache(), slots)
        for cache, rows in zip((pool.k_cache(), pool.v_cache()), expected, strict=True):
            assert cache.tobytes() == rows.tobytes()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_append_of_a_prefill_on_threads(num_layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    layers = (num_layers,) if num_layers > 1 else ()
    k, v = random.standard_normal((2, *layers, 1000, 8, 64), np.float32)
    for threads in ("1", "3"):
        monkeypatch.setenv("QUIRE_NUM_THREADS", threads)
        pool = quire.BlockPool(80, num_kv_heads=8, head_dim=64, num_layers=num_layers)
        pool.release(random.permutation(pool.allocate(80)))  # the free list is in random order
        table = quire.BlockTable(pool)
        table.append(k[..., :3, :, :], v[..., :3, :, :])
        table.append(k[..., 3:, :, :], v[..., 3:, :, :])
        for layer in range(num_layers):
            wanted = (rows[layer] if layers else rows for rows in (k, v))
            for got, rows in zip(table.gather(layer), wanted, strict=True):
                assert got.tobytes() == rows.astype(DTYPES["bfloat16"]).tobytes()


def test_a_wrong_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = quire.BlockPool(1, num_kv_heads=3, head_dim=8)
    table = quire.BlockTable(pool)
    monkeypatch.setenv("QUIRE_NUM_THREADS", "none")
    k_cache, v_cache = caches("NHD", "float32")
    k = np.ones((1, 3, 8), np.float32)
    with pytest.raises(ValueError, match="QUIRE_NUM_THREADS: got"):
        quire.write_kv(k, k, k_cache, v_cache, np.array([0]))
    with pytest.raises(ValueError, match="QUIRE_NUM_THREADS: got"):
        quire.BlockPool(1, num_kv_heads=3, head_dim=8)
    with pytest.raises(ValueError, match="QUIRE_NUM_THREADS: got"):
        table.append(k, k)
    assert (k_cache == -7).all()
    assert len(table) == 0
