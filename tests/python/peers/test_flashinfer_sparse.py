"""quire.flashinfer's block-sparse and latent attention against a float64 reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from peer_attention import (
    DTYPES,
    assert_close,
    attention,
    paged_batch,
    queries,
    sampled,
    visible_keys,
)

import quire
import quire.flashinfer as flashinfer

LOG2_E = math.log2(math.e)
SPARSE = sampled(
    40,
    seed=3,
    sizes=[(1, 64, 64), (16, 16, 96), (1, 1, 20), (7, 5, 40)],  # R, C, N
    M=[1, 30, 64],
    heads=[(4, 4), (8, 1), (6, 2)],
    inner=["none", "mask", "packed"],
    softcap=[None, 3.0],
    dtype=list(DTYPES),
)


def block_matrix(block_rows: int, block_columns: int) -> tuple[Any, Any, Any]:
    """Random blocks as (bool matrix, indptr, indices); the second row has none."""
    seen = np.random.default_rng(8).random((block_rows, block_columns)) < 0.5
    seen[1:2] = False
    indptr = np.concatenate([[0], np.cumsum(seen.sum(axis=1))]).astype(np.int32)
    return seen, indptr, np.nonzero(seen)[1].astype(np.int32)


@pytest.mark.parametrize("point", SPARSE, ids=str)
def test_block_sparse_attention(point: dict[str, Any]) -> None:
    (rows, columns, keys), count = point["sizes"], point["M"]
    heads, dtype = point["heads"], point["dtype"]
    seen, indptr, indices = block_matrix(-(-count // rows), keys // columns)
    visible = np.kron(seen, np.ones((rows, columns), bool))[:count]
    inner = np.random.default_rng(9).random((len(indices), rows, columns)) < 0.7
    given: dict[str, Any] = {}
    if point["inner"] != "none":
        for block, (i, j) in zip(inner, np.argwhere(seen), strict=True):
            area = visible[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            area &= block[: len(area)]
        given = {"mask": inner}
    if point["inner"] == "packed":
        flat, ends = [], [0]
        for i in range(len(seen)):
            some = visible[i * rows : (i + 1) * rows]
            flat.append(some[:, np.repeat(seen[i], columns)].reshape(-1))
            ends.append(ends[-1] + len(flat[-1]))
        packed, _ = flashinfer.segment_packbits(np.concatenate(flat), np.array(ends), "little")
        given = {"packed_mask": packed}
    wrapper = flashinfer.BlockSparseAttentionWrapper()
    wrapper.plan(
        indptr,
        indices,
        count,
        keys,
        rows,
        columns,
        *heads,
        64,
        logits_soft_cap=point["softcap"],
        q_data_type=dtype,
        o_data_type=dtype,
        **given,
    )
    q = queries(count, heads[0], 64, dtype)
    k, v = (queries(keys, heads[1], 64, dtype, seed=seed) for seed in (4, 5))
    # What no block leads to is not read.
    unseen = ~np.repeat(seen.any(axis=0), columns)
    k[unseen], v[unseen] = np.nan, np.nan
    out, lse = wrapper.run(q, k, v, return_lse=True)
    wanted = attention(q, k, v, visible, softcap=point["softcap"] or 0.0)
    assert_close(out, wanted[0], dtype)
    assert_close(lse, wanted[1] * LOG2_E, dtype)


def test_causal_block_rows_and_the_dtype_of_results() -> None:
    # The keys of a row of blocks count as the last before its last query: 4 queries, 2 * 3 keys.
    q, k = queries(8, 2, 64), queries(9, 2, 64, seed=2)
    wrapper = flashinfer.BlockSparseAttentionWrapper()
    wrapper.plan([0, 2, 3], [0, 2, 1], 8, 9, 4, 3, 2, 2, 64, causal=True, q_data_type="float32")
    out = wrapper.run(q, k, k)
    assert out.dtype == np.float16
    for rows, keys in [(slice(0, 4), [0, 1, 2, 6, 7, 8]), (slice(4, 8), [3, 4, 5])]:
        visible = visible_keys(4, len(keys), True)
        assert_close(out[rows], attention(q[rows], k[keys], k[keys], visible)[0], "float16")


def test_block_sparse_refuses() -> None:
    plan = flashinfer.BlockSparseAttentionWrapper().plan
    with pytest.raises(ValueError, match="plan: N: got 10, expected a multiple of C, 3"):
        plan([0, 0], [], 4, 10, 4, 3, 2, 2, 64)
    with pytest.raises(IndexError, match="plan: indices: got 3, expected 0 to 2"):
        plan([0, 1], [3], 4, 9, 4, 3, 2, 2, 64)
    with pytest.raises(ValueError, match=r"plan: indptr: got shape \[2\], expected \[3\]"):
        plan([0, 1], [0], 5, 9, 4, 3, 2, 2, 64)
    with pytest.raises(ValueError, match=r"plan: mask: got bool \[1, 4, 2\], expected bool"):
        plan([0, 1], [0], 4, 9, 4, 3, 2, 2, 64, mask=np.ones((1, 4, 2), bool))
    with pytest.raises(NotImplementedError, match="plan: block_mask: got ndarray"):
        plan(None, None, 4, 9, 4, 3, 2, 2, 64, block_mask=np.ones((2, 1, 3), bool))


LATENT = sampled(
    30,
    seed=4,
    lengths=[[(1, 1), (1, 64)], [(3, 17), (1, 0), (5, 129)], [(7, 3), (2, 33)]],
    page_size=[1, 16, 64],
    num_heads=[4, 16],
    sizes=[(64, 16), (512, 64), (128, 0)],
    causal=[False, True],
    place=["side by side", "apart", "apart with the strides of one array"],
    dtype=list(DTYPES),
)


@pytest.mark.parametrize("point", LATENT, ids=str)
def test_batch_mla_paged_attention(point: dict[str, Any]) -> None:
    (size, rest), dtype, heads = point["sizes"], point["dtype"], point["num_heads"]
    rows, keys = (list(x) for x in zip(*point["lengths"], strict=True))
    batch = paged_batch(keys, point["page_size"], 1, size + rest, dtype)
    whole = batch.k_cache[:, :, 0]
    ckv, kpe = whole[..., :size], whole[..., size:]
    if point["place"] == "apart":
        ckv, kpe = ckv.copy(), kpe.copy()
    elif point["place"] != "side by side":
        first, second = whole.copy(), whole.copy()
        first[..., size:], second[..., :size] = np.nan, np.nan
        ckv, kpe = first[..., :size], second[..., size:]
    qo_indptr = np.concatenate([[0], np.cumsum(rows)]).astype(np.int32)
    wrapper = flashinfer.BatchMLAPagedAttentionWrapper(None)
    wrapper.plan(
        qo_indptr,
        batch.indptr,
        batch.indices,
        np.array(keys, np.int32),
        heads,
        size,
        rest,
        point["page_size"],
        point["causal"],
        0.1,
        dtype,
        dtype,
    )
    q = queries(sum(rows), heads, size + rest, dtype)
    arguments = q[..., :size], q[..., size:], ckv, kpe
    out, lse = wrapper.run(*arguments, return_lse=True)
    for begin, end, k in zip(qo_indptr, qo_indptr[1:], batch.keys, strict=False):
        visible = visible_keys(end - begin, len(k), point["causal"])
        wanted = attention(q[begin:end], k, k[..., :size], visible, scale=0.1)
        assert_close(out[begin:end], wanted[0], dtype)
        assert_close(lse[begin:end], wanted[1] * LOG2_E, dtype, factor=4)
    given = np.empty_like(out), np.empty_like(lse)
    again, natural = wrapper.run(*arguments, *given, return_lse=True, return_lse_base_on_e=True)
    assert again is given[0]
    assert natural is given[1]
    np.testing.assert_array_equal(again, out)
    np.testing.assert_allclose(natural, lse / LOG2_E, rtol=1e-6)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_latents_are_read_where_they_lie(
    dtype: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pool, or in two arrays, with the same bits."""
    pool = quire.BlockPool(
        9, num_kv_heads=1, head_dim=576, v_head_dim=512, dtype=dtype, shared=True
    )
    table = quire.BlockTable(pool)
    table.append(queries(70, 1, 576, dtype))
    cache = pool.k_cache()[:, :, 0]
    ckv, kpe = cache[..., :512], cache[..., 512:]
    if apart:
        ckv, kpe = ckv.copy(), kpe.copy()
    blocks = table.blocks
    wrapper = flashinfer.BatchMLAPagedAttentionWrapper(None)
    paging = [0, 1], [0, len(blocks)], blocks, [70]
    wrapper.plan(*paging, 16, 512, 64, 16, True, 0.1, dtype, dtype)
    q = queries(1, 16, 576, dtype, seed=1)
    read = []
    attend = quire.paged_attention

    def spy(q: Any, k: Any, v: Any, *arguments: Any, k_tail: Any, **options: Any) -> Any:
        read.extend(None if x is None else x.ctypes.data for x in (k, v, k_tail))
        return attend(q, k, v, *arguments, k_tail=k_tail, **options)

    monkeypatch.setattr(quire, "paged_attention", spy)
    out = wrapper.run(q[..., :512], q[..., 512:], ckv, kpe)
    assert read == [ckv.ctypes.data, ckv.ctypes.data, kpe.ctypes.data if apart else None]
    assert out.tobytes() == quire.attend(q, [table], scale=0.1).tobytes()


