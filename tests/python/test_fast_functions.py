"""Functions that skip pybind11's dispatcher: arguments, errors and references as of any other."""

from __future__ import annotations

import gc
import pickle
import sys
from typing import Any

import numpy as np
import pytest

import quire

K, V = np.random.default_rng(0).standard_normal((2, 4, 16, 2, 8), np.float32)
ARGUMENTS: dict[str, Any] = {
    "q": np.ones((1, 4, 8), np.float32),
    "k_cache": K,
    "v_cache": V,
    "block_tables": np.array([[2, 1]], np.int32),
    "seq_lens": np.array([20], np.int32),
}
attention: Any = quire.paged_attention  # these calls are wrong in their types as well
EXPECTED = attention(*ARGUMENTS.values(), causal=False, scale=0.5)
FUNCTIONS: list[Any] = [quire.paged_attention, quire.attend, quire.write_kv]


def test_by_position_and_by_name() -> None:
    for by_position in range(len(ARGUMENTS) + 1):
        given = list(ARGUMENTS.values())[:by_position]
        named = dict(list(ARGUMENTS.items())[by_position:])
        for options in ({"scale": 0.5, "causal": False}, {"causal": False, "scale": 0.5}):
            got = attention(*given, **options, **named)
            np.testing.assert_array_equal(got, EXPECTED)


def test_names_made_at_run_time() -> None:
    """Those are not interned: another object of the same text."""
    names = ["".join(list(name)) for name in ARGUMENTS]
    assert not any(a is b for a, b in zip(names, ARGUMENTS, strict=True) if len(a) > 1)
    named = dict(zip(names, ARGUMENTS.values(), strict=True))
    np.testing.assert_array_equal(
        attention(**named, **{"".join(["sca", "le"]): 0.5, "causal": False}), EXPECTED
    )


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [
        ([], {}, "arguments: got 0 by position, expected"),
        ([0] * 4, {}, "arguments: got 4 by position, expected"),
        ([0] * 6, {}, "arguments: got 6 by position, expected"),
        ([0] * 5, {"q": 0}, "arguments: got 5 by position and q, expected"),
        ([0] * 5, {"scales": 0}, "scales: got an argument of this name, expected"),
        ([0] * 5, {"scal": 0}, "scal: got an argument of this name, expected"),
        ([0] * 4, {"ql": 0, "seq_lens": 0}, "ql: got an argument of this name, expected"),
    ],
)
def test_calls_that_do_not_fit(given: list[int], named: dict[str, int], message: str) -> None:
    with pytest.raises(TypeError, match=rf"^paged_attention: {message} paged_attention\(q, "):
        attention(*given, **named)


def test_references_are_neither_kept_nor_lost() -> None:
    class Refused:
        """No array."""

    objects = [*ARGUMENTS.values(), Refused(), np.dtype("float32"), "NHD", None, True]

    def counts_after_calls() -> list[int]:
        for _ in range(100):
            attention(**ARGUMENTS, causal=True, layout="NHD", out=None, return_lse=True)
            with pytest.raises(TypeError, match="sinks: got Refused, expected an array"):
                attention(**ARGUMENTS, sinks=objects[5])
            with pytest.raises(TypeError, match="wrong: got an argument of this name"):
                attention(**ARGUMENTS, wrong=objects[5])
        while gc.collect() > 0:  # what is let go of may have let go of more
            pass
        return [sys.getrefcount(thing) for thing in objects]

    # The first round is not compared: in it goes what others have left behind, as torch.compile
    # does, and None is everybody's.
    before = counts_after_calls()
    after = counts_after_calls()
    changes = [a - b for a, b in zip(after, before, strict=True)]
    assert max(map(abs, changes)) < 50, changes


def test_exceptions_of_every_kind_pass() -> None:
    class Interrupted:
        def __index__(self) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attention(**ARGUMENTS, sliding_window=Interrupted())
    huge = np.broadcast_to(np.float32(0), (2**45, 4, 8))  # its output has 2 ** 52 bytes
    with pytest.raises(MemoryError):
        attention(**{**ARGUMENTS, "q": huge})
    with pytest.raises(IndexError, match="block_tables: got 7 at sequence 0, column 1"):
        attention(**{**ARGUMENTS, "block_tables": np.array([[0, 7]])})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_know_their_module(function: Any) -> None:
    assert pickle.loads(pickle.dumps(function)) is function
    assert repr(function) == f"<built-in function {function.__name__}>"
