"""Files of int8 and float8 pools without open blocks, in pools that have some, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import quire

DTYPES = ("int8", "float8_e4m3fn", "float8_e5m2")
BLOCK, HEADS, HEAD_DIM = 4, 2, 8


def new_pool(dtype: str, open_blocks: int) -> quire.BlockPool:
    return quire.BlockPool(
        40,
        block_size=BLOCK,
        num_kv_heads=HEADS,
        head_dim=HEAD_DIM,
        num_layers=2,
        dtype=dtype,
        open_blocks=open_blocks,
    )


def rows(random: np.random.Generator, tokens: int) -> Any:
    return random.standard_normal((2, tokens, HEADS, HEAD_DIM), np.float32)


def attended(table: quire.BlockTable) -> list[bytes]:
    q = np.random.default_rng(7).standard_normal((1, 4, HEAD_DIM), np.float32)
    return [quire.attend(q, [table], layer=layer).tobytes() for layer in range(2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 8, 37])
@pytest.mark.parametrize("dropped", [0, 9])
def test_all_columns_are_sealed(dtype: str, tokens: int, dropped: int, tmp_path: Path) -> None:
    random = np.random.default_rng(tokens)
    plain, opening = new_pool(dtype, 0), new_pool(dtype, 2)
    table = quire.BlockTable(plain)
    table.append(rows(random, tokens), rows(random, tokens))
    table.drop_before(min(dropped, tokens))
    table.save(tmp_path / "plain")

    loaded = quire.load_table(opening, tmp_path / "plain")
    assert opening.explain(loaded).num_open == opening.stats().open_blocks == 0
    assert loaded.num_tokens == tokens
    if tokens > 0 and dropped == 0:
        assert attended(loaded) == attended(table)
    opening.check()

    # saved and loaded once more, and not into the plain pool, as its file may have open columns
    loaded.save(tmp_path / "opening")
    again = quire.load_table(opening, tmp_path / "opening")
    if tokens > 0 and dropped == 0:
        assert attended(again) == attended(table)
        kept = [loaded.gather(layer) for layer in range(2)]

    # going on opens the last block as the numbers that it stands for, rounded
    k, v = rows(random, 3), rows(random, 3)
    loaded.append(k, v)
    assert loaded.num_tokens == tokens + 3
    assert opening.explain(loaded).num_open >= 1
    if dropped == 0:
        for layer in range(2):
            got_k, _ = loaded.gather(layer)
            assert (got_k[tokens:] == k[layer].astype(ml_dtypes.bfloat16).astype(np.float32)).all()
            if tokens > 0:
                whole = tokens // BLOCK * BLOCK
                assert (got_k[:whole] == kept[layer][0][:whole]).all()
                part = kept[layer][0][whole:].astype(ml_dtypes.bfloat16).astype(np.float32)
                assert (got_k[whole:tokens] == part).all()
    opening.check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_open_columns_need_open_blocks(dtype: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    plain, opening = new_pool(dtype, 0), new_pool(dtype, 2)
    table = quire.BlockTable(opening)
    table.append(rows(random, 10), rows(random, 10))
    table.save(tmp_path / "table")
    message = (
        'quire.open_columns "2", expected none: the pool has no open blocks '
        r"\(open_blocks=0\), and what is in full precision would have to be quantised$"
    )
    with pytest.raises(ValueError, match=message):
        quire.load_table(plain, tmp_path / "table")
    assert plain.num_used == 0
    plain.check()
