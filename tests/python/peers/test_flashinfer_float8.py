"""quire.flashinfer over 8-bit floats: caches held as uint8, scales of heads and of sequences, and
queries of 8-bit floats, against a float64 reference."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from peer_attention import PagedBatch, assert_close, attention, paged_batch, queries, visible_keys

import quire.flashinfer as flashinfer

E4M3, E5M2 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)
LOG2_E = math.log2(math.e)
KV_LENS, ROWS, HEADS, SIZE = [40, 11, 7], [3, 1, 9], 2, 64
STARTS = np.concatenate([[0], np.cumsum(ROWS)])


def stored(dtype: Any) -> tuple[PagedBatch, Any]:
    """A batch of numbers of 8 bits, as float64 too, and its caches."""
    batch = paged_batch(KV_LENS, 16, HEADS, SIZE)
    for rows in (batch.keys, batch.values):
        rows[:] = [(x * 8).astype(dtype).astype(np.float64) for x in rows]
    return batch, tuple((x * 8).astype(dtype) for x in batch.cache("tuple", "NHD"))


def expected(q: Any, batch: PagedBatch, k_scale: Any, v_scale: Any, masks: Any = None) -> Any:
    """(out, lse in base 2), causal unless there are masks; scales broadcast to [B, Hkv]."""
    outs, lses = [], []
    for i, (begin, end) in enumerate(itertools.pairwise(STARTS)):
        k, v = (
            rows[i] * np.broadcast_to(scale, (len(KV_LENS), HEADS))[i][:, None]
            for rows, scale in [(batch.keys, k_scale), (batch.values, v_scale)]
        )
        seen = visible_keys(ROWS[i], KV_LENS[i], True) if masks is None else masks[i]
        out, lse = attention(q[begin:end], k, v, seen)
        outs.append(out)
        lses.append(lse)
    return np.concatenate(outs), np.concatenate(lses) * LOG2_E


def planned(batch: PagedBatch, q_dtype: Any, kv_dtype: Any, **options: Any) -> Any:
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None)
    arguments = STARTS, batch.indptr, batch.indices, batch.last_page_len, 4, HEADS, SIZE, 16
    dtypes = {"q_data_type": q_dtype, "kv_data_type": kv_dtype}
    wrapper.plan(*arguments, **dtypes, **({"causal": True} | options))
    return wrapper


def check(result: Any, wanted: Any, dtype: str) -> None:
    assert_close(np.asarray(result[0]), wanted[0], dtype, factor=3)
    np.testing.assert_allclose(result[1], wanted[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_caches_of_bytes_with_scales_of_their_own(dtype: Any, masked: bool) -> None:
    random = np.random.default_rng(1)
    batch, caches = stored(dtype)
    as_bytes = np.stack(caches, axis=1).view(np.uint8)
    masks = [random.random((n, m)) < 0.5 for n, m in zip(ROWS, KV_LENS, strict=True)]
    flat = np.concatenate([mask.reshape(-1) for mask in masks])
    wrapper = planned(batch, "float32", dtype, custom_mask=flat if masked else None)
    q = queries(13, 4, SIZE)
    each = random.uniform(0.02, 0.1, (2, 3, HEADS)).astype(np.float32)
    for k_scale, v_scale in [each, each[:, 0], (0.05, each[1]), (np.array([0.05]), 0.25)]:
        result = wrapper.run(q, as_bytes, k_scale=k_scale, v_scale=v_scale, return_lse=True)
        wanted = expected(q, batch, k_scale, v_scale, masks if masked else None)
        check(result, wanted, "float16")


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("by_position", [False, True])
def test_queries_of_eight_bits(dtype: Any, by_position: bool) -> None:
    batch, caches = stored(dtype)
    q = (queries(13, 4, SIZE) * 8).astype(dtype)
    random = np.random.default_rng(2)
    heads = random.uniform(0.05, 0.2, 4).astype(np.float32)
    each = random.uniform(0.02, 0.1, (2, HEADS)).astype(np.float32)
    for q_scale, o_dtype in [(heads, None), (0.125, "float16"), (np.float32(0.125), "float32")]:
        scales = {"q_scale": q_scale, "k_scale": each[0], "v_scale": each[1]}
        real = q.astype(np.float64) * np.broadcast_to(q_scale, 4)[:, None]
        wanted = expected(real, batch, *each)
        given: Any = (scales.values(), {}) if by_position else ((), scales)
        wrapper = planned(batch, dtype, dtype, o_data_type=o_dtype)
        result = wrapper.run(q, caches, *given[0], **given[1], return_lse=True)
        assert result[0].dtype == (ml_dtypes.bfloat16 if o_dtype is None else o_dtype)
        check(result, wanted, "bfloat16" if o_dtype is None else "float16")
    with pytest.raises(ValueError, match=r"run: args: got scales by position and by name"):
        wrapper.run(q, caches, *scales.values(), k_scale=1.0)


def test_contiguous_keys_and_one_query() -> None:
    batch, _ = stored(E4M3)
    keys, values = (np.concatenate(rows).astype(E4M3) for rows in (batch.keys, batch.values))
    q = (queries(13, 4, SIZE) * 8).astype(E4M3)
    real = q.astype(np.float64) * 0.125
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(None)
    kv_indptr = np.concatenate([[0], np.cumsum(KV_LENS)])
    wrapper.plan(STARTS, kv_indptr, 4, HEADS, SIZE, causal=True, q_data_type=E4M3)
    each = np.array([[0.03, 0.1], [0.05, 0.02], [0.1, 0.04]], np.float32)
    as_bytes = keys.view(np.uint8), values.view(np.uint8)
    result = wrapper.run(q, *as_bytes, 0.125, each, 0.1, return_lse=True)
    check(result, expected(real, batch, each, 0.1), "bfloat16")

    scales: Any = {"scale_q": np.full(4, 0.125), "scale_k": each[0], "scale_v": each[1]}
    single = flashinfer.single_prefill_with_kv_cache
    out = single(q[:3], keys[:40], values[:40], **scales, causal=True, o_dtype="float32")
    wanted = expected(real, batch, each[0], each[1])
    assert_close(out, wanted[0][:3], "float16", factor=3)
    out = flashinfer.single_decode_with_kv_cache(
        q[2], keys[:40], values[:40], q_scale=0.125, k_scale=each[0], v_scale=each[1]
    )
    assert out.dtype == ml_dtypes.bfloat16
    assert_close(out, wanted[0][2], "bfloat16", factor=3)
    with pytest.raises(ValueError, match="scale_k: got it and k_scale, expected one of the two"):
        single(q, keys, values, scale_k=each[0], k_scale=2.0)


def test_rows_of_eight_bits_go_into_bytes() -> None:
    rows = (queries(5, 2 * HEADS, SIZE) * 8).astype(E5M2).reshape(5, 2, HEADS, SIZE)
    pages = np.zeros((2, 2, 16, HEADS, SIZE), np.uint8)
    flashinfer.append_paged_kv_cache(
        rows[:, 0], rows[:, 1], [0] * 5, np.arange(5), pages, [1], [0, 1], [5]
    )
    assert pages[1, :, :5].tobytes() == rows.swapaxes(0, 1).tobytes()
    assert not pages[0].any()
    assert not pages[1, :, 5:].any()


def test_refusals() -> None:
    batch, caches = stored(E4M3)
    q = queries(13, 4, SIZE)
    with pytest.raises(
        NotImplementedError, match="plan: o_data_type: got float8_e4m3fn, expected f"
    ):
        planned(batch, E4M3, E4M3, o_data_type=E4M3)
    wrapper = planned(batch, "float32", E4M3)
    for name, wrong in [
        ("k_scale", np.ones(4)),
        ("v_scale", np.ones((2, HEADS))),
        ("q_scale", np.ones(2)),
    ]:
        with pytest.raises(ValueError, match=f"run: {name}: got shape .*, expected one number"):
            wrapper.run(q, caches, **{name: wrong})
    with pytest.raises(NotImplementedError, match="run: args: got tuple"):
        wrapper.run(q, caches, 1.0, 1.0, 1.0)
    plain = planned(batch, "float32", "float32")
    with pytest.raises(ValueError, match=r"run: k_scale: got shape \[2\], expected one number"):
        plain.run(q, batch.cache("tuple", "NHD"), k_scale=np.ones(2))
    with pytest.raises(NotImplementedError, match=r"got dtype uint8.*NVFP4"):
        plain.run(q, tuple(cache.view(np.uint8) for cache in caches))
    with pytest.raises(TypeError, match="q: got float8_e4m3fn for keys of float32"):
        planned(batch, E4M3, "float32").run(q.astype(E4M3), batch.cache("tuple", "NHD"))


def test_tensors_of_pytorch() -> None:
    torch: Any = pytest.importorskip("torch")
    batch, caches = stored(E4M3)
    q = (queries(13, 4, SIZE) * 8).astype(E4M3)
    tensor = torch.from_numpy(q.view(np.uint8)).view(torch.float8_e4m3fn)
    as_bytes = tuple(torch.from_numpy(cache.view(np.uint8)) for cache in caches)
    wrapper = planned(batch, torch.float8_e4m3fn, torch.float8_e4m3fn)
    scales = {name: torch.tensor([0.05, 0.1]) for name in ("k_scale", "v_scale")}
    out, lse = wrapper.run(tensor, as_bytes, q_scale=torch.tensor(0.125), **scales, return_lse=True)
    assert out.dtype == torch.bfloat16
    each = np.array([0.05, 0.1])
    wanted = expected(q.astype(np.float64) * 0.125, batch, each, each)
    check((out.float().numpy(), lse.numpy()), wanted, "bfloat16")
