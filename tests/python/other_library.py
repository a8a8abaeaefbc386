"""A library of arrays that only tests have, and what it reads: capsules of DLPack, by hand."""

from __future__ import annotations

import ctypes
import types
from typing import Any

import ml_dtypes
import numpy as np
from dlpack_tensor import Tensor, _Managed, _Versioned

pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
pointer_of.restype = ctypes.c_void_p
pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)


class OtherArray:
    """An array of a library that only these tests have, which reads capsules by hand."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **options: Any) -> Any:
        self.held = Tensor(self.array, versioned=True)
        return self.held.__dlpack__(**options)


def read_capsule(capsule: Any) -> Any:
    """The array in a capsule of DLPack, which is not taken from it."""
    versioned = "versioned" in repr(capsule)
    name = b"dltensor_versioned" if versioned else b"dltensor"
    struct = _Versioned if versioned else _Managed
    tensor = struct.from_address(pointer_of(capsule, name)).tensor
    shape = [tensor.shape[i] for i in range(tensor.ndim)]
    item = tensor.bits // 8
    strides = [tensor.strides[i] * item for i in range(tensor.ndim)]
    codes = {(2, 32): np.float32, (2, 16): np.float16, (4, 16): ml_dtypes.bfloat16,
             (0, 8): np.int8, (1, 8): np.uint8, (10, 8): ml_dtypes.float8_e4m3fn,
             (0, 32): np.int32, (0, 64): np.int64, (12, 8): ml_dtypes.float8_e5m2}  # fmt: skip
    dtype = np.dtype(codes[tensor.code, tensor.bits])
    if 0 in shape:
        return np.zeros(shape, dtype)
    size = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + item
    raw = (ctypes.c_byte * size).from_address(tensor.data)
    return np.ndarray(shape, dtype, raw, tensor.byte_offset, strides)


def other_from_dlpack(producer: Any) -> OtherArray:
    assert producer.__dlpack_device__() == (1, 0)
    capsule = producer.__dlpack__(max_version=(1, 0))
    made = OtherArray(read_capsule(capsule))
    made.capsule = capsule  # type: ignore[attr-defined]  # the memory is the capsule's
    return made


class NamedByStandard(OtherArray):
    """One that names its functions by the array API standard, as JAX's arrays do."""

    @staticmethod
    def __array_namespace__(*, api_version: str | None = None) -> Any:
        return types.SimpleNamespace(from_dlpack=other_from_dlpack)


class InPackage(OtherArray):
    """One whose package has from_dlpack, as PyTorch's tensors have."""


InPackage.__module__ = "another_library.arrays.dense"


class OfPackage(InPackage):
    """Somebody's subclass of it, from elsewhere."""


class BrokenNamespace(OtherArray):
    """One that has no library, after all."""

    def __array_namespace__(self) -> Any:
        raise RuntimeError("none")
