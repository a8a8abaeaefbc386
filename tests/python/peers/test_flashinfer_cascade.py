"""quire.flashinfer's merges and cascades against one softmax over all keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from peer_attention import (
    DTYPES,
    TOLERANCE,
    assert_close,
    attention,
    paged_batch,
    queries,
    visible_keys,
)

import quire.flashinfer as flashinfer

LOG2_E = math.log2(math.e)


def parts_of(dtype: str, num_parts: int, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Results over parts of the keys [n, T, H, D], their lse in base 2, and both of the whole."""
    random = np.random.default_rng(seed)
    q = queries(7, 4, 32)
    k, v = random.standard_normal((2, 10 * num_parts, 2, 32)).astype(np.float32)
    whole = attention(q, k, v, visible_keys(7, len(k), False))
    parts = [
        attention(q, k[i : i + 10], v[i : i + 10], visible_keys(7, 10, False))
        for i in range(0, len(k), 10)
    ]
    outs = np.stack([out for out, _ in parts]).astype(DTYPES[dtype])
    lses = np.stack([lse * LOG2_E for _, lse in parts]).astype(np.float32)
    return outs, lses, whole[0], whole[1] * LOG2_E


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_merge_state(dtype: str) -> None:
    outs, lses, out, lse = parts_of(dtype, 2)
    merged = flashinfer.merge_state(outs[0], lses[0], outs[1], lses[1])
    assert merged[0].dtype == DTYPES[dtype]
    assert_close(merged[0], out, dtype)
    assert_close(merged[1], lse, "float32")


@pytest.mark.parametrize("num_parts", [1, 2, 9])
def test_merge_states(num_parts: int) -> None:
    outs, lses, out, lse = parts_of("float32", num_parts)
    merged = flashinfer.merge_states(outs.swapaxes(0, 1), lses.swapaxes(0, 1))
    assert_close(merged[0], out, "float32")
    assert_close(merged[1], lse, "float32")


@pytest.mark.parametrize("masked", [False, True])
def test_merge_state_in_place(masked: bool) -> None:
    outs, lses, out, lse = parts_of("float32", 2)
    mask = np.arange(7) % 3 == 0 if masked else None
    v, s = outs[0].copy(), lses[0].copy()
    assert flashinfer.merge_state_in_place(v, s, outs[1], lses[1], mask) is None
    rows = slice(None) if mask is None else mask
    assert_close(v[rows], out[rows], "float32")
    assert_close(s[rows], lse[rows], "float32")
    if mask is not None:
        np.testing.assert_array_equal(v[~mask], outs[0][~mask])
        np.testing.assert_array_equal(s[~mask], lses[0][~mask])


def test_nothing_is_the_identity_and_large_exponents_keep_their_difference() -> None:
    v = queries(1, 2, 8)
    nothing = np.zeros_like(v), np.full((1, 2), -np.inf, np.float32)
    s = np.full((1, 2), -66000.25, np.float32)
    for merged in (flashinfer.merge_state(v, s, *nothing), flashinfer.merge_state(*nothing, v, s)):
        np.testing.assert_array_equal(merged[0], v)
        np.testing.assert_array_equal(merged[1], s)
    out, lse = flashinfer.merge_state(*nothing, *nothing)
    assert (out == 0).all()
    assert (lse == -np.inf).all()
    # Twice the weight on the one side: (1 * 2 + 4) / 3.
    ones, fours = np.ones((1, 2, 8), np.float32), np.full((1, 2, 8), 4, np.float32)
    out, lse = flashinfer.merge_state(ones, s + 1, fours, s)
    np.testing.assert_allclose(out, 2, rtol=1e-6)
    np.testing.assert_allclose(lse - s, math.log2(3), atol=0.01)


def test_merges_refuse_what_does_not_fit() -> None:
    outs, lses, _, _ = parts_of("float32", 2)
    with pytest.raises(
        ValueError, match=r"merge_state: s_b: got shape \[7, 3\], expected \[7, 4\]"
    ):
        flashinfer.merge_state(outs[0], lses[0], outs[1], lses[1][:, :3])
    with pytest.raises(ValueError, match=r"merge_state: v_b: got float16 .*, expected float32"):
        flashinfer.merge_state(outs[0], lses[0], outs[1].astype(np.float16), lses[1])
    with pytest.raises(TypeError, match="merge_states: s: got dtype float64, expected float32"):
        flashinfer.merge_states(outs.swapaxes(0, 1), lses.swapaxes(0, 1).astype(float))
    v, s = outs[0].copy(), lses[0].copy()
    s.flags.writeable = False
    with pytest.raises(ValueError, match="merge_state_in_place: s: got a read-only array"):
        flashinfer.merge_state_in_place(v, s, outs[1], lses[1])
    np.testing.assert_array_equal(v, outs[0])


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("causal", [False, True])
def test_multi_level_cascade(dtype: str, layout: str, causal: bool) -> None:
    # All share the first keys, the first two also the next, and each has its own last ones.
    levels = [[48], [16, 32], [5, 20, 16]]
    groups = [[0, 12], [0, 7, 12], [0, 3, 7, 12]]
    batch = paged_batch([length for level in levels for length in level], 16, 2, 64, dtype)
    arguments: list[list[Any]] = [[], [], [], []]
    sequence = 0
    for lengths, rows in zip(levels, groups, strict=True):
        end = sequence + len(lengths)
        begin = batch.indptr[sequence]
        arguments[0].append(np.array(rows, np.int32))
        arguments[1].append(batch.indptr[sequence : end + 1] - begin)
        arguments[2].append(batch.indices[begin : batch.indptr[end]])
        arguments[3].append(batch.last_page_len[sequence:end])
        sequence = end
    wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(3, None, layout)
    wrapper.plan(*arguments, 8, 2, 64, 16, causal=causal, q_data_type=dtype)
    q = queries(12, 8, 64, dtype)
    out = wrapper.run(q, batch.cache("packed", layout))
    assert out.dtype == DTYPES[dtype]
    owners = [(0, 1, 3), (0, 1, 4), (0, 2, 5)]
    for own, begin, end in zip(owners, groups[2], groups[2][1:], strict=False):
        k, v = (np.concatenate([x[i] for i in own]) for x in (batch.keys, batch.values))
        visible = visible_keys(end - begin, len(k), causal)
        wanted, _ = attention(q[begin:end], k, v, visible)
        np.testing.assert_allclose(
            out[begin:end].astype(float), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


def test_cascade_refuses_windows_and_missing_levels() -> None:
    wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(2)
    with pytest.raises(RuntimeError, match="run: got no plan"):
        wrapper.run(queries(1, 4, 64), np.zeros((1, 2, 16, 4, 64), np.float32))
    one: list[Any] = [np.array([0, 1])], [np.array([0, 1])], [np.array([0])], [np.array([3])]
    with pytest.raises(ValueError, match="qo_indptr_arr: got 1 levels, expected 2"):
        wrapper.plan(*one, 4, 4, 64, 16)
    two = [x * 2 for x in one]
    with pytest.raises(NotImplementedError, match="window_left: got 5, expected -1"):
        wrapper.plan(*two, 4, 4, 64, 16, window_left=5)
    with pytest.raises(NotImplementedError, match="pos_encoding_mode: got 'ALIBI'"):
        wrapper.plan(*two, 4, 4, 64, 16, pos_encoding_mode="ALIBI")
