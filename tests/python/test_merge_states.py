"""merge_states: attention over parts of the keys is attention over all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import DTYPES, make_problem

import quire


def test_parts_make_the_whole() -> None:
    problem = make_problem([96], heads=(8, 2))
    q, k_cache, v_cache, tables, _ = problem.arguments
    options: dict[str, Any] = {"return_lse": True, "causal": False}
    whole, whole_lse = quire.paged_attention(*problem.arguments, **options)
    parts = [
        quire.paged_attention(
            q, k_cache, v_cache, tables[:, begin:end], np.array([16 * (end - begin)]), **options
        )
        for begin, end in ((0, 1), (1, 4), (4, 6))
    ]
    outs, lses = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    out, lse = quire.merge_states(outs, lses)
    np.testing.assert_allclose(out, whole, atol=1e-6)
    np.testing.assert_allclose(lse, whole_lse, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_float64(dtype: str) -> None:
    random = np.random.default_rng(0)
    outs = random.standard_normal((4, 5, 3, 7)).astype(DTYPES[dtype])
    lses = (random.standard_normal((4, 5, 3)) * 50).astype(np.float32)
    lses[1, 2] = lses[:, 4] = -np.inf
    top = lses.max(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        weights = np.exp(lses - np.where(np.isfinite(top), top, 0))
    expected = (weights[..., None] * outs.astype(np.float64)).sum(axis=0)
    totals = weights.sum(axis=0)
    out, lse = quire.merge_states(outs, lses)
    assert out.dtype == DTYPES[dtype]
    seen = totals > 0
    tolerance = 1e-6 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(
        out[seen].astype(np.float64), expected[seen] / totals[seen][:, None], atol=tolerance
    )
    np.testing.assert_allclose(lse[seen], top[seen] + np.log(totals[seen]), rtol=1e-6)
    assert not out[4].any()
    assert np.isneginf(lse[4]).all()


def test_the_identity_weighs_nothing_even_if_it_is_nan() -> None:
    outs = np.stack([np.ones((1, 1, 4)), np.full((1, 1, 4), np.nan)]).astype(np.float32)
    lses = np.array([[[0.5]], [[-np.inf]]], np.float32)
    out, lse = quire.merge_states(outs, lses)
    assert (out == 1).all()
    assert lse == np.float32(0.5)


def test_no_parts_and_no_tokens() -> None:
    out, lse = quire.merge_states(
        np.zeros((0, 2, 3, 4), np.float32), np.zeros((0, 2, 3), np.float32)
    )
    assert not out.any()
    assert np.isneginf(lse).all()
    out, _ = quire.merge_states(np.zeros((2, 0, 3, 4), np.float32), np.zeros((2, 0, 3), np.float32))
    assert out.shape == (0, 3, 4)


@pytest.mark.parametrize("axes", [(), (6,), (2, 3), (2, 1, 3)])
def test_rows_of_any_axes(axes: tuple[int, ...]) -> None:
    """The bits are those of the same rows as [n, T, H, Dv]."""
    random = np.random.default_rng(3)
    outs = random.standard_normal((4, *axes, 5)).astype(np.float32)
    lses = random.standard_normal((4, *axes)).astype(np.float32)
    out, lse = quire.merge_states(outs, lses)
    assert out.shape == (*axes, 5)
    assert lse.shape == axes
    flat_out, flat_lse = quire.merge_states(outs.reshape(4, -1, 1, 5), lses.reshape(4, -1, 1))
    assert out.tobytes() == flat_out.tobytes()
    assert lse.tobytes() == flat_lse.tobytes()


def test_given_arrays_are_written_whatever_their_strides_and_dtype() -> None:
    random = np.random.default_rng(4)
    outs = random.standard_normal((3, 4, 5, 8)).astype(np.float32)
    lses = random.standard_normal((3, 5, 4)).astype(np.float32).transpose(0, 2, 1)
    expected_out, expected_lse = quire.merge_states(outs, lses.copy())
    wide, tall = np.full((4, 10, 8), 7, DTYPES["bfloat16"]), np.full((5, 8), 7, np.float32)
    out, lse = wide[:, ::2], tall[:, ::2].T
    got_out, got_lse = quire.merge_states(outs, lses, out=out, lse=lse)
    assert got_out is out
    assert got_lse is lse
    assert out.tobytes() == expected_out.astype(DTYPES["bfloat16"]).tobytes()
    assert lse.tobytes() == expected_lse.tobytes()
    assert (wide[:, 1::2] == 7).all()
    assert (tall[:, 1::2] == 7).all()


@pytest.mark.parametrize("nothing", [np.inf, -np.inf])
def test_parts_without_keys_are_nothing(nothing: float) -> None:
    """Of infinite lse of either sign; what they hold is not read."""
    outs = np.stack([np.full((2, 4), np.nan), np.ones((2, 4)), np.full((2, 4), np.nan)])
    lses = np.array([[nothing, nothing], [0.25, nothing], [-np.inf, np.inf]], np.float32)
    out, lse = quire.merge_states(outs.astype(np.float32), lses)
    assert out.tolist() == [[1] * 4, [0] * 4]
    assert lse.tolist() == [0.25, -np.inf]


@pytest.mark.parametrize(
    ("name", "given", "error", "message"),
    [
        ("out", np.ones((3, 4, 6), np.float32), ValueError, r"got shape \[3, 4, 6\]"),
        ("out", np.ones((3, 4, 5)), TypeError, "got dtype float64"),
        ("out", np.ones((4, 5, 3), np.float32).transpose(2, 0, 1), ValueError, "got a last axis"),
        ("lse", np.ones((3, 4, 1), np.float32), ValueError, r"got shape \[3, 4, 1\]"),
        ("lse", np.ones((3, 4), np.float16), TypeError, "got float16, expected float32"),
        ("lse", np.broadcast_to(np.float32(1), (3, 4)), ValueError, "got a read-only array"),
    ],
)
def test_what_cannot_be_written(
    name: str, given: Any, error: type[Exception], message: str
) -> None:
    outs, lses = np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 3, 4), np.float32)
    with pytest.raises(error, match=f"merge_states: {name}: {message}"):
        quire.merge_states(outs, lses, **{name: given})
    assert (given == 1).all()


def test_what_is_written_lies_apart_from_what_is_read() -> None:
    outs, lses = np.ones((2, 3, 4, 5), np.float32), np.ones((2, 3, 4), np.float32)
    for given, message in [
        ({"out": outs[0]}, "out: got memory that overlaps outs's"),
        ({"lse": lses[1]}, "lse: got memory that overlaps lses's"),
        ({"lse": outs[0, ..., 0]}, "lse: got memory that overlaps outs's"),
    ]:
        with pytest.raises(ValueError, match=f"merge_states: {message}"):
            quire.merge_states(outs, lses, **given)
    assert (outs == 1).all()
    assert (lses == 1).all()
