"""Pools that are told how many blocks of a table stay open: what that may be, and what they refuse.

test_open_blocks_tables.py has what their tables hold.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from open_blocks_model import OpenBlocksModel

import quire

ROW_SCALED = ("int8", "float8_e4m3fn", "float8_e5m2")


def new_pool(dtype: str, open_blocks: int | None = None, **sizes: Any) -> quire.BlockPool:
    given: dict[str, Any] = {"block_size": 4, "num_kv_heads": 2, "head_dim": 7, "v_head_dim": 5}
    return quire.BlockPool(20, **(given | sizes), dtype=dtype, open_blocks=open_blocks)


def test_how_many_stay_open() -> None:
    assert new_pool("int4", head_dim=8, v_head_dim=6).open_blocks == 2
    assert new_pool("int4", 1, head_dim=8, v_head_dim=6).open_blocks == 1
    for dtype in (*ROW_SCALED, "float32", "float16", "bfloat16"):
        assert new_pool(dtype).open_blocks == new_pool(dtype, 0).open_blocks == 0
    for dtype in ROW_SCALED:
        assert new_pool(dtype, 2**62).open_blocks == 2**62
        pool = new_pool(dtype, 3)
        assert pool.open_blocks == 3
        assert f"dtype='{dtype}', open_blocks=3)" in repr(pool)
        table = quire.BlockTable(pool)
        for tokens in range(1, 24):
            table.append(np.ones((1, 2, 7), np.float32), np.ones((1, 2, 5), np.float32))
            columns = -(-tokens // 4)
            assert pool.explain(table).num_open == pool.stats().open_blocks == min(3, columns)
        assert "3 open" in table._repr_html_().replace("</span> open 3", "3 open")


@pytest.mark.parametrize(
    ("dtype", "wrong", "expected"),
    [
        ("int4", 0, ">= 1: a block of int4 is written open"),
        ("int4", -1, ">= 1: a block of int4 is written open"),
        ("int8", -1, ">= 0"),
        ("float8_e4m3fn", -(2**40), ">= 0"),
        ("bfloat16", 1, "0 or None: it is in full precision"),
        ("float32", -2, "0 or None: it is in full precision"),
    ],
)
def test_wrong_numbers(dtype: str, wrong: int, expected: str) -> None:
    message = f"^BlockPool: open_blocks: got {wrong} with dtype {dtype}, expected {expected}$"
    with pytest.raises(ValueError, match=message):
        new_pool(dtype, wrong, head_dim=8, v_head_dim=6)


def test_what_is_no_number() -> None:
    with pytest.raises(TypeError, match=r"^BlockPool: open_blocks: got float"):
        new_pool("int8", 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ROW_SCALED)
def test_none_open_is_as_before(dtype: str) -> None:
    """Not a bit else, and no open arrays."""
    random = np.random.default_rng(1)
    k = random.standard_normal((30, 2, 7), dtype=np.float32)
    v = random.standard_normal((30, 2, 5), dtype=np.float32)
    bits = []
    for open_blocks in (None, 0):
        pool = new_pool(dtype, open_blocks)
        table = quire.BlockTable(pool)
        table.append(k, v)
        assert pool.stats().open_blocks == 0
        arrays = pool.k_cache(), pool.v_cache(), pool.k_scale(), pool.v_scale()
        bits.append([array.tobytes() for array in arrays])
        for name in ("k_open", "v_open"):
            message = rf"^BlockPool\.{name}: pool: got a pool of {dtype} without open blocks"
            with pytest.raises(TypeError, match=message):
                getattr(pool, name)()
    assert bits[0] == bits[1]


@pytest.mark.parametrize("dtype", ROW_SCALED)
def test_sealed_rows_are_those_of_write_kv(dtype: str) -> None:
    random = np.random.default_rng(2)
    pool = new_pool(dtype, 2)
    assert pool.k_open().shape == (20, 4, 2, 7)
    assert pool.v_open().shape == (20, 4, 2, 5)
    assert pool.k_open().dtype == pool.v_open().dtype == "bfloat16"
    table = quire.BlockTable(pool)
    k = (random.standard_normal((30, 2, 7)) * 10.0 ** random.integers(-9, 9)).astype(np.float32)
    v = random.standard_normal((30, 2, 5), dtype=np.float32)
    table.append(k, v)
    (ids,), _ = quire.pack_tables([table])
    assert [bool(block >= 20) for block in ids] == [False] * 6 + [True] * 2
    plain = new_pool(dtype)
    slots = (ids[:6, None].astype(np.int64) * 4 + np.arange(4)).ravel()
    rows = [x[:24].astype(ml_dtypes.bfloat16) for x in (k, v)]
    scales = {"k_scale": plain.k_scale(), "v_scale": plain.v_scale()}
    quire.write_kv(*rows, plain.k_cache(), plain.v_cache(), slots, **scales)
    for name in ("k_cache", "v_cache", "k_scale", "v_scale"):
        got, expected = (getattr(p, name)()[ids[:6]] for p in (pool, plain))
        assert got.tobytes() == expected.tobytes(), name
    for name, x in (("k_open", k), ("v_open", v)):
        opened = getattr(pool, name)()[ids[6:] - 20].reshape(8, 2, -1)[:6]
        assert opened.tobytes() == x[24:].astype(ml_dtypes.bfloat16).tobytes()


@pytest.mark.parametrize("dtype", ROW_SCALED)
def test_long_rows_are_opened_again(dtype: str) -> None:
    """A sealed block that is written behind, after truncate and after a match in part."""
    random = np.random.default_rng(4)
    pool = new_pool(dtype, 1, head_dim=133, v_head_dim=201)
    table, model, cache = quire.BlockTable(pool), OpenBlocksModel(pool), quire.PrefixCache(pool)

    def append(to: quire.BlockTable, expected: OpenBlocksModel, tokens: int) -> None:
        k = random.standard_normal((1, tokens, 2, 133), dtype=np.float32)
        v = random.standard_normal((1, tokens, 2, 201), dtype=np.float32)
        to.append(k[0], v[0])
        expected.append(k, v)
        for got, rows in zip(to.gather(), (expected.k[0], expected.v[0]), strict=True):
            np.testing.assert_array_equal(got, rows)

    append(table, model, 18)
    cache.insert(range(18), table)
    found, matched = cache.match([*range(7), 99]), model.fork()
    matched.truncate(7)
    append(found, matched, 6)
    table.truncate(6)
    model.truncate(6)
    append(table, model, 3)
    pool.check()


@pytest.mark.parametrize("dtype", ROW_SCALED)
def test_refused_appends_change_nothing(dtype: str) -> None:
    pool = new_pool(dtype, 2, num_layers=2)
    table = quire.BlockTable(pool)
    k, v = np.ones((2, 9, 2, 7), np.float32), np.ones((2, 9, 2, 5), np.float32)
    table.append(k, v)
    stats, before = str(pool.stats()), [x.tobytes() for x in table.gather(1)]
    for wrong in (np.nan, -np.inf, 3.4e38):  # the last is infinite as bfloat16
        bad = v.copy()
        bad[1, 7, 0, 4] = wrong
        message = (
            r"^BlockTable\.append: v: got .* at layer 1, row 7, head 0, element 4, expected finite "
            "numbers when rounded to bfloat16$"
        )
        with pytest.raises(ValueError, match=message):
            table.append(k, bad)
    with pytest.raises(quire.OutOfBlocks):
        table.append(*(np.repeat(x, 9, axis=1) for x in (k, v)))
    assert str(pool.stats()) == stats
    assert [x.tobytes() for x in table.gather(1)] == before
    pool.check()


def test_what_open_blocks_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"^BlockPool: num_blocks: got 1073741824, expected 1 to"):
        quire.BlockPool(2**30, num_kv_heads=1, head_dim=1, dtype="int8", open_blocks=1)


@pytest.mark.parametrize("dtype", ROW_SCALED)
def test_files_give_back_the_same_bits(dtype: str, tmp_path: Any) -> None:
    """Of open columns too; a pool without them refuses such a file, and the other way round."""
    random = np.random.default_rng(5)
    pool, plain = (
        new_pool(dtype, 2, head_dim=8, v_head_dim=8, num_layers=2),
        new_pool(dtype, head_dim=8, v_head_dim=8, num_layers=2),
    )
    k, v = (random.standard_normal((2, 27, 2, 8), dtype=np.float32) for _ in "kv")
    q = random.standard_normal((1, 4, 8), dtype=np.float32)
    tables = []
    for each in (pool, plain):
        table = quire.BlockTable(each)
        table.append(k, v)
        table.save(tmp_path / str(each.open_blocks))
        tables.append(table)
    loaded = quire.load_table(
        new_pool(dtype, 2, head_dim=8, v_head_dim=8, num_layers=2), tmp_path / "2"
    )
    for growing in (False, True):
        if growing:
            for table in (tables[0], loaded):
                table.append(k[:, :9], v[:, :9])
        for layer in range(2):
            outs = [quire.attend(q, [t], layer=layer).tobytes() for t in (tables[0], loaded)]
            assert outs[0] == outs[1]
            before, after = (t.gather(layer) for t in (tables[0], loaded))
            assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))
    stats = str(plain.stats())
    with pytest.raises(
        ValueError, match=r"^load_table: path: got .*: quire\.open_columns \"2\", expected none"
    ):
        quire.load_table(plain, tmp_path / "2")
    assert str(plain.stats()) == stats
    assert quire.load_table(pool, tmp_path / "0").num_tokens > 0  # test_load_sealed.py


@pytest.mark.parametrize("dtype", ROW_SCALED)
def test_files_take_what_append_takes(dtype: str, tmp_path: Any) -> None:
    """Any number that is finite when rounded, past what int4 has as well, and no other."""
    pool = new_pool(dtype, 2)
    table = quire.BlockTable(pool)
    k, v = np.full((6, 2, 7), 3e38, np.float32), np.ones((6, 2, 5), np.float32)
    table.append(k, v)
    table.save(tmp_path / "t")
    loaded = quire.load_table(new_pool(dtype, 2), tmp_path / "t")
    assert all((a == b).all() for a, b in zip(table.gather(), loaded.gather(), strict=True))
    before = (tmp_path / "t").read_bytes()
    pool.k_open()[quire.pack_tables([table])[0][0, -1] - pool.num_blocks, 1, 0, 3] = np.inf
    refused = r"^BlockTable\.save: table: got layers\.0\.k_open with a number of inf at \[5, 0, 3\]"
    with pytest.raises(ValueError, match=refused):
        table.save(tmp_path / "t")
    assert (tmp_path / "t").read_bytes() == before


@pytest.mark.parametrize("dtype", ROW_SCALED)
def test_sealing_costs_less_where_it_matters_least(dtype: str) -> None:
    """With its last blocks open attention is nearer to what it would be in full precision."""
    random = np.random.default_rng(3)
    k, v = (random.standard_normal((60, 2, 16), dtype=np.float32) for _ in "kv")
    k[:, :, 0] += np.arange(60)[:, None] / 10  # so that the last weigh most
    k, v = (x.astype(ml_dtypes.bfloat16).astype(np.float32) for x in (k, v))  # lossless when open
    q = np.zeros((1, 4, 16), np.float32)
    q[..., 0] = 8
    outs = []
    for kind in ("float32", dtype):
        for open_blocks in (0, 4) if kind == dtype else (0,):
            pool = new_pool(kind, open_blocks, head_dim=16, v_head_dim=16)
            table = quire.BlockTable(pool)
            table.append(k, v)
            outs.append(quire.attend(q, [table]))
    closed, opened = (np.abs(out - outs[0]).max() for out in outs[1:])
    assert opened < closed / 2
