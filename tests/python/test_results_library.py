"""Results belong to the library that the query came from, over memory that nobody has copied."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_libraries import LIBRARIES, Library, torch_library
from conftest import DTYPES, make_problem
from delegate import Delegate
from dlpack_tensor import _Versioned
from other_library import (
    InPackage,
    OtherArray,
    other_from_dlpack,
    pointer_of,
    read_capsule,
)

import quire
from quire import _core, ops


@pytest.fixture(autouse=True)
def another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = types.ModuleType("another_library")
    package.from_dlpack = other_from_dlpack
    monkeypatch.setitem(sys.modules, "another_library", package)


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]()


def expect_same(library: Library, results: Any, expected: Any) -> None:
    assert len(results) == len(expected)
    for result, array in zip(results, expected, strict=True):
        assert isinstance(result, library.result)
        taken = library.take(result)
        assert taken.dtype == array.dtype
        assert taken.shape == array.shape
        assert taken.tobytes() == array.tobytes()


def filled_table(dtype: str = "float32") -> quire.BlockTable:
    table = quire.BlockTable(quire.BlockPool(8, num_kv_heads=2, head_dim=16, dtype=dtype))
    table.append(*np.random.default_rng(0).standard_normal((2, 37, 2, 16), np.float32))
    return table


@pytest.mark.parametrize("dtype", DTYPES)
def test_paged_attention(library: Library, dtype: str) -> None:
    if dtype == "bfloat16" and library.give is Delegate:
        pytest.skip("NumPy has no capsules of bfloat16")
    problem = make_problem([37, 9], dtypes=(dtype, "float32", "float32"))
    q, *others = problem.arguments
    options: dict[str, Any] = {"return_lse": True, "return_block_mass": True}
    expected = quire.paged_attention(q, *others, **options)
    expect_same(library, quire.paged_attention(library.give(q), *others, **options), expected)
    expect_same(library, [quire.paged_attention(library.give(q), *others)], expected[:1])
    # the query alone decides
    caches = (library.give(array) for array in others[:2])
    results = quire.paged_attention(q, *caches, *others[2:], **options)
    assert [type(array) for array in results] == [np.ndarray] * 3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_attend_and_steps(library: Library, dtype: str) -> None:
    random = np.random.default_rng(1)
    q, k, v = (random.standard_normal((1, h, 16)).astype(dtype) for h in (4, 2, 2))
    table = filled_table()
    expected = quire.attend(q, [table], return_lse=True)
    expect_same(library, quire.attend(library.give(q), [table], return_lse=True), expected)
    expected = quire.Step([table.fork()], 1).attend(q, k, v, return_block_mass=True)
    given = (library.give(array) for array in (q, k, v))
    step = quire.Step([table.fork()], 1)
    expect_same(library, step.attend(*given, return_block_mass=True), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_linear(library: Library, dtype: str) -> None:
    x, w = (np.random.default_rng(3).standard_normal((n, 33)).astype(dtype) for n in (5, 7))
    expected = ops.linear(x, w)
    for weight in (w, library.give(w), ops.pack_weight(library.give(w), format=dtype)):  # type: ignore[arg-type]
        expect_same(library, [ops.linear(library.give(x), weight)], [expected])
        # x alone decides
        assert type(ops.linear(x, weight)) is np.ndarray
    out = np.zeros((5, 7), dtype)
    assert ops.linear(library.give(x), w, out=out) is out
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(3, 5, 2, 7), (2, 4), (0, 2, 3), (2, 0, 3)])
def test_merge_states(library: Library, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(2)
    outs = random.standard_normal(shape).astype(np.float16)
    lses = random.standard_normal(shape[:-1]).astype(np.float32)
    expected = quire.merge_states(outs, lses)
    expect_same(library, quire.merge_states(library.give(outs), lses), expected)
    mixed = quire.merge_states(outs, library.give(lses))
    assert [type(array) for array in mixed] == [np.ndarray] * 2


def test_given_arrays_come_back(library: Library) -> None:
    problem = make_problem([37, 9])
    q, *others = problem.arguments
    expected = quire.paged_attention(q, *others, return_lse=True)
    out = np.zeros_like(q)
    got, lse = quire.paged_attention(library.give(q), *others, out=out, return_lse=True)
    assert got is out
    assert out.tobytes() == expected[0].tobytes()
    expect_same(library, [lse], expected[1:])
    outs, lses = np.ones((2, 1, 2, 4), np.float32), np.zeros((2, 1, 2), np.float32)
    new_lse = np.zeros((1, 2), np.float32)
    merged, got = quire.merge_states(library.give(outs), lses, lse=new_lse)
    assert got is new_lse
    assert (new_lse == np.log(np.float32(2))).all()
    expect_same(library, [merged], [np.ones((1, 2, 4), np.float32)])


def test_results_outlive_all_that_they_were_made_of(library: Library) -> None:
    table = filled_table()
    q = np.random.default_rng(3).standard_normal((1, 4, 16)).astype(np.float32)
    expected = quire.attend(q, [table])
    result = quire.attend(library.give(q), [table])
    del table
    gc.collect()
    for _ in range(20):  # memory that has been freed would be another result by now
        quire.attend(library.give(2 * q), [filled_table()])
    expect_same(library, [result], [expected])


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def test_memory_goes_back(library: Library) -> None:
    """60 results of 8 MB would stand out; a sanitizer keeps some of what is freed for a while."""
    outs, lses = np.ones((1, 2_000_000), np.float32), np.zeros(1, np.float32)
    given = library.give(outs)
    quire.merge_states(given, lses)
    before = resident_bytes()
    for _ in range(60):
        quire.merge_states(given, lses)
    assert resident_bytes() - before < 360_000_000


def test_jax_takes_results_where_they_lie() -> None:
    """It copies what does not begin at a cache line."""
    jax = pytest.importorskip("jax")
    array = np.arange(12, dtype=np.float32)
    producer = _core.dlpack_of(array)
    address = read_capsule(producer.__dlpack__()).ctypes.data
    assert address == array.ctypes.data
    problem = make_problem([37, 9], [3, 1])
    q, *others = problem.arguments
    for length in range(1, 5):
        results = quire.paged_attention(
            jax.numpy.asarray(q[:length]), others[0], others[1], others[2][:1].repeat(length, 0),
            np.full(length, 37), return_lse=True, return_block_mass=True,
        )  # fmt: skip
        assert [result.unsafe_buffer_pointer() % 64 for result in results] == [0, 0, 0]


def test_what_numpy_makes_is_numpys() -> None:
    """A module that has imported everything of NumPy is no library of its own."""
    package: Any = types.ModuleType("somebodys_module")
    package.from_dlpack = np.from_dlpack

    class Somebodys(OtherArray):
        __module__ = "somebodys_module"

    sys.modules["somebodys_module"] = package
    try:
        problem = make_problem([37], dtypes=("bfloat16", "float32", "float32"))
        out = quire.paged_attention(Somebodys(problem.q), *problem.arguments[1:])
    finally:
        del sys.modules["somebodys_module"]
    assert type(out) is np.ndarray
    assert out.dtype == ml_dtypes.bfloat16


class OfTorch(OtherArray):
    """An array of a PyTorch that has no table of functions, but from_dlpack alone."""


OfTorch.__module__ = "torch.of.old"


@pytest.mark.parametrize("dtype", DTYPES)
def test_torchs_from_dlpack_takes_what_is_handed_to_it(dtype: str) -> None:
    library = torch_library()
    problem = make_problem([37, 9], dtypes=(dtype, dtype, dtype))
    q, *others = problem.arguments
    options: dict[str, Any] = {"return_lse": True, "return_block_mass": True}
    expected = quire.paged_attention(q, *others, **options)
    expect_same(library, quire.paged_attention(OfTorch(q), *others, **options), expected)


def test_tensors_of_every_kind() -> None:
    torch = pytest.importorskip("torch")
    library = torch_library()
    problem = make_problem([37, 9])
    q, *others = problem.arguments
    expected = [quire.paged_attention(q, *others)]

    class Own(torch.Tensor):  # type: ignore[misc]
        pass

    wide = torch.zeros(2, 8, 128)
    wide[:, ::2, 64:] = library.give(q)
    with torch.inference_mode():
        inferred = library.give(q) + 0
    kinds = {
        "strided": wide[:, ::2, 64:],
        "parameter": torch.nn.Parameter(library.give(q), requires_grad=False),
        "subclass": library.give(q).as_subclass(Own),
        "inference": inferred,
    }
    for tensor in kinds.values():
        result = quire.paged_attention(tensor, *others)
        assert type(result) is torch.Tensor
        expect_same(library, [result], expected)
    out = torch.zeros(2, 4, 64)
    assert quire.paged_attention(library.give(q), *others, out=out) is out
    expect_same(library, [out], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda q: q.requires_grad_(), "BufferError: Can't export tensors that require gradient"),
        (lambda q: q.to("meta"), "got a tensor on DLPack device|does not show its memory"),
        (lambda q: q.to_sparse(), "does not show its memory"),
        (lambda q: q.double(), "got dtype float64, expected float32, float16 or bfloat16"),
    ],
    ids=["gradient", "meta", "sparse", "float64"],
)
def test_tensors_that_are_refused(make: Any, message: str) -> None:
    pytest.importorskip("torch")
    problem = make_problem([37, 9])
    q = make(torch_library().give(problem.q))
    with pytest.raises(TypeError, match=f"paged_attention: q: .*({message})"):
        quire.paged_attention(q, *problem.arguments[1:])


def test_fake_tensors_are_refused() -> None:
    fakes = pytest.importorskip("torch._subclasses.fake_tensor")
    problem = make_problem([37, 9])
    real = torch_library().give(problem.q)
    with fakes.FakeTensorMode() as mode:
        q = mode.from_tensor(real)
        with pytest.raises(
            TypeError, match="paged_attention: q: got FakeTensor that does not show"
        ):
            quire.paged_attention(q, *problem.arguments[1:])


def test_types_without_end() -> None:
    """More of them than are remembered."""
    problem = make_problem([37])
    for number in range(40):
        own = type(f"Own{number}", (InPackage,), {})
        out = quire.paged_attention(own(problem.q), *problem.arguments[1:])
        assert isinstance(out, OtherArray)


def test_capsules_are_as_the_standard_has_them() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::2, 1:]
    producer = _core.dlpack_of(rows)
    assert producer.__dlpack_device__() == (1, 0)
    for options, name in [
        ({}, '"dltensor"'),
        ({"max_version": (0, 8), "copy": False}, '"dltensor"'),
        ({"max_version": (1, 0), "dl_device": (1, 0)}, '"dltensor_versioned"'),
        ({"max_version": (2, 5), "stream": None}, '"dltensor_versioned"'),
    ]:
        capsule = producer.__dlpack__(**options)
        assert name in repr(capsule)
        assert (read_capsule(capsule) == rows).all()
        assert read_capsule(capsule).strides == rows.strides
    for options in ({"copy": True}, {"dl_device": (2, 0)}, {"stream": 1}):
        with pytest.raises(
            BufferError, match=f"DLPackArray.__dlpack__: {next(iter(options))}: got"
        ):
            producer.__dlpack__(**options)
    rows.flags.writeable = False
    producer = _core.dlpack_of(rows)
    with pytest.raises(BufferError, match="max_version: got none or one before"):
        producer.__dlpack__()
    capsule = producer.__dlpack__(max_version=(1, 0))
    assert _Versioned.from_address(pointer_of(capsule, b"dltensor_versioned")).flags == 1


def test_a_capsule_that_nobody_takes_gives_its_array_back() -> None:
    rows = np.zeros(4, np.float32)
    before = sys.getrefcount(rows)
    for version in (None, (1, 0)):
        producer = _core.dlpack_of(rows)
        capsule = producer.__dlpack__(max_version=version)
        del producer
        assert sys.getrefcount(rows) == before + 1
        del capsule
        assert sys.getrefcount(rows) == before


def test_nothing_is_imported() -> None:
    code = """
