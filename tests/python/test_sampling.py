"""quire.ops.sample against float64 with the same random numbers, and chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import DTYPES
from operator_cases import assert_raises, normal

from quire import ops
from quire.ops import reference

FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.6},
    {"top_k": 1},
    {"top_k": 7, "temperature": 1.7},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.02, "temperature": 0.8},
    {"top_k": 10**9, "top_p": 0.9999},
]


def check(logits: Any, options: dict[str, Any], *, positions: int = 40) -> None:
    """Tokens are those of float64, but where the random number lies on a border."""
    rows = np.tile(logits, (positions, 1)).astype(logits.dtype)
    tokens = ops.sample(rows, seed=3, position=range(positions), **options)
    p = reference.sample_probabilities(logits, **options)
    borders = np.concatenate([[0], np.cumsum(p)])
    same = 0
    for position, token in enumerate(tokens):
        u = reference.philox_uniform(3, position)
        assert p[token] > 0
        assert borders[token] - 1e-5 <= u <= borders[token + 1] + 1e-5
        same += token == reference.sample(logits, seed=3, position=position, **options)
    assert same >= positions - 1


def test_philox_is_philox() -> None:
    """The first words of the test vectors of Random123, as 53 bits of a number of [0, 1)."""
    assert reference.philox_uniform(0, 0) == (0x6627E8D5E169C58D >> 11) * 2.0**-53


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_against_float64(instruction_set: str, options: dict[str, Any]) -> None:
    for size in (1, 5, 33, 1000, 3001):
        check(normal(size, seed=size) * 3, options)
    check(normal(500, dtype="bfloat16") * 8, options)


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_odd_logits(options: dict[str, Any]) -> None:
    out = normal(300, seed=5)
    out[::3] = -np.inf
    check(out, options)
    check(np.zeros(2500, np.float32), options)  # all equal
    check(np.repeat(normal(40, seed=1), 60), options)  # many of each
    alone = np.full(200, -np.inf, np.float32)
    alone[77] = -3e38
    check(alone, options, positions=3)
    check(np.float32([3e38, -3e38, 0, 3e38]), options, positions=9)
    # so hot that all tokens that are there are alike, and those that are out stay out
    check(out, {**options, "temperature": 1e46})
    check(out, {**options, "temperature": 1e300})


def test_equal_logits() -> None:
    x = np.float32([1, 5, 2, 5, 5, 0])
    of = [{"top_k": 2}, {"top_p": 0.5}, {"top_k": 2, "top_p": 0.4}, {"temperature": 0}]
    # all that equal the last of top_k stay; top_p takes the lower ids
    for options, left in zip(of, [{1, 3, 4}, {1, 3}, {1, 3}, {1}], strict=True):
        tokens = ops.sample(np.tile(x, (300, 1)), seed=0, position=range(300), **options)
        assert set(tokens.tolist()) == left


def test_penalties_bias_and_mask(instruction_set: str) -> None:
    logits = normal(96, seed=7) * 2
    prompt, output = np.array([3, 9, 9, 40, -1]), np.array([9, 9, 5, -1, 95, 9])
    bias = normal(96, seed=8)
    allowed = np.arange(96) % 5 != 2
    mask = np.packbits(allowed, bitorder="little").view(np.int32)[None]
    penalties = {"repetition_penalty": 1.4, "presence_penalty": 0.7, "frequency_penalty": 0.3}
    for temperature in (0.0, 0.9):  # they apply to the likeliest token too
        options = {**penalties, "temperature": temperature, "top_p": 0.95}
        for position in range(60):
            got = ops.sample(
                logits[None],
                seed=11,
                position=position,
                prompt_ids=prompt[None],
                output_ids=output[None].astype(np.int32),
                bias=bias,
                mask=mask,
                **options,
            )
            expected = reference.sample(
                logits,
                seed=11,
                position=position,
                prompt_ids=prompt,
                output_ids=output,
                bias=bias,
                allowed=allowed,
                **options,
            )
            assert got.tolist() == [expected]
    # one of output_ids loses the most: it is no longer the likeliest
    x = np.float32([[1.0, 1.1, 0.9]])
    kept = {"seed": 0, "position": 0, "temperature": 0}
    assert ops.sample(x, **kept).tolist() == [1]
    assert ops.sample(x, output_ids=np.array([[1]]), presence_penalty=0.2, **kept).tolist() == [0]


def test_against_transformers() -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = normal(2000, seed=9) * 3
    ids = np.array([5, 100, 5, 1999])
    scores = process.RepetitionPenaltyLogitsProcessor(1.3)(
        torch.tensor(ids)[None], torch.from_numpy(logits)[None].clone()
    )
    for warper in (
        process.TemperatureLogitsWarper(0.7),
        process.TopKLogitsWarper(60),
        process.TopPLogitsWarper(0.92),
        process.MinPLogitsWarper(0.03),
    ):
        scores = warper(None, scores)
    expected = torch.softmax(scores[0].double(), dim=0).numpy()
    options: dict[str, Any] = {"temperature": 0.7, "top_k": 60, "top_p": 0.92, "min_p": 0.03}
    options |= {"repetition_penalty": 1.3}
    got = reference.sample_probabilities(logits, prompt_ids=ids, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    tokens = ops.sample(
        np.tile(logits, (500, 1)),
        seed=1,
        position=range(500),
        prompt_ids=np.tile(ids, (500, 1)),
        **options,
    )
    assert (expected[tokens] > 0).all()


def chi_square(counts: Any, p: Any, draws: int) -> float:
    return float(((counts - draws * p) ** 2 / (draws * p)).sum())


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 9, "top_p": 0.97}])
def test_tokens_have_their_probabilities(options: dict[str, Any]) -> None:
    logits = normal(16, seed=4)
    p = reference.sample_probabilities(logits, **options)
    draws = 20000
    rows = np.tile(logits, (draws, 1))
    for seeds, positions in ((0, range(draws)), (range(draws), 5), (2**40, range(draws))):
        tokens = ops.sample(rows, seed=seeds, position=positions, **options)
        counts = np.bincount(tokens, minlength=16)
        assert (counts[p == 0] == 0).all()
        left = p > 0
        # 15 degrees of freedom at most: above 44 once in 10,000 such tests, and seeds are fixed
        assert chi_square(counts[left], p[left], draws) < 44
    # one token and the next know nothing of each other
    pairs = np.bincount(tokens[:-1] * 16 + tokens[1:], minlength=256)
    both = np.multiply.outer(p, p).ravel()
    assert chi_square(pairs[both > 0], both[both > 0], draws - 1) < 350


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_token_is_its_own(dtype: str) -> None:
    logits = normal(50, 5000, dtype=dtype) * 4
    each: dict[str, Any] = {
        "seed": np.arange(50) % 7,
        "position": np.arange(50, dtype=np.int64) * 1000,
        "temperature": np.linspace(0, 2, 50),
        "top_k": [0, 3, 400, 0, 1] * 10,
        "top_p": np.linspace(0.5, 1, 50),
        "min_p": (np.arange(50) % 3) / 10,
    }
    wide = np.concatenate([logits, logits[:, :9]], axis=1)
    whole = ops.sample(wide[:, :5000], **each, num_threads=1)
    assert whole.dtype == np.int64
    assert whole.tolist() == ops.sample(logits, **each, num_threads=3).tolist()
    for row in range(50):
        one = {name: values[row] for name, values in each.items()}
        assert ops.sample(logits[row : row + 1], **one).tolist() == [whole[row]]
    assert ops.sample(logits[:0], seed=0, position=0).shape == (0,)


def test_a_large_vocabulary() -> None:
    logits = normal(248_320, seed=12) * 2
    for options in FILTERS:
        check(logits, options, positions=4)


def test_tokens_go_where_out_says() -> None:
    logits = normal(6, 50)
    expected = ops.sample(logits, seed=1, position=2)
    out = np.full(6, -1)
    assert ops.sample(logits, seed=1, position=2, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert ops.sample(logits[:0], seed=1, position=2, out=out[:0]).shape == (0,)
    one = np.full((1, 9), -1)[:, ::9]  # a step that is never taken
    assert ops.sample(logits[:1], seed=1, position=2, out=one[0]).tolist() == [expected[0]]
    torch = pytest.importorskip("torch")
    tensor = torch.full((6,), -1)
    assert ops.sample(torch.from_numpy(logits), seed=1, position=2, out=tensor) is tensor
    assert tensor.tolist() == expected.tolist()


def test_a_refused_out_is_not_written() -> None:
    out = np.full(2, -7)
    with pytest.raises(ValueError, match=r"^sample: logits: got nan"):
        ops.sample(BAD, seed=0, position=0, out=out)
    assert out.tolist() == [-7, -7]


def test_results_are_torchs() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.randn(3, 50)
    tokens = ops.sample(logits, seed=0, position=0)
    assert (type(tokens), tokens.dtype) == (torch.Tensor, torch.int64)
    assert tokens.tolist() == ops.sample(logits.numpy(), seed=0, position=0).tolist()


class OfTwo:
    """Says that it has two numbers, and has three."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter([1, 2, 3])


