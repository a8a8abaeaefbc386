"""Everything that reads or writes a pool larger than memory: the same bits as in memory, and at no
moment more of it in memory than was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool_in_file import HEAD_DIM, HEADS, LEAST, MostInMemory, both, in_memory, twins

import quire

DTYPES = ["bfloat16", "int8", "float8_e4m3fn"]


def queries(tokens: int) -> Any:
    return np.random.default_rng(1).standard_normal((tokens, HEADS, HEAD_DIM), np.float32)


@pytest.mark.parametrize("mass", [False, True], ids=["", "mass"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(tmp_path: Path, dtype: str, mass: bool) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [2100, 1, 0, 640, 129, 17], dtype=dtype)
    for q_lens in ([1] * 6, [70, 1, 0, 640, 2, 17]):
        cu = np.cumsum([0, *q_lens]).astype(np.int32)
        for options in ({}, {"sliding_window": 900, "num_sink_tokens": 20}):
            with MostInMemory(pool) as most:
                for ours, files in both(
                    tables,
                    queries(sum(q_lens)),
                    cu_seqlens_q=cu,
                    return_block_mass=mass,
                    **options,
                ):
                    assert ours == files
            assert most.bytes <= LEAST
    pool.check()


@pytest.mark.parametrize("scale", ["k_scale", "v_scale"])
@pytest.mark.parametrize("token", [0, 1000, 2099])
def test_a_scale_that_is_refused(tmp_path: Path, scale: str, token: int) -> None:
    (_, pool), tables = twins(tmp_path / "blocks", [2100, 640], dtype="int8")
    table = tables[1][0]
    block, offset = int(table.blocks[token // 16]), token % 16
    getattr(pool, scale)(1)[block, offset, 1] = 0
    out = np.full((2, HEADS, HEAD_DIM), 7, np.float32)
    with (
        MostInMemory(pool) as most,
        pytest.raises(
            ValueError,
            match=f"^attend: {scale}: got 0 at block {block}, offset {offset}, head 1, expected a "
            "positive finite number in each slot that is read$",
        ),
    ):
        quire.attend(queries(2), tables[1], layer=1, out=out)
    assert most.bytes <= LEAST
    assert in_memory(pool) <= LEAST
    assert (out == 7).all()
    ours, files = (quire.attend(queries(2), mine, layer=0) for mine in tables)
    assert ours.tobytes() == files.tobytes()
    if token == 0:  # out of sight
        quire.attend(queries(2), tables[1], layer=1, sliding_window=2000, out=out)
        assert (out != 7).all()
