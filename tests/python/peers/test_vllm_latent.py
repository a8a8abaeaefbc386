"""quire.vllm's caches of latents against a float64 reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from peer_attention import DTYPES, assert_close, attention, queries, visible_keys

import quire.vllm as vllm


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_concat_and_cache_mla(dtype: str, kv_cache_dtype: str) -> None:
    """What it writes is read with latents as values, without a copy."""
    eight_bits = kv_cache_dtype == "fp8"
    rows = queries(42, 1, 576, dtype, seed=2)[:, 0]
    kv_c, k_pe = rows[:, :512], rows[:, 512:]
    cache = np.full((6, 16, 576), 64, np.uint8 if eight_bits else DTYPES[dtype])
    slots = np.random.default_rng(3).permutation(96)[:40]
    slots[7] = -1
    before = cache.copy()
    scale = np.array([0.02], np.float32)
    vllm.concat_and_cache_mla(kv_c, k_pe, cache, slots, kv_cache_dtype, scale)
    written = np.sort(slots[slots >= 0])
    places = np.setdiff1d(np.arange(96), written)
    assert cache.reshape(96, 576)[places].tobytes() == before.reshape(96, 576)[places].tobytes()
    numbers = cache.view(ml_dtypes.float8_e4m3fn) if eight_bits else cache
    stored = numbers.astype(np.float64).reshape(96, 576) * (0.02 if eight_bits else 1)
    real = rows[:40].astype(np.float64)
    for row, slot in zip(real, slots, strict=True):
        if slot >= 0:
            tolerance = {"rtol": 0.07, "atol": 0.02} if eight_bits else {"rtol": 0}
            np.testing.assert_allclose(stored[slot], row, **tolerance)
    q = queries(2, 16, 576, "float32", seed=4)
    latent = numbers[:, :, None]
    out = vllm.flash_attn_varlen_func(
        q,
        latent,
        latent[..., :512],
        2,
        [0, 2],
        96,
        seqused_k=[96],
        causal=True,
        block_table=np.arange(6)[None],
        k_descale=scale if eight_bits else None,
        v_descale=scale if eight_bits else None,
    )
    k = stored[:, None]
    assert_close(out, attention(q, k, k[..., :512], visible_keys(2, 96, True))[0], "bfloat16")


def test_concat_and_cache_mla_refuses() -> None:
    kv_c, k_pe, cache = np.ones((2, 8)), np.ones((2, 4)), np.zeros((2, 4, 12), np.float32)
    kv_c, k_pe = kv_c.astype(np.float32), k_pe.astype(np.float32)

    def write(**given: Any) -> None:
        arguments = {"kv_c": kv_c, "k_pe": k_pe, "kv_cache": cache, "slot_mapping": [0, 1]}
        options = {"kv_cache_dtype": "auto", "scale": 1.0}
        vllm.concat_and_cache_mla(**{**arguments, **options, **given})

    for error, message, given in [
        (ValueError, r"kv_cache: got a last axis of 12, expected 11", {"k_pe": k_pe[:, :3]}),
        (ValueError, r"k_pe: got shape \[2, 0\]", {"k_pe": k_pe[:, :0]}),
        (ValueError, r"kv_c: got shape \[2, 1, 8\]", {"kv_c": kv_c[:, None]}),
        (ValueError, "k_pe: got 1 rows, expected 2", {"k_pe": k_pe[:1]}),
        (ValueError, "kv_cache: got uint8", {"kv_cache": cache.astype(np.uint8)}),
        (NotImplementedError, "kv_cache_dtype: got 'fp8_inc'", {"kv_cache_dtype": "fp8_inc"}),
        (IndexError, "slot_mapping: got 8 at row 1", {"slot_mapping": [0, 8]}),
        (TypeError, "k_pe: got int", {"k_pe": 3}),
    ]:
        with pytest.raises(error, match=message):
            write(**given)
    assert not cache.any()
