"""What the tests of operators share: random numbers, and how near float64 results must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import DTYPES

# Half a unit in the last place, relative to the number.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TINY = {"float32": 1e-37, "float16": 2.0**-25, "bfloat16": 1e-37}  # where numbers are subnormal


def normal(*shape: int, dtype: str = "float32", seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[dtype])


def assert_near(out: Any, expected: Any, *, relative: float = 1e-6, absolute: float = 0.0) -> None:
    """Within the rounding to out's dtype, and errors of float32 arithmetic."""
    dtype = out.dtype.name
    assert out.shape == expected.shape
    out64 = out.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(out64), np.isnan(expected))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(out64[infinite], expected[infinite])
    out64, expected = out64[~infinite], expected[~infinite]
    bound = (relative + 1.01 * ROUNDING[dtype]) * np.abs(expected) + absolute + TINY[dtype]
    wrong = np.abs(out64 - expected)
    assert not (wrong > bound).any(), (wrong / bound)[~np.isnan(wrong)].max()


def assert_raises(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(message)
