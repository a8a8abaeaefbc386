"""BlockPool: counts, views, and refusals that change nothing."""

from __future__ import annotations

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest

import quire


def new_pool(num_blocks: int = 8) -> quire.BlockPool:
    return quire.BlockPool(num_blocks, block_size=4, num_kv_heads=2, head_dim=8, dtype="float32")


def test_geometry() -> None:
    pool = quire.BlockPool(
        3, block_size=5, num_kv_heads=2, head_dim=7, v_head_dim=9, num_layers=2, dtype="float16"
    )
    assert (pool.num_blocks, pool.block_size, pool.num_kv_heads) == (3, 5, 2)
    assert (pool.head_dim, pool.v_head_dim, pool.num_layers) == (7, 9, 2)
    assert pool.dtype == np.float16
    assert pool.nbytes >= 2 * 3 * 2 * 5 * (7 + 9) * 2
    for layer in range(2):
        assert pool.k_cache(layer).shape == (3, 5, 2, 7)
        assert pool.v_cache(layer).shape == (3, 5, 2, 9)
    assert "BlockPool(3, block_size=5" in repr(pool)
    default = quire.BlockPool(2, num_kv_heads=1, head_dim=4)
    assert default.dtype == ml_dtypes.bfloat16
    assert default.block_size == 16


@pytest.mark.parametrize("dtype", [np.float16, "float16", np.dtype("float16")])
def test_dtype_spellings(dtype: object) -> None:
    assert quire.BlockPool(1, num_kv_heads=1, head_dim=1, dtype=dtype).dtype == np.float16


def test_views_are_the_memory_and_keep_it_alive() -> None:
    pool = new_pool()
    k, again = pool.k_cache(), pool.k_cache()
    assert not pool.k_cache().any()
    assert not np.shares_memory(pool.k_cache(), pool.v_cache())
    k[3, 2, 1] = 5
    assert (again[3, 2, 1] == 5).all()
    alive = weakref.ref(pool)
    del pool
    gc.collect()
    assert alive() is not None
    k[...] = 1
    assert (again == 1).all()
    part = again[2:, 1]
    del k, again
    gc.collect()
    assert alive() is not None
    assert (part == 1).all()
    del part
    gc.collect()
    assert alive() is None


def test_layers_do_not_overlap() -> None:
    pool = quire.BlockPool(2, num_kv_heads=1, head_dim=4, num_layers=3, dtype="float32")
    for layer in range(3):
        pool.k_cache(layer)[...] = layer + 1
        pool.v_cache(layer)[...] = -layer - 1
    for layer in range(3):
        assert (pool.k_cache(layer) == layer + 1).all()
        assert (pool.v_cache(layer) == -layer - 1).all()
    for layer in (3, -1):
        with pytest.raises(IndexError, match=f"layer: got {layer}, expected 0 to 2"):
            pool.k_cache(layer)


def test_allocate_retain_release() -> None:
    pool = new_pool()
    ids = pool.allocate(3)
    assert ids.dtype == np.int32
    assert len(set(ids.tolist())) == 3
    assert pool.num_used == 3
    assert pool.num_free == 5
    assert pool.ref_counts[ids].tolist() == [1, 1, 1]
    pool.retain(ids[:2])
    pool.release(ids.astype(np.int64))
    assert pool.ref_counts.sum() == 2
    pool.release(int(ids[0]))
    pool.retain(ids[1])  # one id, as NumPy gives it
    pool.release(ids[1])
    pool.release(ids[1:2])
    assert pool.num_free == 8
    assert pool.stats().peak_used == 3
    pool.check()


def test_exhaustion_changes_nothing() -> None:
    pool = new_pool()
    pool.allocate(6)
    before = pool.ref_counts
    with pytest.raises(quire.OutOfBlocks, match=r"allocate: n: got 3, .* 2 free") as caught:
        pool.allocate(3)
    assert isinstance(caught.value, quire.QuireError)
    assert isinstance(caught.value, MemoryError)
    assert (pool.ref_counts == before).all()
    assert len(pool.allocate(2)) == 2
    assert len(pool.allocate(0)) == 0


@pytest.mark.parametrize("method", ["retain", "release"])
def test_retain_and_release_are_all_or_nothing(method: str) -> None:
    pool = new_pool()
    held = pool.allocate(2)
    free = (set(range(8)) - set(held.tolist())).pop()
    before = pool.ref_counts
    for bad, error in ((free, ValueError), (8, IndexError), (-1, IndexError), (2**40, IndexError)):
        with pytest.raises(error, match=f"BlockPool.{method}: ids: got block {bad} at index 1"):
            getattr(pool, method)(np.array([held[0], bad, held[1]]))
        assert (pool.ref_counts == before).all()
        pool.check()


def test_a_double_release_raises() -> None:
    pool = new_pool()
    ids = pool.allocate(2)
    with pytest.raises(ValueError, match=r"got block \d again at index 2"):
        pool.release(np.array([ids[0], ids[1], ids[0]]))
    assert pool.num_used == 2
    pool.release(ids)
    with pytest.raises(ValueError, match="which is free"):
        pool.release(ids)


def test_blocks_of_tables_cannot_be_released() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    table.extend(5)
    with pytest.raises(ValueError, match="which only tables hold"):
        pool.release(table.blocks)
    pool.retain(table.blocks)
    table.free()
    assert pool.num_used == 2


def test_stats() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    table.extend(6)
    child = table.fork()
    child.extend(1)
    stats = pool.stats()
    assert (stats.num_blocks, stats.free, stats.used, stats.shared) == (8, 5, 3, 1)
    assert (stats.reserved_tokens, stats.filled_tokens, stats.wasted_tokens) == (12, 9, 3)
    assert (stats.copies_on_write, stats.cached, stats.peak_used) == (1, 0, 3)
    assert "used=3" in repr(stats)
    with pytest.raises(AttributeError):
        stats.used = 4  # type: ignore[misc]
