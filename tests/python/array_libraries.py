"""Libraries of arrays that results are asked of, installed ones and some that only tests have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from delegate import Delegate
from other_library import (
    BrokenNamespace,
    InPackage,
    NamedByStandard,
    OfPackage,
    OtherArray,
    read_capsule,
)

from quire import _core


class Library:
    """How arrays get into a library, and out again."""

    def __init__(
        self, result: type, give: Callable[[Any], Any], take: Callable[[Any], Any]
    ) -> None:
        self.result, self.give, self.take = result, give, take


def jax_library() -> Library:
    jax = pytest.importorskip("jax")
    return Library(jax.Array, jax.numpy.asarray, np.asarray)


def torch_library() -> Library:
    torch = pytest.importorskip("torch")

    def give(array: Any) -> Any:
        return torch.from_dlpack(_core.dlpack_of(array)).clone()

    def take(tensor: Any) -> Any:
        assert tensor.device.type == "cpu"
        return read_capsule(tensor.__dlpack__(max_version=(1, 0))).copy()

    return Library(torch.Tensor, give, take)


LIBRARIES: dict[str, Callable[[], Library]] = {
    "numpy": lambda: Library(np.ndarray, lambda array: array, lambda array: array),
    "torch": torch_library,
    "jax": jax_library,
    "array API": lambda: Library(OtherArray, NamedByStandard, lambda other: other.array),
    "a package": lambda: Library(OtherArray, InPackage, lambda other: other.array),
    "a subclass": lambda: Library(OtherArray, OfPackage, lambda other: other.array),
    "no library": lambda: Library(np.ndarray, OtherArray, lambda array: array),
    "NumPy's capsules": lambda: Library(np.ndarray, Delegate, lambda array: array),
    "no namespace": lambda: Library(np.ndarray, BrokenNamespace, lambda array: array),
}
