"""What write_kv stores in int4 caches: codes, grids and open rows to the bit, as documented."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from int4_cases import (
    FLOATS,
    LARGEST,
    Shape,
    empty_caches,
    seal_keys,
    seal_values,
    to_codes,
    to_reals,
    write,
)
from sampled_examples import examples

import quire


@settings(
    max_examples=examples(30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_write_kv_stores_the_documented_codes_and_grids(
    instruction_set: str, data: st.DataObject
) -> None:
    def pick(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = Shape(
        num_blocks=pick(6, 1), num_open=pick(3, 1, 0), block_size=pick(4, 1, 3, 16),
        kv_heads=pick(1, 2), head_dim=pick(8, 2, 64, 130), v_head_dim=pick(6, 2, 66),
    )  # fmt: skip
    caches = empty_caches(shape, pick(*FLOATS), pick(*FLOATS))
    layout = pick("NHD", "HND")
    given_arrays = {name: array.copy() for name, array in caches.given(layout).items()
                    if name != "layout"}  # fmt: skip
    sealed = random.permutation(shape.num_blocks)[: pick(0, 1, 3)]
    slots = np.concatenate(
        [np.arange(block, block + 1) * shape.block_size + offset
         for block in sealed for offset in range(shape.block_size)] or [np.zeros(0, int)]
    )  # fmt: skip
    first_open = shape.num_blocks * shape.block_size
    extra = first_open + random.integers(0, max(1, shape.num_open * shape.block_size), 7)
    slots = np.concatenate([slots, extra if shape.num_open else [], [-1, -1]])
    if len(sealed) > 0:  # of a slot named twice the last row wins
        slots = np.concatenate([slots, sealed[0] * shape.block_size + [0, shape.block_size - 1]])
    slots = slots[random.permutation(len(slots))].astype(pick(np.int32, np.int64))
    dtype = FLOATS[pick(*FLOATS)]
    k, v = (
        random.standard_normal((len(slots), shape.kv_heads, size)).clip(-6, 6)
        * 10.0 ** random.integers(-6, 5, (1, shape.kv_heads, size))
        for size in (shape.head_dim, shape.v_head_dim)
    )
    k, v = k.astype(dtype), v.astype(dtype)
    k[slots == -1] = v[slots == -1] = np.nan  # rows that are skipped may hold anything
    if pick(False, True):
        k[..., 0], v[..., 0] = 0, -2.5  # a channel that is the same in all tokens
    quire.write_kv(
        k, v, given_arrays["k_cache"], given_arrays["v_cache"], slots, layout=layout,
        **{name: given_arrays[name] for name in ("k_scale", "v_scale", "k_open", "v_open")},
    )  # fmt: skip
    write(caches, k, v, slots)
    for name, array in caches.given(layout).items():
        if name != "layout":
            assert given_arrays[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("lowest", [-LARGEST, -1e-9, 0.0, 3.0, LARGEST])
@pytest.mark.parametrize("highest", [-LARGEST, 1e-9, 0.0, 3.0, LARGEST])
def test_the_ends_of_what_a_grid_can_hold(lowest: float, highest: float) -> None:
    """Codes and grids to the bit, and real numbers within half a step and float16's rounding."""
    rows = np.array([lowest, highest, (lowest + highest) / 2, lowest], np.float32)
    k = np.tile(rows[:, None, None], (1, 1, 2))
    v = np.tile(rows, (4, 1, 1))
    caches = [np.zeros((1, 4, 1, size), np.uint8) for size in (1, 2)]
    k_scale, v_scale = np.zeros((1, 1, 2, 2), np.float16), np.zeros((1, 4, 1, 2), np.float16)
    quire.write_kv(k, v, *caches, np.arange(4), k_scale=k_scale, v_scale=v_scale)
    for codes, grids, rows_, (expected, expected_grids) in (
        (caches[0], k_scale, k, seal_keys(k)),
        (caches[1], v_scale, v, seal_values(v)),
    ):
        assert codes[0].tobytes() == expected.tobytes()
        assert grids[0].tobytes() == expected_grids.tobytes()
        wide = expected_grids if rows_ is k else expected_grids[..., None, :]
        half_step = wide[..., 0].astype(np.float64) / 2
        error = np.abs(to_reals(codes[0], wide) - rows_)
        assert (error <= half_step + 4 * 2.0**-10 * np.abs(rows_).max() + 2.0**-23).all()


def test_halves_lie_as_documented() -> None:
    grids = np.tile(np.array([1, 0], np.float16), (1, 4, 1))
    assert to_codes(np.array([-8, -7, 7, 0.5], np.float32), grids).tolist() == [[0x10, 0x8F]]
    k = np.array([-8, -7, 7, 0], np.float32).reshape(1, 1, 4)
    v = np.array([-8, -7, 7, 0], np.float32).reshape(1, 1, 4)
    caches = [np.zeros((1, 1, 1, 2), np.uint8) for _ in "kv"]
    k_scale, v_scale = np.zeros((1, 1, 4, 2), np.float16), np.zeros((1, 1, 1, 2), np.float16)
    quire.write_kv(k, v, *caches, np.zeros(1, int), k_scale=k_scale, v_scale=v_scale)
    assert v_scale.ravel().tolist() == [1, 0]
    assert caches[1].ravel().tolist() == [0x10, 0x8F]


def test_written_by_many_threads_or_one(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    shape = Shape(num_blocks=200, num_open=60, block_size=16, head_dim=64, v_head_dim=32)
    blocks = random.permutation(260)[:220]
    slots = (blocks[:, None] * 16 + random.permutation(16)).ravel()
    k, v = (random.standard_normal((len(slots), 2, size)).astype(np.float32) for size in (64, 32))
    expected = empty_caches(shape, "bfloat16", "float16")
    write(expected, k, v, slots)
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("QUIRE_NUM_THREADS", threads)
        got = empty_caches(shape, "bfloat16", "float16")
        options = got.arrays()
        quire.write_kv(k, v, options.pop("k_cache"), options.pop("v_cache"), slots, **options)
        for name, array in expected.arrays().items():
            assert getattr(got, name).tobytes() == array.tobytes(), (threads, name)
