"""k_scale and v_scale of each sequence, [B, Hkv], and of one number, [1]: on every instruction set,
against float64, and bit for bit what each sequence has alone with scales [Hkv]."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantised_cases import FLOATS, IMPLEMENTATIONS, QUANTISED, attention, poison

import quire

HEADS, BLOCK = 2, 8
LENGTHS = (37, 1, 8, 100)


class Batch:
    """Sequences of random numbers in scattered blocks, poison in every other slot."""

    def __init__(self, dtype: str, layout: str = "NHD", sizes: tuple[int, int] = (64, 40)) -> None:
        random = np.random.default_rng(5)
        counts = [-(-length // BLOCK) for length in LENGTHS]
        order = random.permutation(sum(counts) + 2)
        self.tables = np.full((len(LENGTHS), max(counts)), -7)
        self.lengths = np.array(LENGTHS)
        self.layout, self.random = layout, random
        caches = [poison((len(order), BLOCK, HEADS, size), dtype) for size in sizes]
        self.rows: list[list[Any]] = [[], []]
        for i, (length, count) in enumerate(zip(LENGTHS, counts, strict=True)):
            blocks, order = order[:count], order[count:]
            self.tables[i, :count] = blocks
            for cache, rows in zip(caches, self.rows, strict=True):
                shape = (length, HEADS, cache.shape[-1])
                numbers = random.uniform(-100, 100, shape).astype(QUANTISED[dtype])
                position = np.arange(length)
                cache[blocks[position // BLOCK], position % BLOCK] = numbers
                rows.append(numbers.astype(np.float32))
        if layout == "HND":
            caches = [np.ascontiguousarray(cache.swapaxes(1, 2)) for cache in caches]
        self.caches = caches
        self.k_scale, self.v_scale = (
            random.uniform(0.001, 0.05, (len(LENGTHS), HEADS)).astype(np.float32) for _ in "kv"
        )

    def attend(
        self, q: Any, k_scale: Any, v_scale: Any, only: int | None = None, **opts: Any
    ) -> Any:
        some = slice(None) if only is None else slice(only, only + 1)
        return quire.paged_attention(
            q, *self.caches, self.tables[some], self.lengths[some], k_scale=k_scale,
            v_scale=v_scale, layout=self.layout, return_lse=True, **opts,
        )  # fmt: skip


@pytest.mark.parametrize("rows", [(1, 1, 1, 1), (20, 1, 3, 70), (0, 1, 8, 2)])
@pytest.mark.parametrize("group", [1, 4, 12])
@pytest.mark.parametrize("dtype", QUANTISED)
def test_each_sequence_has_its_scales(
    instruction_set: str, dtype: str, group: int, rows: tuple[int, ...]
) -> None:
    batch = Batch(dtype, "HND" if group == 4 else "NHD")
    starts = np.concatenate([[0], np.cumsum(rows)])
    for implementation in IMPLEMENTATIONS:
        for float_type in FLOATS.values():
            q = batch.random.standard_normal((starts[-1], HEADS * group, 64)).astype(float_type)
            options: Any = {"implementation": implementation}
            out, lse = batch.attend(q, batch.k_scale, batch.v_scale, cu_seqlens_q=starts, **options)
            for i, (begin, end) in enumerate(itertools.pairwise(starts)):
                k, v = (
                    rows_of[i] * scale[i][:, None]
                    for rows_of, scale in zip(
                        batch.rows, (batch.k_scale, batch.v_scale), strict=True
                    )
                )
                alone, alone_lse = batch.attend(
                    q[begin:end], batch.k_scale[i], batch.v_scale[i], i,
                    cu_seqlens_q=np.array([0, end - begin]), **options,
                )  # fmt: skip
                assert out[begin:end].tobytes() == alone.tobytes()
                assert lse[begin:end].tobytes() == alone_lse.tobytes()
                if end == begin:
                    continue
                expected, expected_lse = attention(q[begin:end], k, v)
                error = np.abs(out[begin:end].astype(np.float64) - expected).max()
                assert error < 0.02 * np.abs(v).max(), (implementation, i)
                np.testing.assert_allclose(lse[begin:end], expected_lse, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_scales_have_any_strides_and_mix_with_others(
    instruction_set: str, implementation: Any
) -> None:
    batch = Batch("float8_e4m3fn")
    q = batch.random.standard_normal((len(LENGTHS), 4, 64)).astype(np.float32)
    expected = batch.attend(q, batch.k_scale, batch.v_scale, implementation=implementation)
    turned = np.ascontiguousarray(batch.k_scale.T).T
    apart = np.full((2 * len(LENGTHS), 3), np.nan, np.float32)
    apart[::2, :2] = batch.v_scale
    got = batch.attend(q, turned, apart[::2, :2], implementation=implementation)
    assert [x.tobytes() for x in got] == [x.tobytes() for x in expected]
    one = np.float32(0.02)
    everybody: Any = {"implementation": implementation}
    expected = batch.attend(q, 0.02, batch.v_scale, **everybody)
    dynamic = np.full((*batch.caches[0].shape[:2], HEADS), one)
    for k_scale in (
        np.broadcast_to(one, (len(LENGTHS), HEADS)),
        np.array([one]),
        np.full(HEADS, one),
        dynamic,
    ):
        got = batch.attend(q, k_scale, batch.v_scale, **everybody)
        assert [x.tobytes() for x in got] == [x.tobytes() for x in expected], k_scale.shape


def shared_tables(random: Any, dtype: str) -> tuple[Any, Any, Any]:
    """Eight sequences over the same 1200 tokens, and then up to 40 of their own."""
    sizes = (96, 64)
    caches = [
        random.uniform(-100, 100, (100, 16, HEADS, size)).astype(QUANTISED[dtype]) for size in sizes
    ]
    tables = np.concatenate([np.tile(np.arange(75), (8, 1)), 75 + np.arange(24).reshape(8, 3)], 1)
    return caches, tables, 1201 + 5 * np.arange(8)


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("dtype", QUANTISED)
def test_those_who_share_blocks_keep_their_scales_apart(
    instruction_set: str, dtype: str, group: int
) -> None:
    random = np.random.default_rng(8)
    caches, tables, lengths = shared_tables(random, dtype)
    scales = [random.uniform(0.001, 0.05, (8, HEADS)).astype(np.float32) for _ in "kv"]
    for scale in scales:
        scale[4:7] = scale[1]  # some share them, and the reading too
    scales[0][6] = scales[0][0]  # but not of values
    q = random.standard_normal((8, HEADS * group, 96)).astype(np.float32)
    for k_scale, v_scale in (scales, (scales[0], 0.02), (scales[0][1], scales[1])):
        options: Any = {"return_lse": True, "return_block_mass": True}
        results = quire.paged_attention(
            q, *caches, tables, lengths, k_scale=k_scale, v_scale=v_scale, **options
        )
        for i in range(8):
            own = [
                x[i] if isinstance(x, np.ndarray) and x.ndim == 2 else x for x in (k_scale, v_scale)
            ]
            alone = quire.paged_attention(
                q[i : i + 1], *caches, tables[i : i + 1], lengths[i : i + 1], k_scale=own[0],
                v_scale=own[1], **options,
            )  # fmt: skip
            for result, array in zip(results, alone, strict=True):
                np.testing.assert_array_equal(result[i : i + 1], array)


@pytest.mark.parametrize("in_file", [False, True])
def test_tables_and_steps(in_file: bool, tmp_path: Path) -> None:
    """Forks share their blocks, and layers of a step what is planned, unless scales differ."""
    random = np.random.default_rng(9)
    places: Any = {"backing_file": tmp_path / "blocks", "resident_bytes": 600_000}
    pool = quire.BlockPool(
        420, num_kv_heads=HEADS, head_dim=64, num_layers=2, dtype="float8_e4m3fn", open_blocks=0,
        **(places if in_file else {}),
    )  # fmt: skip
    parent = quire.BlockTable(pool)
    parent.append(*random.standard_normal((2, 2, 3000, HEADS, 64)).astype(np.float32))
    tables = [parent.fork() for _ in range(4)]
    step = quire.Step(tables, 1)
    k, v, q = (random.standard_normal((4, n, 64)).astype(np.float32) for n in (HEADS, HEADS, 4))
    alike = np.full((4, HEADS), 0.01, np.float32)
    apart = alike * np.array([[1], [1], [2], [4]], np.float32)
    for layer, scales in ((0, alike), (1, apart), (1, alike), (0, apart)):
        options: Any = {"layer": layer, "return_lse": True}
        results = step.attend(q, k, v, k_scale=scales, v_scale=scales, **options)
        again = quire.attend(q, tables, k_scale=scales, v_scale=scales, **options)
        for i, table in enumerate(tables):
            alone = quire.attend(
                q[i : i + 1], [table], k_scale=scales[i], v_scale=scales[i : i + 1], **options
            )
            for given in (results, again):
                for result, array in zip(given, alone, strict=True):
                    np.testing.assert_array_equal(result[i : i + 1], array)


@pytest.mark.parametrize("dtype", QUANTISED)
def test_one_number_is_a_scalar(instruction_set: str, dtype: str) -> None:
    random = np.random.default_rng(2)
    k, v = random.standard_normal((2, 5, 2, 16)).astype(np.float32)
    q = random.standard_normal((1, 4, 16)).astype(np.float32)
    results = []
    for make in (np.float32, lambda x: np.array([x], np.float32)):
        caches = [np.zeros((1, 8, 2, 16), QUANTISED[dtype]) for _ in "kv"]
        scales: Any = {"k_scale": make(0.03), "v_scale": make(0.04)}
        quire.write_kv(k, v, *caches, np.arange(5), **scales)
        for implementation in IMPLEMENTATIONS:
            options: Any = {"implementation": implementation, **scales}
            out = quire.paged_attention(q, *caches, np.array([[0]]), np.array([5]), **options)
            results.append([out.tobytes(), *(cache.tobytes() for cache in caches)])
    assert results[:3] == results[3:]


WRONG: list[tuple[Any, type[Exception], str]] = [
    (np.ones((4, 3), np.float32), ValueError, r"got shape \[4, 3\], expected \[4, 2\]"),
    (np.ones((3, 2), np.float32), ValueError, r"got shape \[3, 2\], expected \[4, 2\]"),
    (np.ones((4, 1), np.float32), ValueError, r"got shape \[4, 1\], expected \[4, 2\]"),
    (np.ones((4, 2), np.float16), TypeError, "got float16, expected float32"),
    (np.ones((4, 2)), TypeError, "got dtype float64, expected float32"),
    (np.array([0.0], np.float32), ValueError, "got 0 at head 0, expected a positive finite number"),
]
for value, shown in ((0.0, "0"), (-1.0, "-1"), (np.nan, "nan"), (np.inf, "inf")):
    bad = np.ones((4, 2), np.float32)
    bad[2, 1] = value
    WRONG.append(
        (bad, ValueError, f"got {shown} at sequence 2, head 1, expected a positive finite")
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize(("scale", "error", "message"), WRONG)
def test_wrong_scales_are_refused(
    scale: Any, error: type[Exception], message: str, side: str, implementation: Any
) -> None:
    batch = Batch("int8")
    q, out = np.ones((4, 2, 64), np.float32), np.full((4, 2, 40), 7, np.float32)
    scales = {"k_scale": batch.k_scale, "v_scale": batch.v_scale, f"{side}_scale": scale}
    with pytest.raises(error, match=f"^paged_attention: {side}_scale: {message}"):
        batch.attend(q, **scales, out=out, implementation=implementation)
    assert (out == 7).all()


def test_who_has_no_sequences_or_no_scales_refuses_them() -> None:
    each = np.ones((2, 2), np.float32)
    x = np.ones((2, 2, 8), np.float32)
    caches = [np.zeros((3, 4, 2, 8), np.int8) for _ in "kv"]
    with pytest.raises(
        ValueError, match=r"^write_kv: v_scale: got shape \[2, 2\], expected \[3, 4"
    ):
        quire.write_kv(x, x, *caches, np.arange(2), k_scale=1.0, v_scale=each)
    assert not any(cache.any() for cache in caches)
    arguments: Any = (np.array([[0], [1]]), np.array([2, 2]))
    plain = [np.ones((3, 4, 2, 8), np.float32) for _ in "kv"]
    with pytest.raises(
        ValueError, match=r"^paged_attention: k_scale: got a scale for a k_cache of f"
    ):
        quire.paged_attention(x, *plain, *arguments, k_scale=each)
    int4 = [np.ones((3, 4, 2, 4), np.uint8) for _ in "kv"]
    with pytest.raises(
        TypeError, match=r"^paged_attention: k_scale: got float32, expected float16"
    ):
        quire.paged_attention(x, *int4, *arguments, k_scale=each, v_scale=each)
