"""quire.ops.causal_conv1d and gated_delta_rule against float64, and that no cut changes a bit."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import DTYPES
from operator_cases import assert_near, assert_raises, normal

from quire import ops
from quire.ops import reference

Problem = dict[str, Any]


def conv_problem(lengths: list[int], channels: int, taps: int, dtype: str) -> Problem:
    return {
        "x": normal(sum(lengths), channels, dtype=dtype),
        "weight": normal(channels, taps, dtype=dtype, seed=1),
        "state": normal(len(lengths), channels, taps - 1, dtype=dtype, seed=2),
        "bias": normal(channels, dtype=dtype, seed=3),
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    }


def delta_problem(
    lengths: list[int], heads: tuple[int, int], sizes: tuple[int, int], dtype: str = "float32"
) -> Problem:
    """As in a model: q and k of length 1, decays and betas from sigmoids."""
    tokens, (key_heads, value_heads) = sum(lengths), heads
    q, k = (normal(tokens, key_heads, sizes[0], seed=seed) for seed in (1, 2))
    q, k = (array / np.linalg.norm(array, axis=-1, keepdims=True) for array in (q, k))
    state = normal(len(lengths), value_heads, *sizes, seed=6) * 0.3
    return {
        "q": q.astype(DTYPES[dtype]),
        "k": k.astype(DTYPES[dtype]),
        "v": normal(tokens, value_heads, sizes[1], dtype=dtype, seed=3),
        "g": -np.exp(normal(tokens, value_heads, seed=4)),
        "beta": (1 / (1 + np.exp(-normal(tokens, value_heads, seed=5)))).astype(DTYPES[dtype]),
        "state": state,
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]),
    }


def run(operator: str, problem: Problem, **options: Any) -> tuple[Any, Any]:
    """Out, and the state after it."""
    state = problem["state"].copy()
    out = getattr(ops, operator)(**{**problem, "state": state}, **options)
    return out, state


@pytest.mark.parametrize("dtype", DTYPES)
def test_conv_against_float64(instruction_set: str, dtype: str) -> None:
    for lengths in ([1], [0, 3, 1, 0], [7, 64, 2]):
        for channels, taps in ((1, 1), (5, 2), (300, 4), (64, 7), (600, 16)):
            problem = conv_problem(lengths, channels, taps, dtype)
            for activation in ("silu", None):
                out, state = run("causal_conv1d", problem, activation=activation)
                expected, after = reference.causal_conv1d(**problem, activation=activation)
                assert out.dtype == DTYPES[dtype]
                assert_near(out, expected, absolute=1e-5)
                # what has gone in, exactly
                np.testing.assert_array_equal(state.astype(np.float64), after)


SIZES = [((1, 1), (1, 1)), ((2, 4), (5, 7)), ((1, 2), (64, 64)), ((2, 2), (128, 96))]
SIZES += [((2, 6), (60, 130))]


@pytest.mark.parametrize("dtype", DTYPES)
def test_delta_rule_against_float64(instruction_set: str, dtype: str) -> None:
    for lengths in ([1], [0, 9, 1], [70]):
        for heads, sizes in SIZES:
            problem = delta_problem(lengths, heads, sizes, dtype)
            for scale in (None, 0.7):
                out, state = run("gated_delta_rule", problem, scale=scale)
                expected, after = reference.gated_delta_rule(**problem, scale=scale)
                assert out.dtype == DTYPES[dtype]
                assert_near(out, expected, absolute=1e-5)
                assert_near(state, after, absolute=1e-5)


@pytest.mark.parametrize("decay", [0.1, 1, 10])
def test_delta_rule_over_many_tokens(decay: float) -> None:
    """Errors do not grow: their root mean square is within 2e-6, of weak and strong gates."""
    problem = delta_problem([2048], (2, 4), (64, 64))
    problem["g"] = problem["g"] * np.float32(decay)
    out, state = run("gated_delta_rule", problem)
    expected, after = reference.gated_delta_rule(**problem)
    for got, right in ((out, expected), (state, after)):
        assert np.sqrt(((got - right) ** 2).mean() / (right**2).mean()) < 2e-6


def test_delta_rule_against_transformers() -> None:
    torch = pytest.importorskip("torch")
    model = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    problem = delta_problem([130], (4, 4), (32, 48))
    given = {name: torch.from_numpy(problem[name])[None] for name in ("q", "k", "v", "g", "beta")}
    expected, after = model.torch_recurrent_gated_delta_rule(
        given["q"],
        given["k"],
        given["v"],
        given["g"],
        given["beta"],
        initial_state=torch.from_numpy(problem["state"]),
        output_final_state=True,
    )
    out, state = run("gated_delta_rule", problem)
    np.testing.assert_allclose(out, expected[0].numpy(), atol=2e-6)
    np.testing.assert_allclose(state, after.numpy(), atol=5e-6)


def piece_of(problem: Problem, begin: int, end: int, state: Any) -> Problem:
    """Tokens [begin, end) of the only sequence."""
    tokens = len(problem.get("x", problem.get("q")))
    piece = {
        name: array[begin:end] if name not in ("weight", "bias") and len(array) == tokens else array
        for name, array in problem.items()
    }
    return {**piece, "state": state, "cu_seqlens": None}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("operator", ["causal_conv1d", "gated_delta_rule"])
def test_no_cut_changes_a_bit(instruction_set: str, operator: str, dtype: str) -> None:
    problem = (
        conv_problem([150], 530, 4, dtype)
        if operator == "causal_conv1d"
        else delta_problem([150], (2, 4), (40, 72), dtype)
    )
    whole, after = run(operator, problem, num_threads=1)
    for cuts in ([64, 128], [1, 2, 3, 149], [77], range(1, 150)):
        borders = [0, *cuts, 150]
        state = problem["state"].copy()
        for begin, end in pairwise(borders):
            piece = piece_of(problem, begin, end, state)
            out = getattr(ops, operator)(**piece, num_threads=1 + begin % 3)
            assert out.tobytes() == whole[begin:end].tobytes()
        assert state.tobytes() == after.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_keep_their_sign(dtype: str) -> None:
    state = np.zeros((1, 3, 1), DTYPES[dtype])
    ops.causal_conv1d(-np.zeros((2, 3), DTYPES[dtype]), normal(3, 2, dtype=dtype), state=state)
    assert np.signbit(state.astype(np.float32)).all()


@pytest.mark.parametrize("operator", ["causal_conv1d", "gated_delta_rule"])
def test_a_sequences_bits_are_its_own(operator: str) -> None:
    lengths = [5, 1, 0, 33]
    problem = (
        conv_problem(lengths, 270, 4, "float32")
        if operator == "causal_conv1d"
        else delta_problem(lengths, (2, 4), (40, 72))
    )
    whole, after = run(operator, problem, num_threads=3)
    for i, (begin, end) in enumerate(pairwise(problem["cu_seqlens"])):
        state = problem["state"][i : i + 1].copy()
        out = getattr(ops, operator)(**piece_of(problem, begin, end, state), num_threads=1)
        assert out.tobytes() == whole[begin:end].tobytes()
        assert state.tobytes() == after[i : i + 1].tobytes()


@pytest.mark.parametrize("operator", ["causal_conv1d", "gated_delta_rule"])
def test_states_stay_where_they_are(instruction_set: str, operator: str) -> None:
    """Sequences take some of more states: the bits of states in order, and others untouched."""
    problem = (
        conv_problem([5, 1, 33], 270, 4, "bfloat16")
        if operator == "causal_conv1d"
        else delta_problem([5, 1, 33], (2, 4), (40, 72))
    )
    expected, after = run(operator, problem)
    slots = np.array([4, 0, 3])
    state = np.full((6, *problem["state"].shape[1:]), np.nan, problem["state"].dtype)
    state[slots] = problem["state"]
    out, found = run(operator, {**problem, "state": state}, state_indices=slots, num_threads=3)
    assert out.tobytes() == expected.tobytes()
    assert found[slots].tobytes() == after.tobytes()
    assert found[[1, 2, 5]].tobytes() == state[[1, 2, 5]].tobytes()
    right = getattr(reference, operator)(**{**problem, "state": state}, state_indices=slots)
    assert_near(out, right[0], absolute=1e-5)
    assert_near(found[slots], right[1][slots], absolute=1e-5)
    assert np.isnan(right[1][[1, 2, 5]]).all()


def test_a_token_of_each_needs_no_lengths() -> None:
    problem = delta_problem([1, 1, 1], (1, 2), (8, 8))
    expected = run("gated_delta_rule", problem)
    got = run("gated_delta_rule", {**problem, "cu_seqlens": None})
    assert [array.tobytes() for array in got] == [array.tobytes() for array in expected]


def test_strides_and_places_to_write() -> None:
    problem = delta_problem([6, 3], (2, 2), (16, 24))
    expected, after = run("gated_delta_rule", problem)
    qkv = np.full((9, 2, 100), np.nan, np.float32)  # as one product leaves them
    q, k, v = qkv[..., :16], qkv[..., 20:36], qkv[..., 40:64]
    q[:], k[:], v[:] = problem["q"], problem["k"], problem["v"]
    room = np.full((2, 3, 16, 30), 7, np.float32)
    state = room[:, 1:, :, 3:27]
    state[:] = problem["state"]
    out = np.full((9, 4, 24), 7, np.float32)
    strided = {**problem, "q": q, "k": k, "v": v, "state": state}
    given = out[:, 1:3]
    assert ops.gated_delta_rule(**strided, out=given) is given
    assert given.tobytes() == expected.tobytes()
    assert state.tobytes() == after.tobytes()
    assert (out[:, [0, 3]] == 7).all()
    assert (room[:, 0] == 7).all()
    assert (room[:, 1:, :, :3] == 7).all()
    assert (room[:, 1:, :, 27:] == 7).all()
    conv = conv_problem([9], 40, 4, "bfloat16")
    exact = {**conv, "state": conv["state"].astype(np.float32)}  # float32 holds any x
    (out, state), (same, state32) = run("causal_conv1d", conv), run("causal_conv1d", exact)
    assert out.tobytes() == same.tobytes()
    np.testing.assert_array_equal(state.astype(np.float32), state32)


def lengths(*borders: int) -> Problem:
    return {"cu_seqlens": np.array(borders)}


CONV = conv_problem([2, 3], 8, 4, "float32")
DELTA = delta_problem([2, 3], (2, 4), (8, 6))
READ_ONLY = DELTA["state"].copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("operator", "changed", "error", "message"),
    [
        ("causal_conv1d", {"x": CONV["x"][0]}, ValueError, "x: got shape [8]"),
        ("causal_conv1d", {"weight": CONV["weight"][:7]}, ValueError, "weight: got shape [7, 4]"),
        (
            "causal_conv1d",
            {"weight": normal(8, 17), "state": normal(2, 8, 16)},
            ValueError,
            "weight: got 17 numbers of a channel, expected 1 to 16",
        ),
        ("causal_conv1d", {"state": normal(2, 8, 4)}, ValueError, "state: got shape [2, 8, 4]"),
        (
            "causal_conv1d",
            {"state": CONV["state"].astype(np.float16)},
            TypeError,
            "state: got float16, expected float32, or float32 as x",
        ),
        ("causal_conv1d", {"bias": CONV["bias"][:1]}, ValueError, "bias: got shape [1]"),
        (
            "causal_conv1d",
            lengths(0, 6, 5),
            ValueError,
            "cu_seqlens: got 6 at 1, expected 0 to 5, T, never falling",
        ),
        ("causal_conv1d", lengths(1, 2, 5), ValueError, "cu_seqlens: got 1 at 0"),
        ("causal_conv1d", lengths(0, 2, 4), ValueError, "cu_seqlens: got 4 at 2"),
        ("causal_conv1d", lengths(0, 5), ValueError, "cu_seqlens: got shape [2]"),
        (
            "causal_conv1d",
            {"cu_seqlens": None},
            ValueError,
            "cu_seqlens: got None with 5 tokens of 2 sequences",
        ),
        (
            "causal_conv1d",
            {"state_indices": np.array([0, 2])},
            IndexError,
            "state_indices: got 2 at 1, expected 0 to 1",
        ),
        (
            "gated_delta_rule",
            {"state_indices": np.array([-1, 0])},
            IndexError,
            "state_indices: got -1 at 0, expected 0 to 1",
        ),
        (
            "gated_delta_rule",
            {"state_indices": np.array([1, 1])},
            ValueError,
            "state_indices: got 1 at 0 and at 1, expected different ones",
        ),
        (
            "gated_delta_rule",
            {"state_indices": np.array([1])},
            ValueError,
            "cu_seqlens: got shape [3], expected [2]",
        ),
        ("causal_conv1d", {"activation": "relu"}, ValueError, 'activation: got "relu"'),
        ("causal_conv1d", {"out": CONV["x"]}, ValueError, "out: got memory that overlaps x's"),
        ("gated_delta_rule", {"k": DELTA["k"][:, :1]}, ValueError, "k: got shape [5, 1, 8]"),
        ("gated_delta_rule", {"v": normal(5, 3, 6)}, ValueError, "v: got 3 heads, expected a mul"),
        ("gated_delta_rule", {"v": normal(4, 4, 6)}, ValueError, "v: got shape [4, 4, 6]"),
        ("gated_delta_rule", {"g": normal(5, 2)}, ValueError, "g: got shape [5, 2]"),
        ("gated_delta_rule", {"beta": normal(5)}, ValueError, "beta: got shape [5]"),
        (
            "gated_delta_rule",
            {"state": DELTA["state"].astype(np.float16)},
            TypeError,
            "state: got float16, expected float32",
        ),
        ("gated_delta_rule", {"state": READ_ONLY}, ValueError, "state: got a read-only array"),
        ("gated_delta_rule", {"scale": np.nan}, ValueError, "scale: got nan"),
        ("gated_delta_rule", {"out": DELTA["v"]}, ValueError, "out: got memory that overlaps v's"),
        ("gated_delta_rule", {"q": None}, TypeError, "q: got NoneType"),
    ],
)
def test_errors_say_what_is_wrong(
    operator: str, changed: Problem, error: type[Exception], message: str
) -> None:
    problem = CONV if operator == "causal_conv1d" else DELTA
    before = {name: array.copy() for name, array in problem.items()}
    assert_raises(
        lambda: getattr(ops, operator)(**{**problem, **changed}), error, f"{operator}: {message}"
    )
    assert all(problem[name].tobytes() == array.tobytes() for name, array in before.items())
