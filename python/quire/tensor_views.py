"""NumPy views of CPU tensors, and results as tensors of the library that asked.

What the adapters to other libraries' interfaces share. PyTorch is never imported here: its tensors
are known only where the caller has imported it.
"""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# dtypes that NumPy itself has not, by the name that PyTorch and ml_dtypes have in common
_EXTENSIONS = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}


def _torch_of(tensor: Any) -> Any:
    """The module torch where `tensor` is one of its tensors, else None."""
    torch = sys.modules.get("torch")
    kind = getattr(torch, "Tensor", None)
    return torch if kind is not None and isinstance(tensor, kind) else None


def array_of(tensor: Any, where: str) -> Array:
    """A view of an ndarray or a CPU tensor, of the same memory; where: "function: argument".

    Raises ValueError for a tensor on another device, TypeError for what is neither.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    torch = _torch_of(tensor)
    if torch is not None:
        if tensor.device.type != "cpu":
            raise ValueError(f"{where}: got a tensor on {tensor.device}, expected one on the CPU")
        tensor = tensor.detach()
        extension = _EXTENSIONS.get(str(tensor.dtype).removeprefix("torch."))
        if extension is None:
            return np.asarray(tensor.numpy())
        carrier = torch.int16 if extension.itemsize == 2 else torch.uint8
        return np.asarray(tensor.view(carrier).numpy().view(extension))
    if hasattr(tensor, "__dlpack__"):
        return np.from_dlpack(tensor)
    if hasattr(tensor, "__array_interface__"):
        return np.asarray(tensor)
    raise TypeError(f"{where}: got {type(tensor).__name__}, expected an array or a CPU tensor")


def tensor_like(array: Array, model: Any) -> Any:
    """The array as a tensor of model's library, without a copy: PyTorch's, else NumPy's."""
    torch = _torch_of(model)
    if torch is None:
        return array
    name = array.dtype.name
    if name not in _EXTENSIONS:
        return torch.from_numpy(array)
    carrier = np.int16 if array.dtype.itemsize == 2 else np.uint8
    return torch.from_numpy(array.view(carrier)).view(getattr(torch, name))


def integers_of(tensor: Any, where: str, *, length: int | None = None) -> npt.NDArray[np.int64]:
    """A list of integers as int64, a copy.

    Raises TypeError for anything but integers, ValueError unless there is one axis, of `length`.
    """
    array = np.asarray(tensor) if isinstance(tensor, list | tuple) else array_of(tensor, where)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{where}: got dtype {array.dtype}, expected integers")
    if array.ndim != 1 or length not in (None, len(array)):
        expected = "[n]" if length is None else f"[{length}]"
        raise ValueError(f"{where}: got shape {list(array.shape)}, expected {expected}")
    return array.astype(np.int64)


def number_of(value: Any, where: str) -> float | None:
    """A number, or an array of a single one, as a float; None stays None."""
    if value is None or isinstance(value, int | float):
        return value
    array = np.asarray(value) if np.isscalar(value) else array_of(value, where)
    if array.size != 1:
        raise ValueError(f"{where}: got shape {list(array.shape)}, expected one number")
    return float(array.reshape(()))


def dtype_of(name: Any, where: str) -> Any:
    """A dtype from its name ("bfloat16"), or from one of NumPy, ml_dtypes or PyTorch."""
    text = str(name).removeprefix("torch.")
    if text in _EXTENSIONS:
        return _EXTENSIONS[text]
    try:
        return np.dtype(name if isinstance(name, type) else text)
    except TypeError:
        raise TypeError(f"{where}: got {name!r}, expected a dtype or its name") from None


def written_array(tensor: Any, shape: tuple[int, ...], dtype: Any, where: str) -> Array:
    """A view of what a result is written into. Raises ValueError where it does not fit."""
    array = array_of(tensor, where)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{where}: got {array.dtype} {list(array.shape)}, "
            f"expected {np.dtype(dtype)} {list(shape)}"
        )
    if not array.flags.writeable:
        raise ValueError(f"{where}: got a read-only array, expected one that can be written")
    return array
