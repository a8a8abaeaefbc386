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
