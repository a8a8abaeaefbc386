"""Files of int4 pools: what stands in them, by the format's description, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire

CACHE_FILE = "prefix_cache.safetensors"


def new_pool(num_blocks: int = 40) -> quire.BlockPool:
    return quire.BlockPool(
        num_blocks,
        block_size=4,
        num_kv_heads=2,
        head_dim=8,
        v_head_dim=6,
        num_layers=2,
        dtype="int4",
    )


def append_random(table: quire.BlockTable, tokens: int, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    k, v = (random.standard_normal((2, tokens, 2, d), dtype=np.float32) for d in (8, 6))
    table.append(k, v)


def filled(tokens: int) -> quire.BlockTable:
    table = quire.BlockTable(new_pool())
    append_random(table, tokens)
    return table


def numbers(codes: Any, grids: Any) -> Any:
    """What rows of codes [.., size / 2] stand for on grids that broadcast to [.., size, 2]."""
    n = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1).astype(np.int8)
    step, middle = np.moveaxis(grids.astype(np.float32), -1, 0)
    return middle + (n - 8) * step


@pytest.mark.parametrize("tokens", [26, 10])  # of which 10 end within a sealed block
def test_another_tool_reads_what_gather_gives(tmp_path: Path, tokens: int) -> None:
    safetensors = pytest.importorskip("safetensors")
    table = filled(26)
    table.save(tmp_path / "t")
    table = quire.load_table(table.pool, tmp_path / "t")  # which cannot go back to before
    table.truncate(tokens)
    table.save(tmp_path / "t")
    sealed = min(tokens, 20)
    with safetensors.safe_open(tmp_path / "t", "np") as file:
        assert file.metadata()["quire.open_columns"] == ("2" if tokens == 26 else "0")
        assert file.metadata()["quire.dtype"] == "int4"
        for layer in range(2):
            names = ("k", "v", "k_scale", "v_scale")
            k, v, k_scale, v_scale = (file.get_tensor(f"layers.{layer}.{name}") for name in names)
            assert k_scale.shape == (-(-sealed // 4), 2, 8, 2)
            assert k_scale.dtype == v_scale.dtype == np.float16
            k_sealed = numbers(k, np.repeat(k_scale, 4, axis=0)[:sealed])
            v_sealed = numbers(v, v_scale[:, :, None])
            gathered = table.gather(layer)
            np.testing.assert_array_equal(k_sealed, gathered[0][:sealed])
            np.testing.assert_array_equal(v_sealed, gathered[1][:sealed])
            # as upper halves of float32: NumPy has no bfloat16
            entry = file.get_slice(f"layers.{layer}.v_open")
            assert entry.get_dtype() == "BF16"
            assert entry.get_shape() == [tokens - sealed, 2, 6]


def test_a_cache_comes_back(tmp_path: Path) -> None:
    table = filled(23)
    cache = quire.PrefixCache(table.pool)
    ids = np.arange(23)
    cache.insert(ids, table)
    cache.insert(ids[:9], table, namespace="b")
    assert len(cache) == 7  # full blocks alone
    cache.save(tmp_path)
    pool = new_pool()
    other = quire.PrefixCache(pool)
    assert other.load(tmp_path) == 7
    assert pool.num_used == 5  # shared, as they were
    assert pool.stats().open_blocks == 0
    q = np.random.default_rng(1).standard_normal((1, 4, 8), dtype=np.float32)
    for length, space in [(23, ""), (14, ""), (9, "b")]:
        pair = [c.match(ids[:length], namespace=space) for c in (cache, other)]
        assert len(pair[0]) == len(pair[1]) == (8 if space else length - 1 - (length == 23) * 2)
        for _ in range(2):
            for layer in range(2):
                a, b = (t.gather(layer) for t in pair)
                assert all((x == y).all() for x, y in zip(a, b, strict=True))
                out = [quire.attend(q, [t], layer=layer) for t in pair]
                assert (out[0] == out[1]).all()
            for t in pair:
                append_random(t, 11, seed=2)
    assert other.load(tmp_path) == 0
    pool.check()


def test_wrong_grids_are_refused_before_anything_changes(tmp_path: Path) -> None:
    table = filled(23)
    cache = quire.PrefixCache(table.pool)
    cache.insert(np.arange(23), table)
    table.save(tmp_path / "t")
    cache.save(tmp_path)
    good = (tmp_path / "t").read_bytes(), (tmp_path / CACHE_FILE).read_bytes()
    block = int(table.blocks[2])
    table.pool.k_scale(1)[block, 1, 5, 0] = 0
    place = r"layers\.1\.k_scale with a step of 0 and a middle of .* at \[\d, 1, 5\], expected both"
    for name, save in [
        ("BlockTable.save: table", lambda: table.save(tmp_path / "t")),
        ("PrefixCache.save: cache", lambda: cache.save(tmp_path)),
    ]:
        with pytest.raises(ValueError, match=rf"^{name}: got {place}"):
            save()
    assert good == ((tmp_path / "t").read_bytes(), (tmp_path / CACHE_FILE).read_bytes())
    assert {path.name for path in tmp_path.iterdir()} == {"t", CACHE_FILE}
    table.pool.check()
    table.free()
    assert table.pool.stats().cached == table.pool.num_used == 5  # whoever saved holds none