import sys, numpy as np, quire
class Bare:
    def __dlpack__(self, **options): return np.ones((2, 1, 4), np.float32).__dlpack__(**options)
    def __dlpack_device__(self): return 1, 0
Bare.__module__ = "torch"
before = set(sys.modules)
out, lse = quire.merge_states(Bare(), np.ones((2, 1), np.float32))
assert type(out) is type(lse) is np.ndarray
assert not {name.partition(".")[0] for name in set(sys.modules) - before} & {"torch", "jax", "cupy"}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_operators_on_rows(library: Library, dtype: str) -> None:
    random = np.random.default_rng(4)
    x, residual = (random.standard_normal((5, 2, 32)).astype(dtype) for _ in range(2))
    weight, positions = random.standard_normal(32).astype(dtype), np.arange(5)
    given, others = library.give(x), [library.give(residual), library.give(weight)]
    expected = ops.rms_norm(x, weight, residual=residual)
    expect_same(library, ops.rms_norm(given, others[1], residual=others[0]), expected)
    expect_same(library, [ops.rope(given, positions)], [ops.rope(x, positions)])
    expect_same(library, [ops.swiglu(given, others[0])], [ops.swiglu(x, residual)])
    assert type(ops.swiglu(x, others[0])) is np.ndarray  # the first array alone decides


def test_tokens_and_experts(library: Library) -> None:
    logits = np.random.default_rng(5).standard_normal((4, 100)).astype(np.float32)
    options: dict[str, Any] = {"seed": 1, "position": 2}
    given = library.give(logits)
    expect_indices(library, ops.sample(given, **options), ops.sample(logits, **options))
    expected = ops.route(logits, 3)
    weights, experts = ops.route(given, 3)
    expect_same(library, [weights], expected[:1])
    expect_indices(library, experts, expected[1])


def expect_indices(library: Library, result: Any, expected: Any) -> None:
    assert isinstance(result, library.result)
    if library.result is OtherArray:
        result = result.array
    # JAX has whole numbers of 64 bits only where it is told to
    names = ("int32", "int64") if "jax" in type(result).__module__ else (expected.dtype.name,)
    assert str(result.dtype).endswith(names)
    assert np.asarray(result).tolist() == expected.tolist()
