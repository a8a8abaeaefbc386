"""The operators of quire.ops in float64, as plainly as they can be said."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quire._core import Weight


def linear(x: Any, weight: Weight | Any, *, bias: Any = None) -> npt.NDArray[np.float64]:
    """x @ w.T + bias, [M, N], not rounded to x's dtype; of a Weight the numbers it multiplies."""
    w = weight.unpack() if isinstance(weight, Weight) else np.asarray(weight)
    out = np.asarray(x).astype(np.float64) @ w.astype(np.float64).T
    return out if bias is None else out + np.asarray(bias).astype(np.float64)
