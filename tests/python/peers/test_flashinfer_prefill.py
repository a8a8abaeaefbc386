"""quire.flashinfer's prefill: FlashInfer's names and meanings against a float64 reference."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from peer_attention import (
    DTYPES,
    PagedBatch,
    assert_close,
    attention,
    expected,
    paged_batch,
    queries,
    sampled,
    visible_keys,
)

import quire.flashinfer as flashinfer

LOG2_E = math.log2(math.e)
# (queries, keys) of each sequence
LENGTHS = [
    [(37, 54)] * 3,
    [(17, 97), (1, 1), (5, 5)],
    [(34, 1), (3, 2), (8, 0), (2, 33)],
    [(0, 9), (16, 16), (70, 20)],
]
POINTS: dict[str, list[Any]] = {
    "lengths": LENGTHS,
    "heads": [(4, 4), (8, 2), (6, 2)],
    "head_dim": [64, 40],
    "causal": [False, True],
    "window_left": [-1, 0, 7],
    "logits_soft_cap": [None, 3.0],
    "layout": ["NHD", "HND"],
    "dtype": list(DTYPES),
}
PAGED = {**POINTS, "page_size": [1, 5, 16], "form": ["tuple", "packed"]}


def lengths_of(point: dict[str, Any]) -> tuple[list[int], list[int], Any]:
    """Queries and keys of each sequence, and where its queries begin."""
    rows, keys = (list(x) for x in zip(*point["lengths"], strict=True))
    return rows, keys, np.concatenate([[0], np.cumsum(rows)]).astype(np.int32)


def options_of(point: dict[str, Any]) -> dict[str, Any]:
    options = {name: point[name] for name in ("causal", "window_left", "logits_soft_cap")}
    return {**options, "q_data_type": point["dtype"]}


def check(point: dict[str, Any], result: Any, q: Any, batch: PagedBatch, masks: Any = None) -> None:
    """Compares (out, lse) with the reference, under masks in place of causal where given."""
    rows, keys, _ = lengths_of(point)
    causal = point["causal"] and masks is None
    visible = [
        visible_keys(n, m, causal, point["window_left"]) for n, m in zip(rows, keys, strict=True)
    ]
    if masks is not None:
        visible = [seen & mask for seen, mask in zip(visible, masks, strict=True)]
    wanted = expected(q, rows, batch, visible, softcap=point["logits_soft_cap"] or 0.0)
    assert result[0].dtype == DTYPES[point["dtype"]]
    assert_close(result[0], wanted[0], point["dtype"])
    assert_close(result[1], wanted[1] * LOG2_E, point["dtype"])


def random_masks(point: dict[str, Any]) -> list[Any]:
    """Masks of each sequence; some rows see nothing."""
    random = np.random.default_rng(5)
    masks = [random.random(shape) < 0.6 for shape in point["lengths"]]
    for mask in masks:
        mask[::5] = False
    return masks


@pytest.mark.parametrize("point", sampled(60, seed=11, **PAGED), ids=str)
def test_batch_prefill_with_paged_kv_cache(point: dict[str, Any]) -> None:
    rows, keys, qo_indptr = lengths_of(point)
    heads, dim, dtype = point["heads"], point["head_dim"], point["dtype"]
    batch = paged_batch(keys, point["page_size"], heads[1], dim, dtype)
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None, point["layout"])
    paging = batch.indptr, batch.indices, batch.last_page_len
    wrapper.plan(qo_indptr, *paging, *heads, dim, batch.page_size, **options_of(point))
    q = queries(sum(rows), heads[0], dim, dtype)
    cache = batch.cache(point["form"], point["layout"])
    check(point, wrapper.run(q, cache, return_lse=True), q, batch)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("point", sampled(30, seed=12, **PAGED), ids=str)
def test_batch_prefill_with_paged_kv_cache_custom_mask(point: dict[str, Any], packed: bool) -> None:
    rows, keys, qo_indptr = lengths_of(point)
    heads, dim, dtype = point["heads"], point["head_dim"], point["dtype"]
    batch = paged_batch(keys, point["page_size"], heads[1], dim, dtype)
    masks = random_masks(point)
    flat = np.concatenate([mask.reshape(-1) for mask in masks])
    given: dict[str, Any] = {"custom_mask": flat}
    if packed:
        ends = np.concatenate([[0], np.cumsum([mask.size for mask in masks])])
        bits, _ = flashinfer.segment_packbits(flat, ends, bitorder="little")
        given = {"custom_mask": np.zeros_like(flat), "packed_custom_mask": bits}
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None, point["layout"])
    paging = batch.indptr, batch.indices, batch.last_page_len
    wrapper.plan(qo_indptr, *paging, *heads, dim, batch.page_size, **given, **options_of(point))
    q = queries(sum(rows), heads[0], dim, dtype)
    cache = batch.cache(point["form"], point["layout"])
    check(point, wrapper.run(q, cache, return_lse=True), q, batch, masks)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("point", sampled(30, seed=13, **POINTS), ids=str)
def test_batch_prefill_with_ragged_kv_cache(point: dict[str, Any], masked: bool) -> None:
    rows, keys, qo_indptr = lengths_of(point)
    heads, dim, dtype = point["heads"], point["head_dim"], point["dtype"]
    batch = paged_batch(keys, 1, heads[1], dim, dtype, v_head_dim=dim // 2)
    masks = random_masks(point) if masked else None
    flat = None if masks is None else np.concatenate([mask.reshape(-1) for mask in masks])
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(None, point["layout"])
    kv_indptr = np.concatenate([[0], np.cumsum(keys)]).astype(np.int32)
    wrapper.plan(qo_indptr, kv_indptr, *heads, dim, dim // 2, custom_mask=flat, **options_of(point))
    q = queries(sum(rows), heads[0], dim, dtype)
    k, v = np.concatenate(batch.keys), np.concatenate(batch.values)
    if point["layout"] == "HND":
        k, v = (np.ascontiguousarray(x.swapaxes(0, 1)) for x in (k, v))
    check(point, wrapper.run(q, k, v, return_lse=True), q, batch, masks)


@pytest.mark.parametrize("mode", ["NONE", "ALIBI"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lengths", [(5, 30), (30, 30), (41, 7), (1, 1), (4, 0)])
@pytest.mark.parametrize("causal", [False, True])
def test_single_prefill(lengths: tuple[int, int], causal: bool, masked: bool, mode: str) -> None:
    (rows, keys), window_left = lengths, 11
    random = np.random.default_rng(2)
    q = queries(rows, 6, 64)
    k, v = random.standard_normal((2, keys, 2, 64)).astype(np.float32)
    mask = random.random((rows, keys)) < 0.5
    visible = visible_keys(rows, keys, causal and not masked, window_left)
    out, lse = flashinfer.single_prefill_with_kv_cache_return_lse(
        q,
        k,
        v,
        custom_mask=mask if masked else None,
        causal=causal,
        window_left=window_left,
        pos_encoding_mode=mode,
        k_scale=0.5,
        v_scale=2.0,
    )
    slopes = np.array([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]) * (mode == "ALIBI")
    seen = visible & mask if masked else visible
    wanted = attention(q, k, v, seen, slopes=slopes, scale=0.5 / 8)
    assert_close(out, wanted[0] * 2, "float32", factor=2)
    assert_close(lse, (wanted[1] + slopes * (keys - rows)) * LOG2_E, "float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ragged_prefill_one_valid_key(dtype: str) -> None:
    q = np.full((1, 32, 128), 64, DTYPES[dtype])
    k = np.full((1, 8, 128), -64, DTYPES[dtype])
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(None)
    wrapper.plan([0, 1], [0, 1], 32, 8, 128, causal=True, q_data_type=dtype)
    out, lse = wrapper.run(q, k, np.ones_like(k), return_lse=True)
    assert (out == 1).all()
    np.testing.assert_allclose(lse, -524288 / math.sqrt(128) * LOG2_E, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
def test_paged_prefill_fully_masked_rows(dtype: str, causal: bool) -> None:
    # 34 queries and one key: under causal only the last of them sees it.
    q = np.zeros((34, 32, 128), DTYPES[dtype])
    cache = np.zeros((2, 1, 8, 128), DTYPES[dtype]), np.ones((2, 1, 8, 128), DTYPES[dtype])
    cache[0][0] = cache[1][0] = np.nan
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None)
    wrapper.plan([0, 34], [0, 1], [1], [1], 32, 8, 128, 1, causal=causal, q_data_type=dtype)
    given = np.full(q.shape, 7, q.dtype), np.full(q.shape[:2], 7, np.float32)
    out, lse = wrapper.run(q, cache, out=given[0], lse=given[1], return_lse=True)
    first = 33 if causal else 0
    assert (out[:first] == 0).all()
    assert (lse[:first] == -np.inf).all()
    assert (out[first:] == 1).all()
    assert (lse[first:] == 0).all()


def test_a_mask_of_nothing_is_zero() -> None:
    q, k = queries(3, 4, 64), queries(5, 4, 64)
    out, lse = flashinfer.single_prefill_with_kv_cache(
        q, k, k, custom_mask=np.zeros((3, 5), bool), return_lse=True
    )
    assert (out == 0).all()
    assert (lse == -np.inf).all()


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_masks_over_eight_bit_caches(layout: str) -> None:
    point = {
        "lengths": [(6, 40), (9, 3)],
        "causal": False,
        "window_left": -1,
        "logits_soft_cap": 0.0,
        "dtype": "float32",
    }
    rows, keys, qo_indptr = lengths_of(point)
    batch, masks = paged_batch(keys, 16, 2, 64), random_masks(point)
    caches = batch.cache("packed", layout).astype(ml_dtypes.float8_e4m3fn)
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None, layout)
    wrapper.plan(
        qo_indptr,
        batch.indptr,
        batch.indices,
        batch.last_page_len,
        4,
        2,
        64,
        16,
        custom_mask=np.concatenate([mask.reshape(-1) for mask in masks]),
        q_data_type="float32",
        kv_data_type=ml_dtypes.float8_e4m3fn,
    )
    q = queries(sum(rows), 4, 64)
    result = wrapper.run(q, caches, k_scale=0.5, v_scale=2.0, return_lse=True)
    for x, scale in [(batch.keys, 0.5), (batch.values, 2.0)]:
        x[:] = [rows.astype(caches.dtype).astype(np.float64) * scale for rows in x]
    check(point, result, q, batch, masks)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_batch_invariance(dtype: str) -> None:
    lengths = [(40, 40), (1, 300), (17, 64), (30, 9)]
    point = {"lengths": lengths}
    rows, keys, qo_indptr = lengths_of(point)
    batch = paged_batch(keys, 16, 2, 64, dtype)
    q, cache = queries(sum(rows), 8, 64, dtype), batch.cache("packed", "HND")

    def run(first: int, end: int) -> Any:
        begin = batch.indptr[first]
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None, "HND")
        wrapper.plan(
            qo_indptr[first : end + 1] - qo_indptr[first],
            batch.indptr[first : end + 1] - begin,
            batch.indices[begin : batch.indptr[end]],
            batch.last_page_len[first:end],
            8,
            2,
            64,
            16,
            causal=True,
            q_data_type=dtype,
        )
        return wrapper.run(q[qo_indptr[first] : qo_indptr[end]], cache, return_lse=True)

    together = run(0, 4)
    for sequence in range(4):
        for one, all_of_them in zip(run(sequence, sequence + 1), together, strict=True):
            some = all_of_them[qo_indptr[sequence] : qo_indptr[sequence + 1]]
            assert one.tobytes() == some.tobytes()


@pytest.mark.parametrize("page_size", [1, 8, 16])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("softcap", [0.0, 4.0])
def test_batch_attention(page_size: int, layout: str, softcap: float) -> None:
    # Prefill, decode, a chunk that goes on, and a sequence without a query in one batch.
    point = {
        "lengths": [(33, 33), (1, 146), (17, 60), (0, 5)],
        "causal": True,
        "window_left": -1,
        "logits_soft_cap": softcap,
        "dtype": "bfloat16",
    }
    rows, keys, qo_indptr = lengths_of(point)
    batch = paged_batch(keys, page_size, 2, 64, "bfloat16")
    wrapper = flashinfer.BatchAttention(layout)
    wrapper.plan(
        qo_indptr,
        batch.indptr,
        batch.indices,
        np.array(keys),
        8,
        2,
        64,
        64,
        page_size,
        causal=True,
        logits_soft_cap=softcap,
    )
    q = queries(sum(rows), 8, 64, "bfloat16")
    result = wrapper.run(q, batch.cache("tuple", layout), logits_soft_cap=softcap)
    check(point, result, q, batch)
    with pytest.raises(ValueError, match=r"logits_soft_cap: got 9\.0, expected"):
        wrapper.run(q, batch.cache("tuple", layout), logits_soft_cap=9.0)


@pytest.mark.parametrize("window_left", [-1, 0, 20])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_sink_wrapper(window_left: int, causal: bool) -> None:
    lengths = [(5, 40), (33, 33)]
    rows, keys, qo_indptr = lengths_of({"lengths": lengths})
    batch = paged_batch(keys, 16, 2, 64)
    sink = np.array([-2, 0, 1, 4], np.float32)
    wrapper = flashinfer.BatchAttentionWithAttentionSinkWrapper(None, window_left=window_left)
    wrapper.plan(
        qo_indptr,
        batch.indptr,
        batch.indices,
        batch.last_page_len,
        4,
        2,
        64,
        16,
        causal=causal,
        window_left=window_left,
        q_data_type="float32",
    )
    q = queries(sum(rows), 4, 64)
    cache = batch.cache("tuple", "NHD")
    visible = [visible_keys(n, m, causal, window_left) for n, m in lengths]
    for args, scale in [((sink,), 1 / 8), ((sink, 0.3), 0.3)]:
        out, lse = wrapper.run_return_lse(q, cache, *args)
        wanted = expected(q, rows, batch, visible, sinks=sink, scale=scale)
        assert_close(out, wanted[0], "float32")
        assert_close(lse, wanted[1] * LOG2_E, "float32")
    with pytest.raises(ValueError, match="args: got 0 arguments, expected sink"):
        wrapper.run(q, cache)
