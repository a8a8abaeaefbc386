"""quire.ops.rms_norm, rope and swiglu against float64, and that a row's bits are its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import DTYPES
from operator_cases import assert_near, assert_raises, normal

from quire import ops
from quire.ops import reference

SHAPES = [(1, 1), (5, 123, 123), (2, 128, 512), (3, 17), (7, 64), (2, 4099), (0, 5)]
ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "sigmoid"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_against_float64(instruction_set: str, dtype: str) -> None:
    for shape in SHAPES:
        x, weight = normal(*shape, dtype=dtype), normal(shape[-1], dtype=dtype, seed=1)
        residual, gate = normal(*shape, dtype=dtype, seed=2), normal(*shape, dtype=dtype, seed=3)
        options: dict[str, Any]
        for options in ({}, {"weight_offset": 1.0, "eps": 1e-5}, {"gate": gate}):
            expected = reference.rms_norm(x, weight, **options)
            assert_near(ops.rms_norm(x, weight, **options), expected, relative=2e-6)
        y, h = ops.rms_norm(x, weight, residual=residual)
        expected, sums = reference.rms_norm(x, weight, residual=residual)
        assert_near(y, expected, relative=2e-6)
        np.testing.assert_array_equal(h.astype(np.float64), sums)
        assert y.dtype == h.dtype == DTYPES[dtype]
        # the bits of adding first
        assert y.tobytes() == ops.rms_norm(h, weight).tobytes()


def test_rms_norm_of_large_and_small_rows(instruction_set: str) -> None:
    x = normal(4, 96) * np.array([[1e4], [1e-4], [0], [1e15]], np.float32)
    weight = normal(96, seed=1)
    assert_near(ops.rms_norm(x, weight), reference.rms_norm(x, weight), relative=2e-6)
    assert (ops.rms_norm(x[2], weight, eps=1e-6) == 0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_against_float64(instruction_set: str, dtype: str, activation: Any) -> None:
    for shape in SHAPES:
        gate, up = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
        out = ops.swiglu(gate, up, activation=activation)
        assert out.dtype == DTYPES[dtype]
        assert_near(out, reference.swiglu(gate, up, activation=activation))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_swiglu_from_end_to_end(instruction_set: str, activation: Any) -> None:
    gate = np.concatenate(
        [np.linspace(-130, 130, 100001), [0.0, -0.0, 1e30, 3e38, np.inf, -1e30, -3e38]]
    )
    gate = gate.astype(np.float32)
    out = ops.swiglu(gate, np.ones_like(gate), activation=activation)
    expected = reference.swiglu(gate, np.ones_like(gate), activation=activation)
    # exponents of up to 126 are rounded to float32, where results are as small as that
    near = np.abs(gate) < 10
    assert_near(out[near], expected[near], relative=3e-6, absolute=1e-12)
    assert_near(out, expected, relative=2e-5, absolute=2e-36)
    with_nan = np.array([1.0, np.nan, -2.0], np.float32)
    out = ops.swiglu(with_nan, np.ones_like(with_nan), activation=activation)
    np.testing.assert_array_equal(np.isnan(out), [False, True, False])


HEADS = [(1, 1, 2), (3, 4, 64), (5, 3, 92), (2, 32, 128), (4, 2, 42), (2, 1, 600), (0, 2, 8)]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_against_float64(instruction_set: str, dtype: str, interleaved: bool) -> None:
    for tokens, heads, size in HEADS:
        x = normal(tokens, heads, size, dtype=dtype)
        positions = np.random.default_rng(1).integers(0, 5000, tokens)
        for options in (
            {},
            {"rotary_dim": size // 4 * 2 or 2, "theta": 1e6},
            {"inv_freq": np.geomspace(1, 1e-4, size // 2, dtype=np.float32)},
            {"attention_factor": 1.25},
        ):
            out = ops.rope(x, positions, interleaved=interleaved, **options)
            expected = reference.rope(x, positions, interleaved=interleaved, **options)
            assert out.dtype == DTYPES[dtype]
            assert_near(out, expected, absolute=3e-6)


def test_rope_is_right_far_away(instruction_set: str) -> None:
    """In float32 the angles of these positions would be off by 0.03 and more."""
    x = np.tile(np.float32([1, 0]).repeat(32), (6, 1, 1))  # cos, then sin
    positions = np.array([10**6, 999_983, -(10**6), 131_071, 2**20 + 1, 0])
    for theta in (1e4, 5e5):
        out = ops.rope(x, positions, theta=theta)
        expected = reference.rope(x, positions, theta=theta)
        assert np.abs(out - expected).max() < 2e-7
    positions = np.array([10**9, 2**31, -(2**31), 7, 8, 9])
    assert np.abs(ops.rope(x, positions) - reference.rope(x, positions)).max() < 2e-6


def test_rope_turns_back() -> None:
    x = normal(5, 3, 64)
    positions = np.arange(5) * 1000
    np.testing.assert_allclose(ops.rope(ops.rope(x, positions), -positions), x, atol=2e-6)


def calls() -> dict[str, Any]:
    """Each operator as a function of some of the same 300 rows."""
    weight = normal(96, seed=1)
    positions = np.random.default_rng(1).integers(0, 5000, 300)

    def rope(x: Any, begin: int, **options: Any) -> Any:
        heads = x.reshape(len(x), 3, 32)
        out = ops.rope(heads, positions[begin : begin + len(x)], **options)
        return out.reshape(len(x), 96)

    return {
        "rms_norm": lambda x, begin, **options: ops.rms_norm(x, weight, **options),
        "gated": lambda x, begin, **options: ops.rms_norm(x, weight, gate=x, **options),
        "gelu": lambda x, begin, **options: ops.swiglu(x, x, activation="gelu", **options),
        "silu": lambda x, begin, **options: ops.swiglu(x, x, **options),
        "rope": rope,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", calls())
def test_a_rows_bits_are_its_own(instruction_set: str, name: str, dtype: str) -> None:
    run = calls()[name]
    x = normal(300, 96, dtype=dtype)
    whole = run(x, 0, num_threads=1)
    for count in [1, 2, 3, 17, 128, 300]:
        for begin in (0, 300 - count):
            part = run(x[begin : begin + count], begin, num_threads=1 + count % 3)
            assert part.tobytes() == whole[begin : begin + count].tobytes()


@pytest.mark.parametrize("rows", [1, 4096])
def test_many_rows_on_many_threads(rows: int) -> None:
    x, weight = normal(rows, 512), normal(512, seed=1)
    assert ops.rms_norm(x, weight, num_threads=1).tobytes() == (
        ops.rms_norm(x, weight, num_threads=3).tobytes()
    )


def test_strides_and_places_to_write() -> None:
    room = np.full((6, 4, 40), np.nan, np.float32)
    x = room[::2, 1:3, 4:37]  # no two axes are one
    x[:] = normal(3, 2, 33)
    dense, weight = np.ascontiguousarray(x), normal(33, seed=1)
    wide = np.full((3, 5, 33), 7, np.float32)
    out = ops.rms_norm(x, weight, out=wide[:, 2:4])
    assert np.shares_memory(out, wide)
    assert out.tobytes() == ops.rms_norm(dense, weight).tobytes()
    assert (wide[:, [0, 1, 4]] == 7).all()
    assert ops.swiglu(x, x[::-1]).tobytes() == ops.swiglu(dense, dense[::-1].copy()).tobytes()
    positions = np.arange(12, dtype=np.int32)[::4]
    expected = ops.rope(dense, positions.astype(np.int64), rotary_dim=32)
    assert ops.rope(x, positions, rotary_dim=32).tobytes() == expected.tobytes()
    assert (expected[..., 32] == dense[..., 32]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("options", [(), ("residual",), ("gate",)])
def test_a_norm_of_float32_may_be_rounded(
    instruction_set: str, dtype: str, options: tuple[str, ...]
) -> None:
    """Once, at the end: the bits of the float32 norm, rounded."""
    for length in (1, 7, 64, 300):
        x, weight = normal(5, length), normal(length, seed=1)
        given = {name: normal(5, length, seed=2) for name in options}
        out = np.zeros((5, length), DTYPES[dtype])
        got = ops.rms_norm(x, weight, out=out, **given)
        expected = ops.rms_norm(x, weight, **given)
        if options == ("residual",):
            assert got[1].tobytes() == expected[1].tobytes()
            got, expected = got[0], expected[0]
        assert got is out
        assert out.tobytes() == expected.astype(DTYPES[dtype]).tobytes()


def test_in_place() -> None:
    x, residual, weight = normal(9, 40), normal(9, 40, seed=1), normal(40, seed=2)
    y, h = ops.rms_norm(x, weight, residual=residual)
    for out, sums in ((0, 1), (1, 0)):  # which of them x and residual become
        arrays = [x.copy(), residual.copy()]
        given = ops.rms_norm(
            arrays[0], weight, residual=arrays[1], out=arrays[out], residual_out=arrays[sums]
        )
        assert given[0] is arrays[out]
        assert given[1] is arrays[sums]
        assert arrays[out].tobytes() == y.tobytes()
        assert arrays[sums].tobytes() == h.tobytes()
    gate = x.copy()
    expected = ops.swiglu(gate, residual)
    assert ops.swiglu(gate, residual, out=gate).tobytes() == expected.tobytes()
    for interleaved in (False, True):
        heads, positions = normal(3, 2, 41), np.arange(3)
        expected = ops.rope(heads, positions, rotary_dim=38, interleaved=interleaved)
        ops.rope(heads, positions, rotary_dim=38, interleaved=interleaved, out=heads)
        assert heads.tobytes() == expected.tobytes()


X, W, H = normal(2, 8), normal(8, seed=1), normal(2, 3, 8)
P = np.arange(2)
READ_ONLY = X.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.rms_norm(X, W[:7]), ValueError, "rms_norm: weight: got shape [7]"),
        (lambda: ops.rms_norm(X[:, :0], W), ValueError, "rms_norm: x: got shape [2, 0]"),
        (lambda: ops.rms_norm(X.T, W[:2]), ValueError, "rms_norm: x: got a last axis of stride"),
        (lambda: ops.rms_norm(X, W, eps=-1), ValueError, "rms_norm: eps: got -1"),
        (lambda: ops.rms_norm(X, W, eps=np.nan), ValueError, "rms_norm: eps: got nan"),
        (
            lambda: ops.rms_norm(X, W, eps=None),  # type: ignore[arg-type]
            TypeError,
            "rms_norm: eps: got None",
        ),
        (
            lambda: ops.rms_norm(X, W, weight_offset=np.inf),
            ValueError,
            "rms_norm: weight_offset: got inf",
        ),
        (
            lambda: ops.rms_norm(X, W, residual=X[:1]),
            ValueError,
            "rms_norm: residual: got shape [1, 8], expected [2, 8]",
        ),
        (
            lambda: ops.rms_norm(X, W, gate=X.astype(np.float16)),
            TypeError,
            "rms_norm: gate: got float16, expected float32, the dtype of x",
        ),
        (
            lambda: ops.rms_norm(X.astype(np.float16), W, out=X.copy()),
            TypeError,
            "rms_norm: out: got float32, expected float16, the dtype of x",
        ),
        (
            lambda: ops.rms_norm(X, W, out=X.view(np.float16)[:, :8]),
            ValueError,
            "rms_norm: out: got memory that overlaps x's",
        ),
        (lambda: ops.rms_norm(X, W, out=READ_ONLY), ValueError, "rms_norm: out: got a read-only"),
        (
            lambda: ops.rms_norm(X[:, 1:], W[1:], out=X[:, :-1]),
            ValueError,
            "rms_norm: out: got memory that overlaps x's",
        ),
        (
            lambda: ops.rms_norm(X, W, residual_out=X),
            ValueError,
            "rms_norm: residual_out: got an array, expected none",
        ),
        (
            lambda: ops.rms_norm(X, W, residual=X, out=H[0, :2], residual_out=H[0, :2]),
            ValueError,
            "rms_norm: residual_out: got memory that overlaps out's",
        ),
        (lambda: ops.rms_norm([1.0], W), TypeError, "rms_norm: x: got list"),  # type: ignore[arg-type]
        (lambda: ops.swiglu(X, X[0]), ValueError, "swiglu: up: got shape [8]"),
        (
            lambda: ops.swiglu(X, X, activation="relu"),  # type: ignore[arg-type]
            ValueError,
            'swiglu: activation: got "relu", expected "silu", "gelu", "gelu_tanh" or "sigmoid"',
        ),
        (lambda: ops.swiglu(X, X, num_threads=0), ValueError, "swiglu: num_threads: got 0"),
        (lambda: ops.rope(X, P), ValueError, "rope: x: got shape [2, 8]"),
        (lambda: ops.rope(H, P[:1]), ValueError, "rope: positions: got shape [1]"),
        (lambda: ops.rope(H, P / 2), TypeError, "rope: positions: got dtype float64"),
        (
            lambda: ops.rope(H, P * 2**32),
            IndexError,
            "rope: positions: got 4294967296 at token 1, expected -2147483648 to 2147483648",
        ),
        (lambda: ops.rope(H, P, theta=0), ValueError, "rope: theta: got 0"),
        (lambda: ops.rope(H, P, rotary_dim=5), ValueError, "rope: rotary_dim: got 5"),
        (lambda: ops.rope(H, P, rotary_dim=0), ValueError, "rope: rotary_dim: got 0, expected"),
        (lambda: ops.rope(H, P, rotary_dim=-1), ValueError, "rope: rotary_dim: got -1, expected"),
        (lambda: ops.rope(H, P, rotary_dim=0), ValueError, "rope: rotary_dim: got"),
        (lambda: ops.rope(H, P, rotary_dim=10), ValueError, "rope: rotary_dim: got 10"),
        (lambda: ops.rope(H[..., :7], P), ValueError, "rope: rotary_dim: got 7"),
        (lambda: ops.rope(H, P, inv_freq=W), ValueError, "rope: inv_freq: got shape [8]"),
        (
            lambda: ops.rope(H, P, inv_freq=np.float32([1, 1, np.nan, 1])),
            ValueError,
            "rope: inv_freq: got nan at 2",
        ),
        (
            lambda: ops.rope(H, P, attention_factor=np.nan),
            ValueError,
            "rope: attention_factor: got nan",
        ),
        (
            lambda: ops.rope(H, P, out=H[::-1]),
            ValueError,
            "rope: out: got memory that overlaps x's",
        ),
    ],
)
def test_errors_say_what_is_wrong(call: Any, error: type[Exception], message: str) -> None:
    before = X.copy(), H.copy()
    assert_raises(call, error, message)
    assert (before[0] == X).all()
    assert (before[1] == H).all()
