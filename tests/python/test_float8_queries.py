"""Queries of 8-bit floats over keys of 8-bit floats: the numbers that they are, on every
instruction set, in every implementation."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from quantised_cases import IMPLEMENTATIONS, QUANTISED, poison, quantise

import quire

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def float8(random: Any, shape: tuple[int, ...], dtype: str, scale: float = 8.0) -> Any:
    return (random.standard_normal(shape) * scale).astype(QUANTISED[dtype])


@pytest.mark.parametrize("rows", [(1, 1, 1), (30, 2, 0), (5, 1, 64)])
@pytest.mark.parametrize("k_dtype", FLOAT8)
@pytest.mark.parametrize("q_dtype", FLOAT8)
def test_they_are_the_floats_that_they_are(
    instruction_set: str, q_dtype: str, k_dtype: str, rows: tuple[int, ...]
) -> None:
    """The same bits as of float32 queries of these values, in results of any dtype."""
    random = np.random.default_rng(4)
    starts = np.concatenate([[0], np.cumsum(rows)])
    tables, lengths = np.array([[4, 1, 6], [2, 0, -1], [5, 3, 7]]), np.array([70, 33, 64])
    for head_dim, group in ((64, 4), (33, 1), (128, 12), (1, 2)):
        caches = [poison((8, 32, 2, size), k_dtype) for size in (head_dim, 48)]
        scales = [np.full((8, 32, 2), np.nan, np.float32) for _ in "kv"]
        for i, length in enumerate(lengths):
            position = np.arange(length)
            slot = tables[i, position // 32], position % 32
            for cache, scale in zip(caches, scales, strict=True):
                cache[slot], scale[slot] = quantise(
                    random.standard_normal((length, 2, cache.shape[-1])), k_dtype
                )
        q = float8(random, (starts[-1], 2 * group, head_dim), q_dtype)
        for implementation in IMPLEMENTATIONS:
            options: Any = {
                "cu_seqlens_q": starts, "k_scale": scales[0], "v_scale": scales[1],
                "scale": 0.03, "return_lse": True, "implementation": implementation,
            }  # fmt: skip
            for out_dtype in (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16):
                outs = [np.full((starts[-1], 2 * group, 48), np.nan, out_dtype) for _ in range(2)]
                lses = [
                    quire.paged_attention(x, *caches, tables, lengths, out=out, **options)[1]
                    for x, out in zip((q, q.astype(np.float32)), outs, strict=True)
                ]
                assert np.isfinite(outs[0].astype(np.float32)).all()
                assert outs[0].tobytes() == outs[1].tobytes()
                assert lses[0].tobytes() == lses[1].tobytes()
            out, lse = quire.paged_attention(q, *caches, tables, lengths, **options)
            assert out.dtype == BFLOAT16  # FlashAttention-3's choice too
            assert out.tobytes() == outs[0].tobytes()
            assert lse.tobytes() == lses[0].tobytes()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", FLOAT8)
def test_every_number_of_the_dtype(instruction_set: str, dtype: str, implementation: Any) -> None:
    numbers = np.arange(256, dtype=np.uint8).view(QUANTISED[dtype])
    finite = np.isfinite(numbers.astype(np.float32))
    ones = np.ones((1, 1, 1, 1), QUANTISED[dtype])
    _, lse = quire.paged_attention(
        numbers.reshape(1, 256, 1), ones, ones, np.array([[0]]), np.array([1]), scale=1.0,
        k_scale=1.0, v_scale=1.0, return_lse=True, implementation=implementation,
    )  # fmt: skip
    np.testing.assert_allclose(lse[0, finite], numbers.astype(np.float32)[finite], rtol=1e-6)
    assert not np.isfinite(lse[0, ~finite]).any()


def test_what_queries_are_multiples_of_is_a_factor_of_scale() -> None:
    random = np.random.default_rng(0)
    real = random.standard_normal((1, 4, 32)).astype(np.float32)
    q, q_scale = quantise(real, "float8_e4m3fn", 0.01)
    cache = float8(random, (2, 8, 2, 32), "float8_e4m3fn")
    arguments: Any = (cache, cache, np.array([[1, 0]]), np.array([13]))
    scales = {"k_scale": 0.1, "v_scale": 0.1}
    out = quire.paged_attention(q, *arguments, scale=q_scale[0, 0] / np.sqrt(32), **scales)
    expected = quire.paged_attention(
        q.astype(np.float32) * q_scale[..., None], *arguments, **scales
    )
    np.testing.assert_allclose(out.astype(np.float32), expected, rtol=1e-2, atol=1e-2)


def test_pools_and_steps_take_them() -> None:
    random = np.random.default_rng(1)
    pool = quire.BlockPool(8, num_kv_heads=2, head_dim=16, dtype="float8_e5m2")  # with open blocks
    table = quire.BlockTable(pool)
    table.append(*random.standard_normal((2, 37, 2, 16)).astype(np.float32))
    q = float8(random, (1, 4, 16), "float8_e4m3fn", 1.0)
    for implementation in IMPLEMENTATIONS:
        options: Any = {"implementation": implementation}
        wanted = np.empty((1, 4, 16), BFLOAT16)
        quire.attend(q.astype(np.float32), [table], out=wanted, **options)
        got = quire.attend(q, [table], **options)
        assert (got.dtype, got.tobytes()) == (BFLOAT16, wanted.tobytes())
    k = random.standard_normal((1, 2, 16)).astype(np.float32)
    step = quire.Step([table], 1)
    got = step.attend(q, k, k)
    assert got.tobytes() == quire.attend(q, [table]).tobytes()


WRONG: list[tuple[Any, Any, str]] = [
    (
        ml_dtypes.float8_e4m3fn,
        np.float32,
        "got float8_e4m3fn for keys of float32, expected float32,",
    ),
    (ml_dtypes.float8_e5m2, BFLOAT16, "got float8_e5m2 for keys of bfloat16, expected float32, "),
    (ml_dtypes.float8_e5m2, np.int8, "got float8_e5m2 for keys of int8, expected float32, float16"),
    (np.int8, ml_dtypes.float8_e4m3fn, "got dtype int8, expected float32, float16 or bfloat16, or"),
    (np.uint8, ml_dtypes.float8_e4m3fn, "got dtype uint8, expected float32, float16 or bfloat16, "),
    (
        ml_dtypes.float8_e4m3,
        ml_dtypes.float8_e4m3fn,
        "got dtype float8_e4m3, expected float32, flo",
    ),
]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("q_dtype", "k_dtype", "message"), WRONG)
def test_others_are_refused(q_dtype: Any, k_dtype: Any, message: str, implementation: Any) -> None:
    cache = np.zeros((2, 4, 2, 8), k_dtype)
    scale = 1.0 if cache.dtype.itemsize == 1 else None
    out = np.full((1, 2, 8), 7, np.float32)
    with pytest.raises(TypeError, match=f"^paged_attention: q: {message}"):
        quire.paged_attention(
            np.zeros((1, 2, 8), q_dtype), cache, cache, np.array([[0]]), np.array([1]),
            k_scale=scale, v_scale=scale, out=out, implementation=implementation,
        )  # fmt: skip
    assert (out == 7).all()


def test_a_result_of_8_bits_is_refused() -> None:
    cache = np.zeros((2, 4, 2, 8), ml_dtypes.float8_e4m3fn)
    q = np.zeros((1, 2, 8), ml_dtypes.float8_e4m3fn)
    with pytest.raises(
        TypeError, match=r"^paged_attention: out: got dtype float8_e4m3fn, expected fl"
    ):
        quire.paged_attention(
            q, cache, cache, np.array([[0]]), np.array([1]), k_scale=1.0, v_scale=1.0, out=q.copy()
        )


@pytest.mark.parametrize("dtype", FLOAT8)
def test_tensors_of_pytorch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    operators: Any = pytest.importorskip("quire.torch")
    random = np.random.default_rng(2)
    arrays = [float8(random, shape, dtype) for shape in ((1, 4, 16), (2, 8, 2, 16), (2, 8, 2, 16))]
    tables, lengths = np.array([[1, 0]]), np.array([11])
    scales: Any = {"k_scale": 0.1, "v_scale": 0.2}
    expected = quire.paged_attention(*arrays, tables, lengths, **scales)
    tensors = [operators.as_tensor(array) for array in arrays]
    assert str(tensors[0].dtype) == f"torch.{dtype}"
    integers = [torch.from_numpy(x) for x in (tables, lengths)]
    out = quire.paged_attention(*tensors, *integers, **scales)
    given = {name: torch.tensor(scale) for name, scale in scales.items()}

    def attend(*arguments: Any) -> Any:
        return operators.paged_attention(*arguments, **given)[0]

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for result in (out, attend(*tensors, *integers), compiled(*tensors, *integers)):
        assert result.dtype == torch.bfloat16
        assert result.view(torch.uint16).numpy().tobytes() == expected.tobytes()
