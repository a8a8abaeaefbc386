"""Saved tables with holes and kept tokens: they come back, and so do the bits of attention."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filled_pool import fill, new_pool, poison_free_blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampled_examples import examples

import quire


def slots(table: quire.BlockTable) -> Any:
    """The rows of the tokens whose blocks are there, k and v after one another, as they are read:
    of int4 those of sealed blocks, with their grids, and those of open ones."""
    pool = table.pool
    arrays = [pool.k_cache, pool.v_cache]
    if pool.dtype != "int4":
        return rows_of(table, table.blocks, arrays)
    ids = quire.pack_tables([table])[0][0]
    is_open = ids >= pool.num_blocks
    sealed = np.where(is_open, -1, ids)
    return [
        is_open.tolist(),
        rows_of(table, sealed, [*arrays, pool.v_scale]),
        pool.k_scale()[sealed[sealed >= 0]].tobytes(),
        rows_of(table, np.where(is_open, ids - pool.num_blocks, -1), [pool.k_open, pool.v_open]),
    ]


def rows_of(table: quire.BlockTable, blocks: Any, arrays: list[Any]) -> list[bytes]:
    there = [block for block in blocks if block >= 0]
    rows = len(there) * table.pool.block_size
    if blocks.size and blocks[-1] >= 0:
        rows -= -len(table) % table.pool.block_size
    return [(a := array()[there]).reshape(-1, *a.shape[2:])[:rows].tobytes() for array in arrays]


def assert_same(loaded: quire.BlockTable, table: quire.BlockTable) -> None:
    assert len(loaded) == len(table)
    assert ((loaded.blocks < 0) == (table.blocks < 0)).all()
    assert (loaded.positions == table.positions).all()
    assert loaded.next_position == table.next_position
    assert slots(loaded) == slots(table)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, float, int]]:
    step = st.tuples(
        st.sampled_from(["append", "drop", "keep", "cut"]), st.floats(0, 1), st.integers(0, 40)
    )
    return [("append", 0, draw(st.integers(0, 70))), *draw(st.lists(step, max_size=5))]


def live(pool: quire.BlockPool, history: list[tuple[str, float, int]]) -> quire.BlockTable:
    table = quire.BlockTable(pool)
    random = np.random.default_rng(0)
    for what, share, number in history:
        if what == "append":
            fill(table, number, random)
        elif what == "drop":
            table.drop_before(int(share * table.next_position), num_sink_tokens=number % 9)
        elif what == "cut":
            tokens = int(share * len(table))
            if tokens % pool.block_size and table.blocks[tokens // pool.block_size] < 0:
                tokens -= tokens % pool.block_size
            table.truncate(tokens)
        else:
            there = np.repeat(table.blocks >= 0, pool.block_size)[: len(table)]
            table.keep(table.positions[there & (random.random(len(table)) >= share)])
    return table


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(history=histories(), block_size=st.sampled_from([1, 3, 4, 16]))
@pytest.mark.parametrize("dtype", ["float32", "int4"])
def test_whatever_a_table_has_been_through(
    tmp_path: Path, dtype: str, history: list[tuple[str, float, int]], block_size: int
) -> None:
    table = live(new_pool(300, block_size=block_size, dtype=dtype), history)
    table.save(tmp_path / "t")
    room = int((table.blocks >= 0).sum())
    pool = new_pool(room + 8, block_size=block_size, dtype=dtype)
    loaded = quire.load_table(pool, tmp_path / "t")
    assert pool.num_used == room
    assert_same(loaded, table)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "t").read_bytes()
    for each in (loaded, table):
        fill(each, 7, np.random.default_rng(1))
    assert_same(loaded, table)
    pool.check()
    loaded.free()
    assert pool.num_used == 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int4"])
def test_attention_on_a_loaded_table_has_the_same_bits(tmp_path: Path, dtype: str) -> None:
    random = np.random.default_rng(0)
    q = random.standard_normal((2, 8, 16)).astype(np.float32)
    windows: list[dict[str, Any]] = [
        {"sliding_window": 13, "num_sink_tokens": 3},
        {"sliding_window": 1},
    ]

    def with_holes(pool: quire.BlockPool) -> quire.BlockTable:
        table = quire.BlockTable(pool)
        fill(table, 90, random)
        table.drop_before(70, num_sink_tokens=3)
        return table

    def kept(pool: quire.BlockPool) -> quire.BlockTable:
        table = quire.BlockTable(pool)
        fill(table, 90, random)
        table.keep(np.flatnonzero(random.random(90) < 0.5))
        fill(table, 5, random)
        return table

    def both(pool: quire.BlockPool) -> quire.BlockTable:
        table = kept(pool)
        table.drop_before(table.next_position - 15, num_sink_tokens=3)
        return table

    slopes = np.linspace(0.1, 0.9, 8, dtype=np.float32)
    cases: list[tuple[Any, list[dict[str, Any]]]] = [
        (with_holes, windows),
        (kept, [{}, {"alibi_slopes": slopes}, *windows]),
        (both, windows),
    ]
    for make, options in cases:
        table = make(new_pool(64, dtype=dtype))
        table.save(tmp_path / "t")
        loaded = quire.load_table(new_pool(64, dtype=dtype), tmp_path / "t")
        poison_free_blocks(loaded.pool)
        for option in options:
            expected = quire.attend(q[:1], [table], **option)
            assert np.isfinite(expected).all()
            assert (quire.attend(q[:1], [loaded], **option) == expected).all(), (make, option)
        # As the other one would, it goes on.
        for each in (table, loaded):
            fill(each, 9, np.random.default_rng(1))
        expected = quire.attend(q[1:], [table], **windows[1])
        assert (quire.attend(q[1:], [loaded], **windows[1]) == expected).all()


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def test_the_format_is_what_is_documented(tmp_path: Path) -> None:
    table = quire.BlockTable(new_pool())
    fill(table, 30, np.random.default_rng(0))
    table.keep(np.array([*range(20), 25, 28]))
    table.drop_before(20, num_sink_tokens=1)
    table.save(tmp_path / "t")
    header, data = header_of(tmp_path / "t")
    metadata = header["__metadata__"]
    assert metadata["quire.num_tokens"] == "22"
    assert metadata["quire.blocks"] == "0:1,5:6"
    assert metadata["quire.next_position"] == "30"
    assert header["positions"]["dtype"] == "I64"
    assert header["positions"]["shape"] == [22]
    begin, end = header["positions"]["data_offsets"]
    assert np.frombuffer(data[begin:end], np.int64).tolist() == [*range(20), 25, 28]
    assert header["layers.0.k"]["shape"] == [6, 2, 16]
    begin, end = header["layers.0.k"]["data_offsets"]
    assert data[begin:end] == slots(table)[0]
    # Only what does not follow from the rest is written.
    table.truncate(21)
    table.save(tmp_path / "t")
    header, _ = header_of(tmp_path / "t")
    assert metadata["quire.next_position"] == "30"
    assert header["__metadata__"]["quire.next_position"] == "28"
    fill(table, 1, np.random.default_rng(0))
    table.save(tmp_path / "t")
    header, _ = header_of(tmp_path / "t")
    assert "quire.next_position" not in header["__metadata__"]
    assert "positions" in header
    table.truncate(20)
    table.save(tmp_path / "t")
    header, _ = header_of(tmp_path / "t")
    assert header["__metadata__"]["quire.next_position"] == "25"
    assert "positions" not in header


def test_every_flipped_byte_is_refused(tmp_path: Path) -> None:
    table = live(new_pool(), [("append", 0, 30), ("keep", 0.4, 0), ("append", 0, 9)])
    table.drop_before(31, num_sink_tokens=2)
    assert (table.blocks < 0).any()
    table.save(tmp_path / "t")
    good = (tmp_path / "t").read_bytes()
    pool = new_pool()
    random = np.random.default_rng(0)
    header_end = len(good) - 14 * 2 * 2 * 16 * 4  # all of what is not rows, and some of these
    for at in (*range(header_end), *random.integers(header_end, len(good), 200)):
        bad = bytearray(good)
        bad[at] ^= 1 << random.integers(8)
        (tmp_path / "t").write_bytes(bad)
        with pytest.raises(ValueError, match="load_table: path: got "):
            quire.load_table(pool, tmp_path / "t")
    assert pool.stats().peak_used == 0


@pytest.mark.parametrize("name", ["table_empty", "table_one_token", "table_partial"])
def test_files_from_before_there_were_holes(tmp_path: Path, name: str) -> None:
    file = Path(__file__).parents[1] / "fuzz" / "corpus" / "load_file" / f"{name}.safetensors"
    pool = new_pool(6, num_kv_heads=1, head_dim=2, v_head_dim=1, num_layers=2, dtype="float16")
    table = quire.load_table(pool, file)
    table.save(tmp_path / "t")
    assert (tmp_path / "t").read_bytes() == file.read_bytes()
