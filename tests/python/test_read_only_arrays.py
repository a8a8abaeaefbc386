"""Arrays that may not be written are not, whichever way they say so; dtypes of DLPack by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import make_problem
from dlpack_tensor import IS_COPIED, READ_ONLY, Tensor
from test_bindings_arrays import Interface

import quire


def frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


# How an array comes, and whether it may be written then.
IMMUTABLE: dict[str, Callable[[Any], Any]] = {
    "array": frozen,
    "array interface": lambda array: Interface(frozen(array)),
    "capsule without a version": Tensor,
    "read-only capsule": lambda array: Tensor(array, versioned=True, flags=READ_ONLY),
    "capsule of a copy": lambda array: Tensor(array, versioned=True, flags=IS_COPIED),
}
MUTABLE: dict[str, Callable[[Any], Any]] = {
    "array": lambda array: array,
    "array interface": Interface,
    "versioned capsule": lambda array: Tensor(array, versioned=True),
}

ROWS = np.ones((16, 1, 8), np.float32)
Q = np.ones((1, 2, 8), np.float32)


def cache(dtype: Any, *shape: int) -> Any:
    return np.zeros(shape, dtype)


def write_kv_arguments(**others: Any) -> dict[str, Any]:
    """Every array that write_kv writes: quantised caches, their scales, and open blocks."""
    return {
        "k": ROWS,
        "v": ROWS,
        "k_cache": cache(np.int8, 2, 16, 1, 8),
        "v_cache": cache(np.int8, 2, 16, 1, 8),
        "slot_mapping": np.arange(16),
        "k_scale": cache(np.float32, 2, 16, 1),
        "v_scale": cache(np.float32, 2, 16, 1),
        "k_open": cache(np.float32, 1, 16, 1, 8),
        "v_open": cache(np.float32, 1, 16, 1, 8),
        **others,
    }


def attention_arguments(**others: Any) -> dict[str, Any]:
    names = ("q", "k_cache", "v_cache", "block_tables", "seq_lens")
    problem = dict(zip(names, make_problem([30]).arguments, strict=True))
    return {**problem, "out": np.zeros((1, 4, 64), np.float32), **others}


def attend_arguments(**others: Any) -> dict[str, Any]:
    table = quire.BlockTable(quire.BlockPool(4, num_kv_heads=1, head_dim=8, dtype="float32"))
    table.append(ROWS, ROWS)
    return {"q": Q, "tables": [table], "out": np.zeros((1, 2, 8), np.float32), **others}


def merge_arguments(**others: Any) -> dict[str, Any]:
    return {
        "outs": np.ones((2, 1, 2, 8), np.float32),
        "lses": np.ones((2, 1, 2), np.float32),
        "out": np.zeros((1, 2, 8), np.float32),
        "lse": np.zeros((1, 2), np.float32),
        **others,
    }


# Every argument that is written. What is not named here no function writes (see the test below).
WRITTEN: list[tuple[Any, Callable[..., dict[str, Any]], str]] = [
    (quire.paged_attention, attention_arguments, "out"),
    (quire.attend, attend_arguments, "out"),
    (quire.merge_states, merge_arguments, "out"),
    (quire.merge_states, merge_arguments, "lse"),
    *(
        (quire.write_kv, write_kv_arguments, name)
        for name in ("k_cache", "v_cache", "k_scale", "v_scale", "k_open", "v_open")
    ),
]
IDS = [f"{function.__name__} {name}" for function, _, name in WRITTEN]


@pytest.mark.parametrize("way", IMMUTABLE)
@pytest.mark.parametrize(("function", "arguments", "name"), WRITTEN, ids=IDS)
def test_immutable_arrays_are_refused(function: Any, arguments: Any, name: str, way: str) -> None:
    given = arguments()
    array = given[name]
    others = [a for a in given.values() if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in others]
    message = f"^{function.__name__}: {name}: got a read-only array, expected a writable one"
    with pytest.raises(ValueError, match=message):
        function(**{**given, name: IMMUTABLE[way](array)})
    assert [a.tobytes() for a in others] == before  # nor anything else


@pytest.mark.parametrize("way", MUTABLE)
@pytest.mark.parametrize(("function", "arguments", "name"), WRITTEN, ids=IDS)
def test_others_are_written(function: Any, arguments: Any, name: str, way: str) -> None:
    given = arguments()
    if name.endswith("open"):
        given["slot_mapping"] = np.arange(32, 48)  # of the open block
    function(**{**given, name: MUTABLE[way](given[name])})
    assert np.any(given[name] != 0)


@pytest.mark.parametrize("way", IMMUTABLE)
def test_what_is_only_read_may_be_immutable(way: str) -> None:
    given = attention_arguments()
    expected = quire.paged_attention(**given).tobytes()
    wrapped = {name: IMMUTABLE[way](given[name]) for name in given if name != "out"}
    assert quire.paged_attention(**wrapped).tobytes() == expected
    arguments = write_kv_arguments()
    for name in ("k", "v", "slot_mapping"):
        arguments[name] = IMMUTABLE[way](arguments[name].copy())
    quire.write_kv(**arguments)
    for name in ("k_scale", "v_scale"):  # static ones are read
        arguments[name] = IMMUTABLE[way](np.ones(1, np.float32))
    quire.write_kv(**arguments)
    table = attend_arguments()["tables"][0]
    table.append(IMMUTABLE[way](ROWS.copy()), IMMUTABLE[way](ROWS.copy()))
    outs, lses = np.ones((2, 1, 2, 8), np.float32), np.zeros((2, 1, 2), np.float32)
    out, _ = quire.merge_states(IMMUTABLE[way](outs), IMMUTABLE[way](lses))
    assert (out == 1).all()


@pytest.mark.parametrize("scale", [0.5, 2, np.float32(0.5), np.float64(0.5), np.int64(2)])
def test_numbers_are_no_arrays(scale: Any) -> None:
    """NumPy's have an array interface too, and may be of any dtype."""
    arguments = write_kv_arguments(k_scale=scale, v_scale=scale)
    quire.write_kv(**arguments)
    assert (arguments["k_cache"][0] == np.rint(1 / np.float32(scale))).all()


