"""Attention over int4 caches against float64 on what is stored, over sealed and open blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from delegate import Delegate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from int4_cases import (
    FLOATS,
    IMPLEMENTATIONS,
    Batch,
    Shape,
    as_layout,
    empty_caches,
    random_batch,
    to_reals,
    write,
)
from sampled_examples import examples

import quire

# Of the largest value: fused attention rounds weights to bfloat16 where results are, and to 16 bits
# of a row's largest where it multiplies codes as whole numbers.
BOUNDS = {"dense": 1e-6, "gather": 1e-5, "fused": 1e-3}
OUT_ROUNDING = {"float32": 0.0, "float16": 1e-3, "bfloat16": 1e-2}


def check(batch: Batch, layout: str = "NHD", out_dtype: str = "float32") -> None:
    expected, expected_lse, expected_mass = batch.expected()
    largest = max([1.0, *(np.abs(v).max(initial=0) for _, v in batch.reals)])
    for implementation in IMPLEMENTATIONS:
        out = np.full(expected.shape, np.nan, FLOATS[out_dtype])
        returned, lse, mass = batch.call(
            layout, out=out, return_lse=True, return_block_mass=True, implementation=implementation
        )
        assert returned is out
        of_score = score_rounding(batch) if implementation == "fused" else 0.0
        bound = BOUNDS[implementation] + OUT_ROUNDING[out_dtype] + 2 * of_score
        error = np.abs(out.astype(np.float64) - expected).max(initial=0)
        assert error <= largest * bound, implementation
        np.testing.assert_allclose(
            lse, expected_lse, atol=1e-4 + of_score, rtol=1e-5, err_msg=implementation
        )
        np.testing.assert_allclose(
            mass, expected_mass, atol=1e-4 + 2 * of_score, err_msg=implementation
        )


def score_rounding(batch: Batch) -> float:
    """Of a score at most, where queries times steps are rounded to 16 bits of their largest."""
    steps = batch.caches.k_scale[..., 0].astype(np.float64)
    largest = np.abs(batch.q.astype(np.float64)).max(initial=0) * np.nanmax(steps, initial=0)
    scale = batch.options.get("scale") or batch.shape.head_dim**-0.5
    return float(scale * largest / 65534 * 15 * batch.shape.head_dim)


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_attention_matches_float64_on_codes_grids_and_open_rows(
    instruction_set: str, data: st.DataObject
) -> None:
    def pick(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    lengths = [data.draw(st.integers(0, pick(1, 20, 90))) for _ in range(pick(1, 2, 3))]
    most = pick(1, 1, 5)
    q_lens = [data.draw(st.integers(0, min(length, most))) for length in lengths]
    kv_heads, group = pick((1, 1), (2, 2), (3, 1), (1, 5))
    head_dim = pick(64, 8, 2, 6, 66, 130)
    options: dict[str, Any] = {"causal": pick(True, True, False)}
    if pick(False, True):
        options |= {"sliding_window": pick(1, 7, 40), "num_sink_tokens": pick(0, 0, 3, 18)}
    options["softcap"] = pick(None, None, 5.0)
    options["scale"] = pick(None, 0.1)
    if pick(False, False, True):
        options["alibi_slopes"] = random.random(kv_heads * group).astype(np.float32) / 10
    if pick(False, False, True):
        options["sinks"] = random.standard_normal(kv_heads * group).astype(np.float32)
    shape = Shape(block_size=pick(16, 3, 1), kv_heads=kv_heads, head_dim=head_dim)
    shape.v_head_dim = pick(head_dim, 4, 34)
    batch = random_batch(
        random, lengths, q_lens, shape, group=group, share_open=pick(0.5, 0.2, 0.0, 1.0),
        options=options, q_dtype=pick(*FLOATS), open_dtypes=(pick(*FLOATS), pick(*FLOATS)),
    )  # fmt: skip
    check(batch, pick("NHD", "HND"), pick(*FLOATS))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_code_is_read(instruction_set: str, implementation: Any) -> None:
    """Each of 256 bytes as a key of two channels and as a value, over grids of their own."""
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16, 1, 1)
    k_scale = np.tile(np.array([[0.5, -1], [0.25, 3]], np.float16), (16, 1, 1, 1))
    v_scale = np.tile(np.array([0.125, 2], np.float16), (16, 16, 1, 1))
    keys = to_reals(codes, k_scale[:, None]).reshape(256, 2)
    values = to_reals(codes, v_scale[:, :, :, None]).reshape(256, 2)
    assert keys[0x2F].tolist() == [-1 + 7 * 0.5, 3 - 6 * 0.25]
    for slot in range(256):
        q = np.array([[[1, 0]], [[0, 1]]], np.float32)  # a query for each channel
        cache = codes[slot // 16, slot % 16].reshape(1, 1, 1, 1)
        out, lse = quire.paged_attention(
            q, cache, cache, np.zeros((2, 1), int), np.ones(2, int),
            k_scale=k_scale[:1], v_scale=v_scale[:1, :1], scale=1.0, return_lse=True,
            implementation=implementation,
        )  # fmt: skip
        np.testing.assert_allclose(lse[:, 0], keys[slot], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(out[:, 0], [values[slot]] * 2, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_arrays_of_any_strides(instruction_set: str, implementation: Any) -> None:
    """Caches and open blocks cut out of larger arrays, values' grids by head, blocks backwards."""
    random = np.random.default_rng(1)
    batch = random_batch(random, [50, 9], [2, 1], Shape(block_size=4), share_open=0.4)
    expected = batch.call(implementation=implementation)
    for name, array in batch.caches.arrays().items():
        larger = np.zeros((2 * array.shape[0], *array.shape[1:]), array.dtype)
        strided = larger[::-2] if name != "v_scale" else larger.swapaxes(1, 2).copy()[::2]
        strided = strided.swapaxes(1, 2) if name == "v_scale" else strided
        strided[...] = array
        assert strided.strides != array.strides
        setattr(batch.caches, name, strided)
    assert batch.call(implementation=implementation).tobytes() == expected.tobytes()


