"""Queries up to the largest floats: scores alone may leave the range of float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import quire

DTYPES = ["float32", "float16", "bfloat16", "int8", "float8_e4m3fn"]
Q_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("q_dtype", Q_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_they_see_what_dense_sees(q_dtype: str, dtype: str) -> None:
    random = np.random.default_rng(7)
    pool = quire.BlockPool(16, num_kv_heads=1, head_dim=64, dtype=dtype)
    table = quire.BlockTable(pool)
    table.append(*random.standard_normal((2, 100, 1, 64)).astype(np.float32))
    for tokens in (1, 40):  # a few rows take keys where they lie, many pack them
        rows = np.clip(random.standard_normal((tokens, 4, 64)), -1, 1)
        for size in (1e-30, 1e30, 1e36, 1e37, 1e38, 3e38):
            q = (rows * size).astype(np.float32).astype(Q_DTYPES[q_dtype])
            options = {"scale": -1 / 64, "cu_seqlens_q": np.array([0, tokens])}
            expected, expected_lse = quire.attend(
                q, [table], implementation="dense", return_lse=True, **options
            )
            assert np.isfinite(expected_lse).all()
            for implementation in ("fused", "gather"):
                for extra in ({}, {"alibi_slopes": np.full(4, 0.1, np.float32)}):
                    out, lse = quire.attend(
                        q,
                        [table],
                        implementation=implementation,
                        return_lse=True,
                        **options,
                        **extra,
                    )
                    if extra and size < 1:  # the slopes decide there
                        assert np.isfinite(out.astype(np.float32)).all()
                        continue
                    np.testing.assert_allclose(lse, expected_lse, rtol=1e-4)
                    np.testing.assert_allclose(
                        out.astype(np.float32), expected.astype(np.float32), atol=0.05
                    )


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_room_for_them_changes_no_bit(dtype: str) -> None:
    """Large scales have none, and a power of two may stand in either."""
    random = np.random.default_rng(8)
    pool = quire.BlockPool(16, num_kv_heads=2, head_dim=64, dtype=dtype)
    table = quire.BlockTable(pool)
    table.append(*random.standard_normal((2, 100, 2, 64)).astype(np.float32))
    for tokens in (1, 40):
        q = random.standard_normal((tokens, 4, 64)).astype(np.float32)
        q = q.astype(ml_dtypes.bfloat16).astype(np.float32)
        for q_dtype in Q_DTYPES.values():
            for options in ({}, {"softcap": 20.0}, {"alibi_slopes": np.ones(4, np.float32)}):
                for implementation in ("fused", "gather"):
                    results = [
                        quire.attend(
                            (q / times).astype(q_dtype), [table], scale=times / 8,
                            cu_seqlens_q=np.array([0, tokens]), implementation=implementation,
                            **options,
                        ).tobytes()
                        for times in (1, 1 << 20)
                    ]  # fmt: skip
                    assert results[0] == results[1]
