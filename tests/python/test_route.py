"""quire.ops.route against float64: experts, their weights, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import DTYPES
from operator_cases import assert_raises, normal

from quire import ops
from quire.ops import reference

ROUTES: list[dict[str, Any]] = [
    {},
    {"renormalise": False},
    {"scoring": "sigmoid"},
    {"scoring": "sigmoid", "bias": normal(60, seed=3), "renormalise": False},
]


@pytest.mark.parametrize("options", ROUTES, ids=lambda o: "-".join(o))
@pytest.mark.parametrize("dtype", DTYPES)
def test_route_against_float64(dtype: str, options: dict[str, Any]) -> None:
    logits = normal(200, 60, dtype=dtype) * 3
    for top_k in (1, 8, 60):
        weights, experts = ops.route(logits, top_k, num_threads=2, **options)
        expected, expected_experts = reference.route(logits, top_k, **options)
        assert weights.dtype == np.float32
        assert experts.dtype == np.int32
        np.testing.assert_array_equal(experts, expected_experts)
        np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-37)
        one = ops.route(logits[7:8], top_k, **options)
        assert one[0].tobytes() == weights[7].tobytes()
    assert ops.route(logits[:0], 2)[0].shape == (0, 2)
    equal = ops.route(np.zeros((1, 9), np.float32), 3)
    assert equal[1].tolist() == [[0, 1, 2]]


def test_experts_of_no_score_count_alike() -> None:
    none = np.full((1, 4), -1000, np.float32)
    options: dict[str, Any] = {"scoring": "sigmoid"}
    assert ops.route(none, 2, **options)[0].tolist() == [[0.5, 0.5]]
    assert reference.route(none, 2, **options)[0].tolist() == [[0.5, 0.5]]
    chosen = ops.route(np.array([[0, -1000]], np.float32), 1, bias=np.array([-10, 10], np.float32))
    assert [x.tolist() for x in chosen] == [[[1.0]], [[1]]]


def test_experts_go_where_out_says() -> None:
    logits = normal(7, 20)
    expected = ops.route(logits, 3)
    out = (np.full((7, 3), np.nan, np.float32), np.full((7, 3), -1, np.int32))
    got = ops.route(logits, 3, out=out)
    assert all(mine is theirs for mine, theirs in zip(got, out, strict=True))
    for mine, theirs in zip(out, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_results_are_torchs() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.randn(3, 50)
    weights, experts = ops.route(logits, 4)
    assert (weights.dtype, experts.dtype) == (torch.float32, torch.int32)
    assert experts.tolist() == ops.route(logits.numpy(), 4)[1].tolist()
    assert torch.equal(experts[:, 0].long(), logits.argmax(dim=1))


X = normal(2, 40)
WEIGHTS, EXPERTS = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int32)
BAD = X.copy()
BAD[1, 30] = np.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.route(X, 41), ValueError, "route: top_k: got 41, expected 1 to 40"),
        (lambda: ops.route(X, 0), ValueError, "route: top_k: got 0"),
        (lambda: ops.route(BAD, 2), ValueError, "route: logits: got nan at [1, 30]"),
        (lambda: ops.route(X[0], 2), ValueError, "route: logits: got shape [40]"),
        (
            lambda: ops.route(X, 2, scoring="relu"),  # type: ignore[arg-type]
            ValueError,
            'route: scoring: got "relu", expected "softmax" or "sigmoid"',
        ),
        (lambda: ops.route(X, 2, bias=X), ValueError, "route: bias: got shape [2, 40]"),
        (
            lambda: ops.route(X, 3, out=WEIGHTS),  # type: ignore[arg-type]
            TypeError,
            "route: out: got numpy.ndarray, expected a tuple (weights, experts), or None",
        ),
        (
            lambda: ops.route(X, 2, out=(WEIGHTS, EXPERTS)),
            ValueError,
            "route: out[0]: got shape [2, 3], expected [2, 2]",
        ),
        (
            lambda: ops.route(X, 3, out=(WEIGHTS.astype(np.float16), EXPERTS)),
            TypeError,
            "route: out[0]: got float16, expected float32",
        ),
        (
            lambda: ops.route(X, 3, out=(WEIGHTS, EXPERTS.astype(np.int64))),
            TypeError,
            "route: out[1]: got int64, expected int32",
        ),
        (
            lambda: ops.route(X, 3, out=(WEIGHTS, WEIGHTS.view(np.int32))),
            ValueError,
            "route: experts: got memory that overlaps weights's",
        ),
        (
            lambda: ops.route(X, 3, out=(X.reshape(-1)[:6].reshape(2, 3), EXPERTS)),
            ValueError,
            "route: weights: got memory that overlaps logits's",
        ),
    ],
)
def test_errors_say_what_is_wrong(call: Any, error: type[Exception], message: str) -> None:
    assert_raises(call, error, message)
