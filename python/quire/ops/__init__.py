"""Operators of a model beside attention, on arrays of NumPy, PyTorch and JAX.

A row's bits depend on that row, the weights and the processor: not on the rows beside it, nor on
threads. quire.ops.reference has them in float64, under the same names.

    >>> import numpy as np
    >>> from quire import ops
    >>> weight = ops.pack_weight(np.ones((4, 8), np.float32))
    >>> ops.linear(np.ones((1, 8), np.float32), weight)
    array([[8., 8., 8., 8.]], dtype=float32)
"""

from quire._core import (
    Weight,
    causal_conv1d,
    gated_delta_rule,
    linear,
    pack_weight,
    rms_norm,
    rope,
    rope_frequencies,
    route,
    sample,
    swiglu,
)

__all__ = [
    "Weight",
    "causal_conv1d",
    "gated_delta_rule",
    "linear",
    "pack_weight",
    "rms_norm",
    "rope",
    "rope_frequencies",
    "route",
    "sample",
    "swiglu",
]