X = normal(2, 40)
ONE: dict[str, Any] = {"seed": 0, "position": 0}
FROZEN = np.zeros(2, np.int64)
FROZEN.flags.writeable = False
BAD = X.copy()
BAD[1, 30] = np.nan
OUT = np.full((2, 40), -np.inf, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.sample(X[0], **ONE), ValueError, "sample: logits: got shape [40]"),
        (
            lambda: ops.sample(X[0], seed=[1, 2], position="a"),
            ValueError,
            "sample: logits: got shape [40]",
        ),
        (lambda: ops.sample(BAD, **ONE), ValueError, "sample: logits: got nan at [1, 30]"),
        (lambda: ops.sample(OUT, **ONE), ValueError, "sample: logits: got no token that row"),
        (
            lambda: ops.sample(X, mask=np.zeros((2, 2), np.int32), **ONE),
            ValueError,
            "sample: mask: got no token that row",
        ),
        (
            lambda: ops.sample(X, mask=np.zeros((2, 1), np.int32), **ONE),
            ValueError,
            "sample: mask: got shape [2, 1], expected [2, 2]",
        ),
        (
            lambda: ops.sample(X, mask=np.zeros((2, 2), np.int64), **ONE),
            TypeError,
            "sample: mask: got int64",
        ),
        (lambda: ops.sample(X, seed=0.5, position=0), TypeError, "sample: seed: got float"),
        (
            lambda: ops.sample(X, seed=[0, 1, 2], position=0),
            ValueError,
            "sample: seed: got 3 values, expected one, or 2, B of logits",
        ),
        (
            lambda: ops.sample(X, temperature=[1, -1], **ONE),
            ValueError,
            "sample: temperature: got -1 of row 1, expected a finite number >= 0",
        ),
        (
            lambda: ops.sample(X, top_k=OfTwo(), **ONE),
            ValueError,
            "sample: top_k: got 3 values from 2, expected as many as it says",
        ),
        (lambda: ops.sample(X, top_k=-1, **ONE), ValueError, "sample: top_k: got -1 of row 0"),
        (lambda: ops.sample(X, top_p=0, **ONE), ValueError, "sample: top_p: got 0 of row 0"),
        (lambda: ops.sample(X, top_p=np.nan, **ONE), ValueError, "sample: top_p: got nan"),
        (lambda: ops.sample(X, min_p=1.5, **ONE), ValueError, "sample: min_p: got 1.5 of row 0"),
        (
            lambda: ops.sample(X, repetition_penalty=0, **ONE),
            ValueError,
            "sample: repetition_penalty: got 0 of row 0",
        ),
        (
            lambda: ops.sample(X, repetition_penalty=1e-50, **ONE),
            ValueError,
            "sample: repetition_penalty: got 1e-50 of row 0, expected a finite float32 > 0",
        ),
        (
            lambda: ops.sample(X, presence_penalty=[0, -1e39], **ONE),
            ValueError,
            "sample: presence_penalty: got -1e+39 of row 1, expected a finite float32",
        ),
        (
            lambda: ops.sample(X, frequency_penalty=1e39, **ONE),
            ValueError,
            "sample: frequency_penalty: got 1e+39 of row 0, expected a finite float32",
        ),
        (
            lambda: ops.sample(X, out=np.empty(2, np.int32), **ONE),
            TypeError,
            "sample: out: got int32, expected int64",
        ),
        (
            lambda: ops.sample(X, out=np.empty(3, np.int64), **ONE),
            ValueError,
            "sample: out: got shape [3], expected [2]",
        ),
        (
            lambda: ops.sample(X, out=np.empty(4, np.int64)[::2], **ONE),
            ValueError,
            "sample: out: got a stride of 16 bytes in axis 0, expected 8, a contiguous array",
        ),
        (lambda: ops.sample(X, out=FROZEN, **ONE), ValueError, "sample: out: got a read-only"),
        (lambda: ops.sample(X, temperature="1", **ONE), TypeError, "sample: temperature: got str"),
        (
            lambda: ops.sample(X, output_ids=np.array([[0], [40]]), **ONE),
            IndexError,
            "sample: output_ids: got 40 at [1, 0], expected less than 40, V of logits",
        ),
        (
            lambda: ops.sample(X, prompt_ids=np.array([0, 4]), **ONE),
            ValueError,
            "sample: prompt_ids: got shape [2]",
        ),
        (lambda: ops.sample(X, bias=X[0, :9], **ONE), ValueError, "sample: bias: got shape [9]"),
    ],
)
def test_errors_say_what_is_wrong(call: Any, error: type[Exception], message: str) -> None:
    assert_raises(call, error, message)
