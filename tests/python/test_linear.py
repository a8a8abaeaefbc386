"""quire.ops.linear against float64, and that a row's bits are its own."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from conftest import DTYPES

from quire import ops
from quire.ops import reference

FORMATS = ["float32", "float16", "bfloat16", "int8", "int4"]
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def normal(*shape: int, dtype: str = "float32", seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[dtype])


def assert_near(out: Any, x: Any, weight: Any, bias: Any = None) -> None:
    """Within the rounding of the result and of float32 sums, in units of the products' length."""
    expected = reference.linear(x, weight, bias=bias)
    w = weight.unpack() if isinstance(weight, ops.Weight) else np.asarray(weight)
    lengths = np.sqrt((x.astype(np.float64) ** 2) @ (w.astype(np.float64).T ** 2))
    # sums of int4's numbers, which are not around zero, are larger than those of its weights
    tolerance = 5e-6 if getattr(weight, "format", "") == "int4" else 1e-6
    bound = tolerance * (1 + lengths) + 1.01 * ROUNDING[out.dtype.name] * np.abs(expected)
    assert (np.abs(out.astype(np.float64) - expected) <= bound).all()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_float64(instruction_set: str, dtype: str, format: str) -> None:
    for m, n, k in [(1, 1, 1), (5, 33, 65), (18, 100, 130)]:
        x, w, bias = normal(m, k, dtype=dtype), normal(n, k, seed=1), normal(n, seed=2)
        weight = ops.pack_weight(w, format=format)  # type: ignore[arg-type]
        out = ops.linear(x, weight, bias=bias)
        assert out.dtype == DTYPES[dtype]
        assert_near(out, x, weight, bias)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_bits_are_its_own(dtype: str, format: str) -> None:
    x = normal(300, 200, dtype=dtype)
    weight = ops.pack_weight(normal(70, 200, seed=1), format=format)  # type: ignore[arg-type]
    whole = ops.linear(x, weight, num_threads=1)
    for m in [*range(1, 20), 33, 64, 129, 256]:
        for begin in (0, 300 - m):
            part = ops.linear(x[begin : begin + m], weight, num_threads=1 + m % 3)
            assert part.tobytes() == whole[begin : begin + m].tobytes()


def test_strides_and_out() -> None:
    wide = normal(40, 90)
    wide[:, 50:] = np.nan  # of nobody
    x = wide[::2, :50]
    weight = ops.pack_weight(normal(33, 50, seed=1), format="float32")
    room = np.full((20, 40), 7, np.float32)
    out = ops.linear(x, weight, out=room[:, :33])
    assert np.shares_memory(out, room)
    assert (room[:, 33:] == 7).all()
    assert out.tobytes() == ops.linear(np.ascontiguousarray(x), weight).tobytes()
    assert ops.linear(x[:0], weight).shape == (0, 33)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_has_the_bits_of_its_packed_weight(dtype: str) -> None:
    x, w = normal(9, 77), normal(50, 77, dtype=dtype, seed=1)
    packed = ops.linear(x, ops.pack_weight(w, format=dtype))  # type: ignore[arg-type]
    assert ops.linear(x, w).tobytes() == packed.tobytes()
    assert_near(packed, x, w)


