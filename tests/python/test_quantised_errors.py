"""Wrong arguments of quantised caches: refused with their place, and nothing has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantised_cases import IMPLEMENTATIONS, QUANTISED

import quire


class Call:
    """A small correct call of each function, to be spoilt in one place."""

    def __init__(self, dtype: str = "int8") -> None:
        self.rows = np.ones((3, 2, 8), np.float32)
        self.caches = [np.zeros((2, 4, 2, 8), QUANTISED[dtype]) for _ in "kv"]
        self.scales: list[Any] = [np.ones((2, 4, 2), np.float32) for _ in "kv"]
        self.out: Any = np.full((1, 2, 8), 7, np.float32)

    def write(self) -> None:
        quire.write_kv(
            self.rows, self.rows, *self.caches, np.arange(3),
            k_scale=self.scales[0], v_scale=self.scales[1],
        )  # fmt: skip

    def attend(self, **options: Any) -> None:
        quire.paged_attention(
            self.rows[:1], *self.caches, np.array([[1, 0]]), np.array([7]), out=self.out,
            k_scale=self.scales[0], v_scale=self.scales[1], **options,
        )  # fmt: skip


WRONG_SCALES: list[tuple[Any, type[Exception], str]] = [
    (None, ValueError, "got None, expected the scales of a {0}_cache of int8"),
    (0.0, ValueError, "got 0 at head 0, expected a positive finite number"),
    (-1, ValueError, "got -1 at head 0"),
    (float("nan"), ValueError, "got nan at head 0"),
    (float("inf"), ValueError, "got inf at head 0"),
    (1e-60, ValueError, "got 0 at head 0"),
    (np.array([1, -2], np.float32), ValueError, "got -2 at head 1"),
    (np.ones(3, np.float32), ValueError, r"got shape \[3\], expected \[2\]"),
    (np.ones((2, 4, 3), np.float32), ValueError, r"got shape \[2, 4, 3\], expected \[2, 4, 2\]"),
    (np.ones((3, 2), np.float32), ValueError, r"got shape \[3, 2\], expected \[(2, 4|1), 2\]"),
    (np.ones((2, 4, 2), np.float16), TypeError, "got float16, expected float32"),
    (np.ones((2, 4, 2), np.float64), TypeError, "got dtype float64"),
    ("1", TypeError, "got str, expected a float"),
]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("scale", "error", "message"), WRONG_SCALES)
def test_wrong_scales_are_refused(
    side: int, scale: Any, error: type[Exception], message: str
) -> None:
    name = "kv"[side]
    for function in ("write_kv", "paged_attention"):
        call = Call()
        call.scales[side] = scale
        with pytest.raises(error, match=f"{function}: {name}_scale: " + message.format(name)):
            call.write() if function == "write_kv" else call.attend()
        assert not any(cache.any() for cache in call.caches)
        assert (call.out == 7).all()


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("strides", ["heads", "tokens"])
def test_a_wrong_dynamic_scale_is_named_and_nothing_written(
    instruction_set: str, side: int, wrong: float, strides: str
) -> None:
    for implementation in IMPLEMENTATIONS:
        for block, offset, head in ((1, 0, 0), (1, 3, 1), (0, 2, 0)):
            call = Call()
            if strides == "tokens":
                call.scales = [np.ones((2, 2, 4), np.float32).swapaxes(1, 2) for _ in call.scales]
            call.scales[side][block, offset, head] = wrong
            place = f"block {block}, offset {offset}, head {head}"
            with pytest.raises(
                ValueError, match=f"{'kv'[side]}_scale: got .* at {place}, expected"
            ):
                call.attend(implementation=implementation)
            assert (call.out == 7).all()
            call.out = None  # a new array, in which nobody sees what was written before
            with pytest.raises(
                ValueError, match=f"{'kv'[side]}_scale: got .* at {place}, expected"
            ):
                call.attend(implementation=implementation)
        call = Call()
        call.scales[side][0, 3, 0] = wrong  # past the sequence's end
        call.attend(implementation=implementation)
        assert (call.out == 0).all()
        call = Call()
        call.scales[side][1] = wrong  # out of the window
        call.attend(implementation=implementation, sliding_window=3)


@pytest.mark.parametrize("tokens", [1, 5, 70])
@pytest.mark.parametrize("strides", ["heads", "tokens"])
def test_a_wrong_scale_is_found_in_every_head(
    instruction_set: str, strides: str, tokens: int
) -> None:
    """Also where heads go one by one: five tokens of 64 are more rows than go together."""
    heads, size, length = 8, 64, 2000
    blocks = -(-length // 16)
    cache = np.ones((blocks, 16, heads, size), np.int8)
    q = np.ones((tokens, 8 * heads, size), np.float32)
    for head in range(heads):
        scales = np.ones((blocks, 16, heads), np.float32)
        if strides == "tokens":
            scales = np.ascontiguousarray(scales.swapaxes(1, 2)).swapaxes(1, 2)
        scales[100, 7, head] = np.nan
        out = np.full(q.shape, 7, np.float32)
        place = f"block 100, offset 7, head {head},"
        with pytest.raises(ValueError, match=f"v_scale: got nan at {place}"):
            quire.paged_attention(
                q, cache, cache, np.arange(blocks)[None], np.array([length]), out=out,
                cu_seqlens_q=np.array([0, tokens]), k_scale=np.ones_like(scales), v_scale=scales,
            )  # fmt: skip
        assert (out == 7).all()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_wrong_scale_of_the_last_key_leaves_all_results_as_they_were(
    instruction_set: str, num_threads: int
) -> None:
    """Whatever else was done by then: other sequences, and the many parts of this one."""
    lengths = np.array([3, 3000, 40, 2900])
    blocks = -(-lengths // 16)
    tables = np.full((4, blocks.max()), -1)
    for row, first, count in zip(tables, np.cumsum(blocks) - blocks, blocks, strict=True):
        row[:count] = first + np.arange(count)
    caches = [np.ones((blocks.sum(), 16, 2, 64), np.int8) for _ in "kv"]
    scales = [np.ones((blocks.sum(), 16, 2), np.float32) for _ in "kv"]
    last = int(tables[3, 2899 // 16]), 2899 % 16, 1
    scales[1][last] = np.nan
    out = np.full((4, 4, 64), 7, np.float32)
    q = np.ones((4, 4, 64), np.float32)
    message = f"v_scale: got nan at block {last[0]}, offset {last[1]}, head 1"
    for length, fails in ((2900, True), (2899, False)):
        lengths[3] = length
        options: dict[str, Any] = {"k_scale": scales[0], "v_scale": scales[1], "out": out}
        if fails:
            with pytest.raises(ValueError, match=message):
                quire.paged_attention(
                    q, *caches, tables, lengths, num_threads=num_threads, **options
                )
            assert (out == 7).all()
        else:
            quire.paged_attention(q, *caches, tables, lengths, num_threads=num_threads, **options)
            np.testing.assert_allclose(out, 1, rtol=1e-3)


@pytest.mark.parametrize("dtype", QUANTISED)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused(
    instruction_set: str, dtype: str, wrong: float
) -> None:
    for size in (1, 5, 40):
        for side, name in enumerate("kv"):
            k, v = np.ones((2, 3, 2, size), np.float32)
            (k, v)[side][1, 1, size - 1] = wrong
            caches = [np.zeros((2, 4, 2, size), QUANTISED[dtype]) for _ in "kv"]
            scales = [np.zeros((2, 4, 2), np.float32) for _ in "kv"]
            place = f"row 1, head 1, element {size - 1}, which goes to slot 5"
            with pytest.raises(ValueError, match=f"write_kv: {name}: got -?(nan|inf) at {place}"):
                quire.write_kv(
                    k, v, *caches, np.array([2, 5, 3]), k_scale=scales[0], v_scale=scales[1]
                )
            assert not any(array.any() for array in (*caches, *scales))
    pool = quire.BlockPool(4, num_kv_heads=1, head_dim=4, dtype=dtype)
    table = quire.BlockTable(pool)
    with pytest.raises(ValueError, match=r"BlockTable\.append: v: got"):
        table.append(np.ones((2, 1, 4), np.float32), np.full((2, 1, 4), wrong, np.float32))
    assert len(table) == 0
    assert pool.num_used == 0


@pytest.mark.parametrize("dtype", QUANTISED)
def test_a_refused_append_changes_nothing(dtype: str, tmp_path: Path) -> None:
    """Neither a shared last block is copied, nor does a cache part with blocks to make room."""
    for options in ({}, {"backing_file": tmp_path / dtype, "resident_bytes": 1 << 21}):
        pool = quire.BlockPool(
            8, block_size=4, num_kv_heads=1, head_dim=4, num_layers=2, dtype=dtype, **options
        )
        rows = np.ones((2, 20, 1, 4), np.float32)
        cache, table = quire.PrefixCache(pool), quire.BlockTable(pool)
        table.append(rows[:, :16], rows[:, :16])
        cache.insert(np.arange(16), table)
        table.free()  # its blocks are the cache's alone
        table = quire.BlockTable(pool)
        table.append(rows[:, :6], rows[:, :6])
        child = table.fork()
        before = [repr(pool.stats()), len(cache), child.blocks.tolist(), len(child)]
        rows[1, 17, 0, 2] = np.nan
        place = "layer 1, row 17, head 0, element 2"
        with pytest.raises(ValueError, match=rf"BlockTable\.append: k: got nan at {place}"):
            child.append(rows, rows)
        assert [repr(pool.stats()), len(cache), child.blocks.tolist(), len(child)] == before


def test_scales_do_not_go_with_plain_floats() -> None:
    rows, cache = np.ones((1, 1, 4), np.float32), np.zeros((1, 4, 1, 4), np.float32)
    for name in ("k_scale", "v_scale"):
        with pytest.raises(
            ValueError, match=f"write_kv: {name}: got a scale for a ._cache of float32"
        ):
            quire.write_kv(rows, rows, cache, cache.copy(), np.array([0]), **{name: 1.0})
        with pytest.raises(ValueError, match=f"attention: {name}: got a scale"):
            quire.paged_attention(
                rows, cache, cache, np.array([[0]]), np.array([1]), **{name: 1.0}
            )  # fmt: skip


def test_queries_and_outputs_and_rows_are_plain_floats() -> None:
    call = Call()
    numbers = np.ones((1, 2, 8), np.int8)
    with pytest.raises(TypeError, match="paged_attention: q: got dtype int8, expected float32"):
        quire.paged_attention(
            numbers, *call.caches, np.array([[0]]), np.array([1]), k_scale=1, v_scale=1
        )
    call.out = numbers
    with pytest.raises(TypeError, match="paged_attention: out: got dtype int8"):
        call.attend()
    call.rows = np.ones((3, 2, 8), np.int8)  # type: ignore[assignment]
    with pytest.raises(TypeError, match="write_kv: k: got dtype int8"):
        call.write()


def test_scales_are_apart_from_what_is_read_and_written() -> None:
    call = Call()
    call.scales[1] = call.scales[0]
    with pytest.raises(ValueError, match="write_kv: v_scale: got the memory of k_scale"):
        call.write()
    call.attend()  # may be shared where they are only read
    call = Call()
    call.scales[0].flags.writeable = False
    with pytest.raises(ValueError, match="write_kv: k_scale: got a read-only array"):
        call.write()
    call.scales[0] = np.float32(1)  # a NumPy number
    call.write()
    memory = np.ones(48, np.float32)
    call.rows, call.scales[0] = memory.reshape(3, 2, 8), memory[8:24].reshape(2, 4, 2)
    with pytest.raises(ValueError, match="write_kv: k: got memory that overlaps k_scale's"):
        call.write()
    call.out = memory[:16].reshape(1, 2, 8)
    with pytest.raises(ValueError, match="out: got memory that overlaps"):
        call.attend()