def test_every_output_is_tested() -> None:
    """By name: a new function with out= or a cache is to stand in WRITTEN."""
    tested = {(function.__name__, name) for function, _, name in WRITTEN}
    outputs = {"out", "lse"}
    for name in quire.__all__:
        function = getattr(quire, name)
        if inspect.isbuiltin(function):
            parameters = set(inspect.signature(function).parameters)
            assert {(name, output) for output in outputs & parameters} <= tested


def test_jax_arrays_are_not_written() -> None:
    jax = pytest.importorskip("jax")
    for given, name in [(attention_arguments(), "out"), (attend_arguments(), "out")]:
        function = quire.attend if "tables" in given else quire.paged_attention
        out = jax.numpy.zeros(given["out"].shape, jax.numpy.float32)
        with pytest.raises(ValueError, match=f"{name}: got a read-only array"):
            function(**{**given, name: out})
        assert not out.any()


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ((2, 64, 1), "float64"),
        ((2, 8, 1), "float8"),
        ((0, 8, 1), "int8"),
        ((0, 64, 1), "int64"),
        ((1, 16, 1), "uint16"),
        ((3, 64, 1), "opaque64"),
        ((4, 8, 1), "bfloat8"),
        ((5, 64, 1), "complex64"),
        ((6, 8, 1), "bool"),
        ((7, 8, 1), "float8_e3m4"),
        ((8, 8, 1), "float8_e4m3"),
        ((9, 8, 1), "float8_e4m3b11fnuz"),
        ((10, 8, 1), "float8_e4m3fn"),
        ((11, 8, 1), "float8_e4m3fnuz"),
        ((12, 8, 1), "float8_e5m2"),
        ((13, 8, 1), "float8_e5m2fnuz"),
        ((14, 8, 1), "float8_e8m0fnu"),
        ((15, 6, 1), "float6_e2m3fn"),
        ((16, 6, 1), "float6_e3m2fn"),
        ((17, 4, 1), "float4_e2m1fn"),
        ((17, 4, 2), "float4_e2m1fn in 2 lanes"),
        ((2, 32, 4), "float32 in 4 lanes"),
        ((99, 24, 1), "of DLPack code 99, bits 24, lanes 1"),
    ],
)
def test_dtypes_of_dlpack_have_names(dtype: Any, name: str) -> None:
    message = f"^write_kv: k: got dtype {name}, expected float32, float16 or bfloat16$"
    with pytest.raises(TypeError, match=message):
        quire.write_kv(
            Tensor(ROWS, dtype=dtype), ROWS, cache("f4", 1), cache("f4", 1), np.arange(1)
        )


def test_indices_of_dlpack_have_names() -> None:
    *others, lengths = make_problem([30]).arguments
    message = "^paged_attention: seq_lens: got dtype bool, expected int32 or int64$"
    with pytest.raises(TypeError, match=message):
        quire.paged_attention(*others, Tensor(lengths, dtype=(6, 8, 1)))