def mlx_affine(w: Any, group_size: int) -> Any:
    """MLX's affine quantisation of float32 w, taken apart: scale * number + offset."""
    groups = w.reshape(w.shape[0], -1, group_size).astype(np.float32)
    low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
    scale = np.maximum((high - low) / np.float32(15), np.float32(1e-7))
    is_low = np.abs(low) > np.abs(high)
    scale, edge = np.where(is_low, scale, -scale), np.where(is_low, low, high)
    steps = np.rint(edge / scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(steps == 0, scale, edge / steps)
    offset = np.where(steps == 0, np.float32(0), edge)
    numbers = np.clip(np.rint((groups - offset) / scale), 0, 15)
    return (scale.astype(np.float64) * numbers + offset).reshape(w.shape).astype(np.float32)


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_int4_is_mlx_affine(group_size: int) -> None:
    w = normal(40, 384, seed=3)
    w[0] = 0
    w[1, :128] = np.abs(w[1, :128])
    w[2, :128] = -5
    weight = ops.pack_weight(w, format="int4", group_size=group_size)
    assert weight.group_size == group_size
    np.testing.assert_array_equal(weight.unpack(), mlx_affine(w, group_size))


def test_int8_has_a_scale_for_each_row() -> None:
    w = normal(40, 100, seed=3) * np.geomspace(1e-3, 1e3, 40, dtype=np.float32)[:, None]
    got = ops.pack_weight(w, format="int8").unpack()
    scale = np.abs(w).max(axis=1, keepdims=True) / 127
    assert (np.abs(got - w) <= 0.501 * scale).all()


def test_what_a_weight_says_of_itself() -> None:
    weight = ops.pack_weight(normal(64, 64), format="bfloat16")
    assert (weight.shape, weight.format, weight.group_size) == ((64, 64), "bfloat16", None)
    assert weight.nbytes == 64 * 64 * 2
    assert repr(weight) == "Weight([64, 64], bfloat16, 8192 bytes)"
    for thing in (ops.Weight, ops.Weight.unpack, ops.linear, ops.pack_weight):
        assert len(inspect.getdoc(thing) or "") > 40
    assert list(inspect.signature(ops.linear).parameters) == [
        *("x", "weight", "bias", "out", "num_threads"),
    ]


@pytest.mark.parametrize("x_dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_product_may_be_float32(instruction_set: str, x_dtype: str, format: Any) -> None:
    """What is rounded to x's dtype else: the same sums."""
    for rows in (1, 3, 40):
        x = normal(rows, 96, dtype=x_dtype)
        weight = ops.pack_weight(normal(70, 96, seed=1), format=format)
        bias = normal(70, seed=2)
        out = np.full((rows, 70), np.nan, np.float32)
        assert ops.linear(x, weight, bias=bias, out=out) is out
        rounded = ops.linear(x, weight, bias=bias)
        assert out.astype(DTYPES[x_dtype]).tobytes() == rounded.tobytes()
        assert (out != rounded.astype(np.float32)).any()


X, W = normal(2, 8), normal(3, 8, seed=1)
READ_ONLY = np.zeros((2, 3), np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.linear(X[0], W), ValueError, "linear: x: got shape [8], expected [>= 1, 8]"),
        (
            lambda: ops.linear(X[:, :7], W),
            ValueError,
            "linear: x: got shape [2, 7], expected [2, 8]",
        ),
        (lambda: ops.linear(X, W[0]), ValueError, "linear: weight: got shape [8]"),
        (lambda: ops.linear(X, None), TypeError, "linear: weight: got NoneType"),
        (lambda: ops.linear(X.T.copy().T, W), ValueError, "linear: x: got a last axis of stride"),
        (lambda: ops.linear(X, W, bias=X[0]), ValueError, "linear: bias: got shape [8]"),
        (lambda: ops.linear(X, W, out=READ_ONLY), ValueError, "linear: out: got a read-only array"),
        (
            lambda: ops.linear(X, W, out=np.zeros((2, 3), np.float16)),
            TypeError,
            "linear: out: got float16, expected float32, the dtype of x",
        ),
        (lambda: ops.linear(X, W, num_threads=0), ValueError, "linear: num_threads: got 0"),
        (
            lambda: ops.pack_weight(W, format="int3"),  # type: ignore[arg-type]
            ValueError,
            'pack_weight: format: got "int3", expected float32, float16, bfloat16, int8 or int4',
        ),
        (
            lambda: ops.pack_weight(W, format="int4", group_size=16),
            ValueError,
            "pack_weight: group_size: got 16, expected 32, 64 or 128",
        ),
        (
            lambda: ops.pack_weight(W, group_size=64),
            ValueError,
            "pack_weight: group_size: got 64 with format bfloat16, expected None",
        ),
        (
            lambda: ops.pack_weight(
                np.where(np.arange(24).reshape(3, 8) == 10, np.inf, W), format="int8"
            ),
            ValueError,
            "pack_weight: w: got inf at [1, 2], expected finite numbers",
        ),
        (lambda: ops.pack_weight(W[:0]), ValueError, "pack_weight: w: got shape [0, 8]"),
    ],
)
def test_errors_say_what_is_wrong(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(message)


def test_out_may_not_be_what_is_read() -> None:
    square = normal(8, 8)
    before = square.copy()
    with pytest.raises(ValueError, match="linear: out: got memory that overlaps x's"):
        ops.linear(square, W[[0] * 8], out=square)
    assert (square == before).all()
