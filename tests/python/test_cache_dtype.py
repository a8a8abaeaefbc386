"""cache_dtype: caches of 8-bit floats whose library has no such dtype, and holds them as uint8."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from quantised_cases import IMPLEMENTATIONS, QUANTISED, poison

import quire

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
SLOTS = np.array([9, 3, 4, 5, 0])
LAYOUTS = ("NHD", "HND")


def rows(count: int = 5) -> Any:
    return np.random.default_rng(3).standard_normal((2, count, 2, 24)).astype(np.float32)


def caches(dtype: str, layout: str = "NHD") -> Any:
    """Keys and values, all poison."""
    shape = (4, 3, 2, 24) if layout == "NHD" else (4, 2, 3, 24)
    return [poison(shape, dtype) for _ in "kv"]


def written(dtype: str, layout: str = "NHD", **scales: Any) -> Any:
    stored = caches(dtype, layout)
    quire.write_kv(*rows(), *stored, SLOTS, layout=layout, **scales)
    return stored


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOAT8)
def test_bytes_are_written_as_the_dtype_itself(
    instruction_set: str, dtype: str, layout: str
) -> None:
    for make in (lambda: 0.03, lambda: np.array([0.5, 0.01], np.float32), None):
        results = []
        for as_bytes in (False, True):
            scales = [np.zeros((4, 3, 2), np.float32) if make is None else make() for _ in "kv"]
            stored = caches(dtype, layout)
            quire.write_kv(
                *rows(), *[c.view(np.uint8) if as_bytes else c for c in stored], SLOTS,
                layout=layout, k_scale=scales[0], v_scale=scales[1],
                cache_dtype=dtype if as_bytes else None,
            )  # fmt: skip
            results.append([np.asarray(x).tobytes() for x in (*stored, *scales)])
        assert results[0] == results[1]
        assert results[0][0] != caches(dtype)[0].tobytes()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOAT8)
def test_bytes_are_read_as_the_dtype_itself(
    instruction_set: str, dtype: str, layout: str, implementation: Any
) -> None:
    scales: Any = {"k_scale": 0.02, "v_scale": np.array([0.02, 0.1], np.float32)}
    k_cache, v_cache = written(dtype, layout, **scales)
    q = np.random.default_rng(0).standard_normal((2, 4, 24)).astype(np.float32)
    tables, lengths = np.array([[1, 3], [0, -1]]), np.array([3, 1])
    options: Any = {"layout": layout, "implementation": implementation, "return_lse": True}
    options |= scales | {"cu_seqlens_q": np.array([0, 1, 2])}
    tables[0, 1] = -1
    expected = quire.paged_attention(q, k_cache, v_cache, tables, lengths, **options)
    assert np.isfinite(expected[0]).all()
    same: list[Any] = [
        (k_cache.view(np.uint8), v_cache.view(np.uint8), dtype),
        (k_cache.view(np.uint8), v_cache, QUANTISED[dtype]),  # each says what it can
        (k_cache, v_cache, dtype),  # said twice
    ]
    for k, v, cache_dtype in same:
        got = quire.paged_attention(q, k, v, tables, lengths, cache_dtype=cache_dtype, **options)
        for result, array in zip(got, expected, strict=True):
            np.testing.assert_array_equal(result, array)


def test_both_dtypes_differ_on_the_same_bytes() -> None:
    """So that nobody can take one for the other unseen."""
    k_cache, v_cache = written("float8_e5m2", k_scale=0.02, v_scale=0.02)
    q = np.ones((1, 2, 24), np.float32)
    arguments = (q, k_cache.view(np.uint8), v_cache.view(np.uint8), np.array([[1]]), np.array([3]))
    e4m3fn, e5m2 = (
        quire.paged_attention(*arguments, k_scale=0.02, v_scale=0.02, cache_dtype=dtype)
        for dtype in FLOAT8
    )
    assert np.abs(e4m3fn - e5m2).max() > 0.01


def test_int4_and_plain_caches_may_say_what_they_are() -> None:
    q = np.ones((1, 2, 8), np.float32)
    plain = np.ones((1, 4, 2, 8), ml_dtypes.bfloat16)
    tables, lengths = np.array([[0]]), np.array([4])
    out = quire.paged_attention(q, plain, plain, tables, lengths, cache_dtype="bfloat16")
    assert (out == 1).all()
    numbers = np.full((1, 4, 2, 4), 0x99, np.uint8)  # middle + step
    k_grid, v_grid = np.ones((1, 2, 8, 2), np.float16), np.ones((1, 4, 2, 2), np.float16)
    out = quire.paged_attention(
        q, numbers, numbers, tables, lengths, k_scale=k_grid, v_scale=v_grid, cache_dtype="int4"
    )
    assert (out == 2).all()


def test_a_pool_may_be_named() -> None:
    random = np.random.default_rng(0)
    pool = quire.BlockPool(4, num_kv_heads=2, head_dim=8, dtype="float8_e5m2", open_blocks=0)
    table = quire.BlockTable(pool)
    table.append(*random.standard_normal((2, 20, 2, 8)).astype(np.float32))
    q = random.standard_normal((1, 2, 8)).astype(np.float32)
    expected = quire.attend(q, [table])
    np.testing.assert_array_equal(quire.attend(q, [table], cache_dtype="float8_e5m2"), expected)
    wrong = (
        "cache_dtype: got float8_e4m3fn for a pool of float8_e5m2, expected float8_e5m2, or None"
    )
    with pytest.raises(TypeError, match=f"^attend: {wrong}$"):
        quire.attend(q, [table], cache_dtype="float8_e4m3fn")
    step = quire.Step([table], 1)
    with pytest.raises(TypeError, match=rf"^Step\.attend: {wrong}$"):
        step.attend(q, q, q, cache_dtype="float8_e4m3fn")


NAMES = "expected float32, float16, bfloat16, int8, float8_e4m3fn, float8_e5m2 or int4$"
WRONG: list[tuple[Any, Any, str]] = [
    ("fp8", np.uint8, f"got fp8, {NAMES}"),
    ("uint8", np.uint8, f"got uint8, {NAMES}"),
    ("", np.uint8, f"got , {NAMES}"),
    (8, np.uint8, f"got int, {NAMES}"),
    (
        "bfloat16",
        np.uint8,
        "got bfloat16 for a {}_cache of uint8, expected float8_e4m3fn, float8_e",
    ),
    ("int8", np.uint8, "got int8 for a {}_cache of uint8, expected float8_e4m3fn, float8_e5m2 or"),
    (
        "float8_e4m3fn",
        ml_dtypes.float8_e5m2,
        "got float8_e4m3fn for a {}_cache of float8_e5m2, exp",
    ),
    ("float8_e4m3fn", np.int8, "got float8_e4m3fn for a {}_cache of int8, expected int8, or None$"),
    ("float8_e5m2", np.float32, "got float8_e5m2 for a {}_cache of float32, expected float32, or"),
    ("int4", np.float32, "got int4 for a {}_cache of float32, expected float32, or None$"),
]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("word", "dtype", "message"), WRONG)
def test_what_does_not_fit_is_refused(side: int, word: Any, dtype: Any, message: str) -> None:
    named = any(word == name for name in QUANTISED) or word in ("int4", "bfloat16")
    good = np.dtype(word) if word == "bfloat16" else QUANTISED.get(word, np.dtype(np.uint8))
    given = [np.zeros((2, 4, 2, 8), good) for _ in "kv"]
    given[side] = np.zeros((2, 4, 2, 8), dtype)
    x = np.ones((1, 2, 8), np.float32)
    out = np.full((1, 2, 8), 7, np.float32)
    match = "{}: cache_dtype: " + (message.format("kv"[side]) if named else message)
    with pytest.raises(TypeError, match=match.replace("{}", "^paged_attention")):
        quire.paged_attention(
            x, *given, np.array([[0]]), np.array([1]), k_scale=1.0, v_scale=1.0, cache_dtype=word,
            out=out,
        )  # fmt: skip
    with pytest.raises(TypeError, match=match.replace("{}", "^write_kv")):
        quire.write_kv(x, x, *given, np.array([0]), k_scale=1.0, v_scale=1.0, cache_dtype=word)
    assert (out == 7).all()
    assert not any(cache.astype(np.float32).any() for cache in given)


def test_tensors_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    operators: Any = pytest.importorskip("quire.torch")
    k_cache, v_cache = (torch.zeros((4, 3, 2, 24), dtype=torch.uint8) for _ in "kv")
    scales: Any = {"k_scale": 0.02, "v_scale": 0.02}
    expected_caches = [np.zeros((4, 3, 2, 24), QUANTISED["float8_e4m3fn"]) for _ in "kv"]
    quire.write_kv(*rows(), *expected_caches, SLOTS, **scales)
    k, v = (torch.from_numpy(x) for x in rows())
    quire.write_kv(
        k, v, k_cache, v_cache, torch.from_numpy(SLOTS), cache_dtype="float8_e4m3fn", **scales
    )
    assert k_cache.numpy().tobytes() == expected_caches[0].tobytes()
    q = torch.ones((1, 2, 24))
    arguments = (torch.tensor([[1]]), torch.tensor([3]))
    expected = quire.paged_attention(
        q.numpy(), *expected_caches, *(x.numpy() for x in arguments), **scales
    )
    tensors = {name: torch.tensor(scale) for name, scale in scales.items()}

    def attend(k_cache: Any, v_cache: Any) -> Any:
        return operators.paged_attention(
            q, k_cache, v_cache, *arguments, cache_dtype="float8_e4m3fn", **tensors
        )[0]

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for function in (attend, compiled):
        np.testing.assert_array_equal(function(k_cache, v_cache).numpy(), expected)
