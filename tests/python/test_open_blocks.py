"""int8 and float8 caches with open blocks beside them, as plain arrays: what write_kv stores, and
attention against float64 on what is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dense_oracle import attention
from int4_cases import FLOATS, IMPLEMENTATIONS, as_layout
from quantised_cases import LARGEST, QUANTISED

import quire

SEALED = QUANTISED
NUM_BLOCKS, NUM_OPEN, BLOCK_SIZE, HEADS, SIZE, V_SIZE = 12, 7, 8, 2, 37, 20

pytestmark = pytest.mark.parametrize("dtype", SEALED)


class Stored:
    """Caches and open blocks, of which whatever is not written is poison."""

    def __init__(
        self, dtype: str, open_dtypes: tuple[str, str] = ("bfloat16",) * 2, layout: str = "NHD"
    ) -> None:
        self.arrays: dict[str, Any] = {"layout": layout}
        for name, size, open_dtype in zip("kv", (SIZE, V_SIZE), open_dtypes, strict=True):
            shape = (NUM_BLOCKS, BLOCK_SIZE, HEADS, size)
            cache = np.full(shape, 77 if dtype == "int8" else np.nan, SEALED[dtype])
            blocks = np.full((NUM_OPEN, *shape[1:]), np.nan, FLOATS[open_dtype])
            self.arrays[f"{name}_cache"] = as_layout(cache, layout)
            self.arrays[f"{name}_scale"] = np.full(shape[:3], np.nan, np.float32)
            self.arrays[f"{name}_open"] = as_layout(blocks, layout)

    def options(self) -> dict[str, Any]:
        return {name: a for name, a in self.arrays.items() if not name.endswith("cache")}

    def write(self, k: Any, v: Any, slots: Any) -> None:
        caches = self.arrays["k_cache"], self.arrays["v_cache"]
        quire.write_kv(k, v, *caches, slots, **self.options())

    def row(self, side: str, slot: int) -> Any:
        """Float64 [Hkv, D] that a slot stands for."""
        block, offset = divmod(slot, BLOCK_SIZE)
        is_open = block >= NUM_BLOCKS
        array = as_layout(
            self.arrays[side + ("_open" if is_open else "_cache")], self.arrays["layout"]
        )
        row = array[block - NUM_BLOCKS * is_open, offset].astype(np.float64)
        return row if is_open else row * self.arrays[f"{side}_scale"][block, offset][:, None]


def slots_of(table: Any, length: int) -> Any:
    positions = np.arange(length)
    return np.asarray(table)[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("q_dtype", ["float32", "bfloat16"])
def test_what_was_written_is_attended(dtype: str, layout: str, q_dtype: str) -> None:
    """Open blocks last, first, between, alone, and nowhere."""
    random = np.random.default_rng(1)
    open_dtypes = ("bfloat16", "float32") if q_dtype == "float32" else ("float16", "bfloat16")
    stored = Stored(dtype, open_dtypes, layout)
    tables = np.array(
        [[3, 8, 1, 12, 13], [14, 0, 15, 2, -1], [16, -1, -1, -1, -1], [4, 5, 6, 7, 9]]
    )
    lengths = [37, 30, 5, 40]
    rows = []
    for table, length in zip(tables, lengths, strict=True):
        k = random.standard_normal((length, HEADS, SIZE)).astype(np.float32)
        v = random.standard_normal((length, HEADS, V_SIZE)).astype(np.float32)
        slots = slots_of(table, length)
        stored.write(k, v, slots)
        rows.append([np.stack([stored.row(side, slot) for slot in slots]) for side in "kv"])
        for given, real, open_dtype in zip((k, v), rows[-1], open_dtypes, strict=True):
            for slot, given_row, real_row in zip(slots, given, real, strict=True):
                if slot < NUM_BLOCKS * BLOCK_SIZE:
                    steps = np.abs(given_row).max(axis=1, keepdims=True) / LARGEST[dtype]
                    half = 1 / 8 if dtype == "float8_e5m2" else 1 / 16  # between two float8s
                    most = 0.5 * steps if dtype == "int8" else np.abs(given_row) * half + steps
                    assert (np.abs(real_row - given_row) <= 1.001 * most).all()
                else:
                    exact = given_row.astype(FLOATS[open_dtype]).astype(np.float64)
                    np.testing.assert_array_equal(real_row, exact)
    for group in (1, 3, 8):
        q = random.standard_normal((4, HEADS * group, SIZE)).astype(FLOATS[q_dtype])
        for implementation in IMPLEMENTATIONS:
            options: Any = {"implementation": implementation, **stored.options()}
            caches = stored.arrays["k_cache"], stored.arrays["v_cache"]
            out, lse = quire.paged_attention(
                q, *caches, tables, np.array(lengths), return_lse=True, **options
            )
            for i, (k, v) in enumerate(rows):
                places = np.arange(lengths[i])
                expected, expected_lse, _ = attention(q[i : i + 1], k, v, places[-1:], places)
                tolerance = 2e-4 if q_dtype == "float32" else 2e-2
                got = out[i : i + 1].astype(np.float64)
                np.testing.assert_allclose(got, expected, atol=tolerance)
                np.testing.assert_allclose(lse[i : i + 1], expected_lse, atol=2e-4)
                alone = quire.paged_attention(
                    q[i : i + 1],
                    *caches,
                    tables[i : i + 1],
                    np.array(lengths[i : i + 1]),
                    **options,
                )
                assert alone.tobytes() == out[i : i + 1].tobytes()


def test_static_scales(dtype: str) -> None:
    """Read for sealed blocks, and of no meaning to open ones."""
    random = np.random.default_rng(2)
    stored = Stored(dtype)
    stored.arrays["k_scale"] = np.array([0.03, 0.05], np.float32)
    stored.arrays["v_scale"] = 0.04
    table, length = np.array([[5, 13]]), 14
    k, v = (random.standard_normal((length, HEADS, n)).astype(np.float32) for n in (SIZE, V_SIZE))
    slots = slots_of(table[0], length)
    stored.write(k, v, slots)
    q = random.standard_normal((1, 2 * HEADS, SIZE)).astype(np.float32)
    given = stored.options()
    real = []
    for side, scale in (("k", np.array([0.03, 0.05])), ("v", np.array([0.04, 0.04]))):
        sealed = stored.arrays[f"{side}_cache"][5].astype(np.float64) * scale[:, None]
        opened = stored.arrays[f"{side}_open"][1, : length - BLOCK_SIZE].astype(np.float64)
        real.append(np.concatenate([sealed, opened]))
    places = np.arange(length)
    expected, _, _ = attention(q, *real, places[-1:], places)
    for implementation in IMPLEMENTATIONS:
        out = quire.paged_attention(
            q, stored.arrays["k_cache"], stored.arrays["v_cache"], table, np.array([length]),
            implementation=implementation, **given,
        )  # fmt: skip
        np.testing.assert_allclose(out, expected, atol=2e-4)


@pytest.mark.parametrize("side", ["k", "v"])
def test_wrong_rows_and_wrong_scales(dtype: str, side: str) -> None:
    stored = Stored(dtype)
    k, v = np.ones((4, HEADS, SIZE), np.float32), np.ones((4, HEADS, V_SIZE), np.float32)
    slots = np.array([0, 1, 96, 97])
    before = {name: np.copy(array) for name, array in stored.arrays.items()}
    for row, wrong in ((1, np.nan), (3, np.inf), (3, 3.4e38)):
        bad = (k if side == "k" else v).copy()
        bad[row, 1, 2] = wrong
        kind = "when rounded to bfloat16" if row == 3 else f"for a cache of {dtype}"
        message = (
            rf"^write_kv: {side}: got .* at row {row}, head 1, element 2, which goes to slot "
            f"{slots[row]}, expected finite numbers {kind}$"
        )
        with pytest.raises(ValueError, match=message):
            stored.write(bad if side == "k" else k, bad if side == "v" else v, slots)
    for name, array in stored.arrays.items():
        assert np.asarray(array).tobytes() == before[name].tobytes()
    stored.write(k, v, slots)
    q = np.ones((1, HEADS, SIZE), np.float32)

    def attend(table: list[int], length: int, **options: Any) -> Any:
        return quire.paged_attention(
            q, stored.arrays["k_cache"], stored.arrays["v_cache"], np.array([table]),
            np.array([length]), **(stored.options() | options),
        )  # fmt: skip

    for implementation in IMPLEMENTATIONS:
        attend([12], 2, implementation=implementation)
        with pytest.raises(ValueError, match=r"k_scale: got nan at block 4, offset 0, head 0"):
            attend([12, 4], 9, implementation=implementation)
    other = f"{'v' if side == 'k' else 'k'}_open"
    with pytest.raises(ValueError, match=rf"{other}: got None, expected open blocks as {side}_o"):
        attend([0], 2, **{other: None})
    with pytest.raises(ValueError, match=rf"{side}_open: got shape \[6, 8, 2, "):
        attend([0], 2, **{f"{side}_open": stored.arrays[f"{side}_open"][..., :6, :][:6, ..., :5]})
    with pytest.raises(IndexError, match=r"block_tables: got 19 .* expected 0 to 18, of which"):
        attend([19], 2)