@pytest.mark.parametrize("block_size", [1, 16, 100])
def test_long_sequences(instruction_set: str, block_size: int) -> None:
    """Of many parts, in which sealed and open blocks alternate, and a prompt of many rows."""
    random = np.random.default_rng(3)
    shape = Shape(block_size=block_size, head_dim=64, v_head_dim=32)
    options = {"sliding_window": 1500, "num_sink_tokens": 20} if block_size == 16 else {}
    batch = random_batch(
        random, [2500, 300], [2, 260], shape, share_open=0.3, options=options,
        open_dtypes=("bfloat16", "float16"),
    )  # fmt: skip
    check(batch)


def test_a_sequence_has_the_same_bits_alone_and_in_a_batch(instruction_set: str) -> None:
    random = np.random.default_rng(2)
    shape = Shape(block_size=16, head_dim=64, v_head_dim=64)
    batch = random_batch(random, [700, 1, 300, 33], [1, 1, 1, 1], shape, share_open=0.2)
    for implementation in IMPLEMENTATIONS:
        together = batch.call(implementation=implementation, num_threads=2)
        for i in range(4):
            alone = Batch(
                shape, batch.caches, batch.tables[i : i + 1], batch.lengths[i : i + 1], [1],
                batch.q[i : i + 1], {},
            )  # fmt: skip
            out = alone.call(implementation=implementation, num_threads=1)
            assert out.tobytes() == together[i : i + 1].tobytes(), implementation


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_what_was_written_is_attended(layout: Any) -> None:
    """Two sequences, their last blocks open: what is stored, and near the rows that went in."""
    random = np.random.default_rng(5)
    shape = Shape(num_blocks=9, num_open=4, block_size=16, head_dim=64, v_head_dim=64)
    caches = empty_caches(shape, "bfloat16", "bfloat16")
    given_arrays = caches.given(layout)
    tables, lengths = np.array([[3, 8, 10, 12], [2, 11, -1, -1]]), np.array([60, 20])
    q = random.standard_normal((2, 4, 64)).astype(np.float32)
    rows = [random.standard_normal((2, length, 2, 64)).astype(np.float32) for length in lengths]
    options = {name: a for name, a in given_arrays.items() if name not in ("k_cache", "v_cache")}
    both = given_arrays["k_cache"], given_arrays["v_cache"]
    for table, (k, v) in zip(tables, rows, strict=True):
        positions = np.arange(len(k))
        slots = table[positions // 16] * 16 + positions % 16
        quire.write_kv(k, v, *both, slots, **options)
        write(caches, k, v, slots)
    batch = Batch(shape, caches, tables, lengths.tolist(), [1, 1], q, {})
    for table, (k, _) in zip(tables, rows, strict=True):
        keys, values = [], []
        for position in range(len(k)):
            block, offset = table[position // 16], position % 16
            if block < 9:
                keys.append(to_reals(caches.k_cache[block, offset], caches.k_scale[block]))
                grids = caches.v_scale[block, offset][:, None]
                values.append(to_reals(caches.v_cache[block, offset], grids))
            else:
                keys.append(caches.k_open[block - 9, offset].astype(np.float64))
                values.append(caches.v_open[block - 9, offset].astype(np.float64))
        batch.reals.append((np.stack(keys), np.stack(values)))
    check(batch, layout)
    plain = [as_layout(np.zeros((13, 16, 2, 64), np.float32), layout) for _ in "kv"]
    for table, (k, v) in zip(tables, rows, strict=True):
        positions = np.arange(len(k))
        quire.write_kv(k, v, *plain, table[positions // 16] * 16 + positions % 16, layout=layout)
    exact = quire.paged_attention(q, *plain, tables, lengths, layout=layout)
    out = quire.paged_attention(q, *both, tables, lengths, implementation="dense", **options)
    error = np.sqrt(np.mean((out - exact) ** 2) / np.mean(exact**2))
    assert 0 < error < 0.3


def test_tensors_of_other_libraries() -> None:
    """Codes of uint8, grids and open rows through DLPack; of another unsigned type refused."""
    batch = random_batch(np.random.default_rng(7), [30], [1], Shape(block_size=4))
    expected = batch.call()
    for name, array in batch.caches.arrays().items():
        setattr(batch.caches, name, Delegate(array))
    assert batch.call().tobytes() == expected.tobytes()
    batch.caches.v_cache = Delegate(batch.caches.v_cache.array.astype(np.uint16))
    message = r"v_cache: got dtype uint16, expected .* uint8 \(int4\)"
    with pytest.raises(TypeError, match=message):
        batch.call()


def test_open_blocks_alone_and_none_at_all() -> None:
    """No sealed block is legal, and neither is an open one; the others do without it."""
    random = np.random.default_rng(6)
    k, v = random.standard_normal((2, 3, 2, 4)).astype(np.float32)
    q = random.standard_normal((1, 2, 4)).astype(np.float32)
    none = np.zeros((0, 4, 2, 2), np.uint8)
    opened = [np.full((1, 4, 2, 4), np.nan, np.float32) for _ in "kv"]
    grids = {
        "k_scale": np.zeros((0, 2, 4, 2), np.float16),
        "v_scale": np.zeros((0, 4, 2, 2), np.float16),
    }
    quire.write_kv(k, v, none, none, np.arange(3), k_open=opened[0], v_open=opened[1], **grids)
    plain = [np.zeros((1, 4, 2, 4), np.float32) for _ in "kv"]
    quire.write_kv(k, v, *plain, np.arange(3))
    table, length = np.array([[0]]), np.array([3])
    for implementation in IMPLEMENTATIONS:
        out = quire.paged_attention(
            q, none, none, table, length, k_open=opened[0], v_open=opened[1],
            implementation=implementation, **grids,
        )  # fmt: skip
        expected = quire.paged_attention(q, *plain, table, length, implementation=implementation)
        np.testing.assert_allclose(out, expected, atol=1e-6)
        nothing = [np.zeros((0, 4, 2, 4), np.float32) for _ in "kv"]
        out = quire.paged_attention(
            q, none, none, table, np.array([0]), k_open=nothing[0], v_open=nothing[1],
            implementation=implementation, **grids,
        )  # fmt: skip
        assert (out == 0).all()
