"""Pools of int4: their arrays, and what they refuse."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from open_blocks_model import new_pool, rows_of

import quire


def test_arrays_of_a_pool() -> None:
    pool = quire.BlockPool(
        12, num_kv_heads=3, head_dim=10, v_head_dim=6, num_layers=2, dtype="int4"
    )
    assert pool.dtype == "int4"
    assert pool.dtype == np.dtype(ml_dtypes.int4)
    assert "dtype='int4'" in repr(pool)
    assert pool.head_dim == 10
    for array, shape, dtype in [
        (pool.k_cache(1), (12, 16, 3, 5), "uint8"),
        (pool.v_cache(1), (12, 16, 3, 3), "uint8"),
        (pool.k_scale(1), (12, 3, 10, 2), "float16"),
        (pool.v_scale(1), (12, 16, 3, 2), "float16"),
        (pool.k_open(1), (12, 16, 3, 10), "bfloat16"),
        (pool.v_open(1), (12, 16, 3, 6), "bfloat16"),
    ]:
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.writeable
        assert array.base is not None
    # half a byte a number, and the grids: a third of bfloat16
    assert quire.BlockPool(64, num_kv_heads=8, head_dim=128, dtype="int4").nbytes < 0.33 * (
        quire.BlockPool(64, num_kv_heads=8, head_dim=128).nbytes
    )
    assert quire.BlockPool(2, num_kv_heads=1, head_dim=2, dtype=ml_dtypes.int4).dtype == "int4"


def test_planes_do_not_overlap() -> None:
    pool = new_pool(3, num_layers=2)
    names = ("k_cache", "v_cache", "k_scale", "v_scale", "k_open", "v_open")
    arrays = [getattr(pool, name)(layer) for name in names for layer in range(2)]
    for i, array in enumerate(arrays):
        array.view(np.uint8 if array.dtype == np.uint8 else np.uint16)[...] = i + 1
    for i, array in enumerate(arrays):
        assert (array.view(np.uint8 if array.dtype == np.uint8 else np.uint16) == i + 1).all()


def test_what_int4_cannot_do() -> None:
    for sizes, name in [({"head_dim": 7}, "head_dim"), ({"v_head_dim": 3}, "v_head_dim")]:
        with pytest.raises(ValueError, match=rf"^BlockPool: {name}: got \d, expected an even"):
            new_pool(**sizes)
    with pytest.raises(ValueError, match=r"^BlockPool: num_blocks: got 1073741824, expected 1 to"):
        new_pool(2**30)
    with pytest.raises(TypeError, match=r"^BlockPool: dtype: got int5, expected .* or int4$"):
        quire.BlockPool(2, num_kv_heads=1, head_dim=2, dtype="int5")
    plain = quire.BlockPool(2, num_kv_heads=1, head_dim=2, num_layers=3)
    assert plain.stats().open_blocks == 0
    pool = new_pool()
    table = quire.BlockTable(pool)
    for name in ("k_open", "v_open"):
        with pytest.raises(TypeError, match=rf"^BlockPool\.{name}: pool: got a pool of bfloat16"):
            getattr(plain, name)()
        with pytest.raises(IndexError, match=rf"^BlockPool\.{name}: layer: got 2, expected 0 to 1"):
            getattr(pool, name)(2)
    for move in (table.offload, table.restore):
        with pytest.raises(ValueError, match="without backing_file"):
            move()


def test_blocks_of_a_user_are_written_whole() -> None:
    random = np.random.default_rng(6)
    pool = new_pool(num_layers=1)
    ids = pool.allocate(2)
    assert pool.stats().open_blocks == 0
    k, v = rows_of(pool, 8, random)
    slots = (ids.astype(np.int64)[:, None] * 4 + np.arange(4)).ravel()
    quire.write_kv(
        k[0], v[0], pool.k_cache(), pool.v_cache(), slots, k_scale=pool.k_scale(),
        v_scale=pool.v_scale(),
    )  # fmt: skip
    q = random.standard_normal((1, 4, 8), dtype=np.float32)
    given = {"k_scale": pool.k_scale(), "v_scale": pool.v_scale()}
    lengths = np.array([8], np.int32)
    out = quire.paged_attention(q, pool.k_cache(), pool.v_cache(), ids[None], lengths, **given)
    assert np.isfinite(out).all()
    pool.release(ids)
    pool.check()
