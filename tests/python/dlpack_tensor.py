"""A tensor that shows itself through DLPack alone, with capsules made by hand."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

CODES = {"f": 2, "i": 0, "u": 1}
READ_ONLY, IS_COPIED = 1, 2


class Tensor:
    """A CPU tensor as another library would hand it out; lists all that can be odd about one.

    versioned: whether the capsule is one of DLPack 1.0, which has flags. dtype: (code, bits, lanes)
    to claim, whatever the array's is.
    """

    def __init__(
        self,
        array: Any,
        *,
        versioned: bool = False,
        flags: int = 0,
        device: tuple[int, int] = (1, 0),
        contiguous: bool = False,
        major: int = 1,
        dtype: tuple[int, int, int] | None = None,
        true_device: tuple[int, int] | None = None,
    ) -> None:
        self.array, self.versioned, self.flags = array, versioned, flags
        self.true_device, self.dtype = true_device, dtype
        self.device, self.contiguous, self.major = device, contiguous, major

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        if options and not self.versioned:
            raise TypeError("unexpected keyword argument 'max_version'")
        array = self.array
        item = array.dtype.itemsize
        code = 4 if array.dtype == ml_dtypes.bfloat16 else CODES.get(array.dtype.kind, 0)
        axes = ctypes.c_int64 * array.ndim
        self.shape = axes(*array.shape)
        self.strides = axes(*(stride // item for stride in array.strides))
        tensor = _DLTensor(
            array.ctypes.data - 8,
            *(self.device if self.true_device is None else self.true_device),
            array.ndim,
            *((code, 8 * item, 1) if self.dtype is None else self.dtype),
            self.shape,
            None if self.contiguous else self.strides,
            8,
        )
        if self.versioned:
            self.held: Any = _Versioned(self.major, 0, None, None, self.flags, tensor)
            return new_capsule(ctypes.addressof(self.held), b"dltensor_versioned", None)
        self.held = _Managed(tensor, None, None)
        return new_capsule(ctypes.addressof(self.held), b"dltensor", None)