def test_latent_attention_refuses() -> None:
    wrapper = flashinfer.BatchMLAPagedAttentionWrapper(None)
    common: list[Any] = [[0, 1], [0, 1], [5], [3], 4, 64, 16, 8, False, 0.1]
    with pytest.raises(NotImplementedError, match="plan: kv_data_type: got float8_e4m3fn"):
        wrapper.plan(*common, "bfloat16", "float8_e4m3fn")
    with pytest.raises(ValueError, match="plan: kv_len_arr: got 9 at 0, expected 0 to 8"):
        wrapper.plan(*common[:3], [9], *common[4:], "float32", "float32")
    wrapper.plan(*common, "float32", "float32")
    q = queries(1, 4, 80)
    cache = np.zeros((3, 8, 64), np.float32), np.zeros((3, 8, 16), np.float32)
    with pytest.raises(IndexError, match="ckv_cache: got 3 pages, expected page 5"):
        wrapper.run(q[..., :64], q[..., 64:], *cache)
    with pytest.raises(NotImplementedError, match=r"run: ckv_scale: got 2\.0"):
        wrapper.run(q[..., :64], q[..., 64:], *cache, ckv_scale=2.0)
    with pytest.raises(ValueError, match=r"run: q_pe: got shape \[1, 4, 64\]"):
        wrapper.run(q[..., :64], q[..., :64], *cache)
