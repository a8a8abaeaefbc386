"""What counts as an array: ndarrays, __array_interface__, and DLPack tensors of any library."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import make_problem
from delegate import Delegate
from dlpack_tensor import Tensor

import quire


class Interface:
    """Only __array_interface__."""

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def __array_interface__(self) -> Any:
        return self.array.__array_interface__


def wrapped(problem: Any, wrap: Any) -> Any:
    return quire.paged_attention(*(wrap(argument) for argument in problem.arguments))


@pytest.mark.parametrize(
    "wrap",
    [
        Interface,
        Tensor,
        lambda array: Tensor(array, versioned=True),
        lambda array: Tensor(array, contiguous=True),
    ],
    ids=["interface", "dlpack", "dlpack 1.0", "dlpack without strides"],
)
def test_same_result_through_every_protocol(wrap: Any) -> None:
    problem = make_problem([30, 9])
    expected = quire.paged_attention(*problem.arguments)
    assert wrapped(problem, wrap).tobytes() == expected.tobytes()


def test_bfloat16_through_dlpack() -> None:
    problem = make_problem([30, 9], dtypes=("bfloat16", "bfloat16", "float16"))
    expected = quire.paged_attention(*problem.arguments)
    assert wrapped(problem, Tensor).tobytes() == expected.tobytes()


def test_strides_through_dlpack() -> None:
    problem = make_problem([30, 9])
    wide = np.zeros((2, 8, 64), np.float32)
    wide[:, ::2] = problem.q
    expected = quire.paged_attention(*problem.arguments)
    out = quire.paged_attention(Tensor(wide[:, ::2]), *problem.arguments[1:])
    assert out.tobytes() == expected.tobytes()


def test_tensors_are_given_back_after_the_call() -> None:
    """NumPy's capsule holds a reference to its array, which the tensor's deleter drops."""
    problem = make_problem([30])
    counts = []
    for _ in range(4):
        quire.paged_attention(Delegate(problem.q), *problem.arguments[1:])
        with pytest.raises(ValueError, match="paged_attention: seq_lens: got -1"):
            quire.paged_attention(Delegate(problem.q), *problem.arguments[1:4], np.array([-1]))
        counts.append(sys.getrefcount(problem.q))
    assert counts == counts[:1] * 4


def test_bfloat16_has_no_name_in_the_array_interface() -> None:
    problem = make_problem([30], dtypes=("bfloat16", "float32", "float32"))

    class Both(Interface, Delegate):
        def __dlpack__(self, **options: Any) -> Any:
            self.tensor = Tensor(self.array)
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return 1, 0

    expected = quire.paged_attention(*problem.arguments)
    out = quire.paged_attention(Both(problem.q), *problem.arguments[1:])
    assert out.tobytes() == expected.tobytes()
    with pytest.raises(TypeError, match=r"q: got dtype .V2, expected float32, float16 or bfloat16"):
        quire.paged_attention(Interface(problem.q), *problem.arguments[1:])


def test_memory_that_a_gpu_can_read_is_cpu_memory() -> None:
    problem = make_problem([30])
    quire.paged_attention(Tensor(problem.q, device=(3, 0)), *problem.arguments[1:])


class NeedsGradient(Tensor):
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("cannot export a tensor that requires a gradient")


class NoDevice(Tensor):
    def __dlpack_device__(self) -> Any:
        return ()


class NoCapsule(Tensor):
    def __dlpack__(self, **options: Any) -> Any:
        return self.array


class Torn:
    __array_interface__: ClassVar[dict[str, Any]] = {"shape": (1,), "version": 3}


def test_a_tensor_is_written_in_place() -> None:
    problem = make_problem([30])
    out = np.zeros((1, 4, 64), np.float32)
    given = Tensor(out, versioned=True)
    assert quire.paged_attention(*problem.arguments, out=given) is given
    assert (out == quire.paged_attention(*problem.arguments)).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda q: Tensor(q, device=(2, 0)), TypeError, r"got a tensor on DLPack device \(2, 0\)"),
        (
            lambda q: Tensor(q, true_device=(2, 1)),
            TypeError,
            r"got a tensor on DLPack device \(2, 1\)",
        ),
        (NeedsGradient, TypeError, "got NeedsGradient that does not show its memory .BufferError"),
        (NoDevice, TypeError, "got a __dlpack_device__ of 0 numbers, expected 2"),
        (NoCapsule, TypeError, "got a __dlpack__ that returns numpy.ndarray, expected a DLPack"),
        (lambda q: Torn(), TypeError, "got Torn that does not show its memory"),
        (lambda q: Tensor(q.astype(np.float64)), TypeError, "got dtype float64, expected float32"),
        (lambda q: Tensor(q, versioned=True, major=2), TypeError, "got DLPack version 2.0"),
        (lambda q: Tensor(q.reshape(1, 1, 1, 1, 4, 64)), ValueError, "got 6 axes"),
        (lambda q: Interface(q.astype(np.float64)), TypeError, "got dtype float64"),
        (lambda q: q.astype(">f4"), ValueError, "got dtype >f4 with swapped bytes"),
        (lambda q: q.tolist(), TypeError, "got list, expected an array"),
        (lambda q: memoryview(q), TypeError, "got memoryview, expected an array"),
        (
            lambda q: (
                np.frombuffer(b"\0" + q.tobytes(), np.uint8)[1:].view(np.float32).reshape(q.shape)
            ),
            ValueError,
            "got elements off their alignment",
        ),
    ],
)
def test_what_is_refused(make: Any, error: type[Exception], message: str) -> None:
    problem = make_problem([30])
    with pytest.raises(error, match=f"paged_attention: q: {message}"):
        quire.paged_attention(make(problem.q), *problem.arguments[1:])


def test_unaligned_and_swapped_indices_are_refused() -> None:
    problem = make_problem([30])
    lengths = np.frombuffer(b"\0" + problem.seq_lens.tobytes(), np.uint8)[1:].view(np.int32)
    with pytest.raises(ValueError, match="seq_lens: got elements off their alignment"):
        quire.paged_attention(*problem.arguments[:4], lengths)
    with pytest.raises(ValueError, match="seq_lens: got dtype >i4 with swapped bytes"):
        quire.paged_attention(*problem.arguments[:4], problem.seq_lens.astype(">i4"))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.intc, np.longlong])
def test_every_int_of_four_or_eight_bytes(dtype: Any) -> None:
    q, k, v, tables, lengths = make_problem([30]).arguments
    quire.paged_attention(q, k, v, tables.astype(dtype), lengths.astype(dtype))


def test_inputs_may_be_read_only() -> None:
    problem = make_problem([30])
    for array in problem.arguments:
        array.flags.writeable = False
    assert np.isfinite(quire.paged_attention(*problem.arguments)).all()


def test_an_array_without_elements_may_have_any_strides() -> None:
    _, k_cache, v_cache, tables, lengths = make_problem([30]).arguments
    q = np.zeros((3, 4, 128), np.float32)[:0, :, ::2]
    assert quire.paged_attention(q, k_cache, v_cache, tables[:0], lengths[:0]).shape == (0, 4, 64)
