"""quire.flashinfer's decode: FlashInfer's names and meanings against a float64 reference."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from peer_attention import (
    DTYPES,
    TOLERANCE,
    PagedBatch,
    assert_close,
    expected,
    paged_batch,
    queries,
    sampled,
    visible_keys,
)

import quire.flashinfer as flashinfer

LOG2_E = math.log2(math.e)
GRID = sampled(
    60,
    seed=7,
    kv_lens=[[54] * 12, [97, 1, 33], [512, 0, 3], [17, 16, 15, 1]],
    page_size=[1, 5, 8, 16],
    heads=[(4, 4), (32, 4), (6, 2), (3, 1)],
    head_dim=[64, 128, 96],
    layout=["NHD", "HND"],
    form=["tuple", "packed"],
    dtype=list(DTYPES),
    logits_soft_cap=[None, 0.0, 5.0],
    window_left=[-1, 0, 13],
)


def planned(
    batch: PagedBatch,
    heads: tuple[int, int],
    head_dim: int,
    layout: str,
    dtype: str,
    **options: Any,
) -> Any:
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(None, layout)
    arguments = batch.indptr, batch.indices, batch.last_page_len
    wrapper.plan(*arguments, *heads, head_dim, batch.page_size, q_data_type=dtype, **options)
    return wrapper


@pytest.mark.parametrize("point", GRID, ids=str)
def test_batch_decode_with_paged_kv_cache(point: dict[str, Any]) -> None:
    heads, head_dim, dtype = point["heads"], point["head_dim"], point["dtype"]
    batch = paged_batch(point["kv_lens"], point["page_size"], heads[1], head_dim, dtype)
    options = {name: point[name] for name in ("logits_soft_cap", "window_left")}
    wrapper = planned(batch, heads, head_dim, point["layout"], dtype, **options)
    q = queries(len(batch.kv_lens), heads[0], head_dim, dtype)
    cache = batch.cache(point["form"], point["layout"])
    out, lse = wrapper.run(q, cache, return_lse=True)
    visible = [visible_keys(1, m, True, point["window_left"]) for m in batch.kv_lens]
    softcap = point["logits_soft_cap"] or 0.0
    wanted = expected(q, [1] * len(q), batch, visible, softcap=softcap)
    assert out.dtype == DTYPES[dtype]
    assert lse.dtype == np.float32
    assert_close(out, wanted[0], dtype)
    assert_close(lse, wanted[1] * LOG2_E, dtype)
    np.testing.assert_array_equal(wrapper.run(q, cache), out)
    np.testing.assert_array_equal(wrapper.run_return_lse(q, cache)[1], lse)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_pages_of_one_token_without_their_axis(layout: str) -> None:
    batch = paged_batch([5, 9], 1, 2, 32)
    wrapper = planned(batch, (4, 2), 32, layout, "float32")
    q = queries(2, 4, 32)
    pair = batch.cache("pages of one", layout)
    wanted = wrapper.run(q, batch.cache("tuple", layout))
    np.testing.assert_array_equal(wrapper.run(q, pair), wanted)
    np.testing.assert_array_equal(wrapper.run(q, np.stack(pair, axis=1)), wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_paged_decode_extreme_negative_logits(dtype: str) -> None:
    # Two keys whose products are -524288: softmax is that of equal scores, whatever their size.
    heads, head_dim = (32, 4), 128
    q = np.full((1, 32, head_dim), 64, DTYPES[dtype])
    k_cache = np.full((17, 1, 4, head_dim), -64, DTYPES[dtype])
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(None)
    wrapper.plan([0, 2], [15, 16], [1], *heads, head_dim, 1, q_data_type=dtype)
    out, lse = wrapper.run(q, (k_cache, np.ones_like(k_cache)), return_lse=True)
    assert (out == 1).all()
    wanted = (-524288 / math.sqrt(head_dim) + math.log(2)) * LOG2_E
    np.testing.assert_allclose(lse, wanted, rtol=1e-6)


def test_mlc_failed_case() -> None:
    # The first sequence has no page at all, the second one token more than eight pages.
    dtype, heads, head_dim = "float16", (32, 32), 128
    random = np.random.default_rng(3)
    cache = random.standard_normal((12, 2, 32, 16, head_dim)).astype(np.float16)
    indices = np.arange(3, 12, dtype=np.int32)
    cache[11, :, :, 1:] = np.nan
    cache[:3] = np.nan
    q = queries(2, 32, head_dim, dtype)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(None, "HND", use_tensor_cores=True)
    assert wrapper.use_tensor_cores
    wrapper.plan(
        [0, 0, 9], indices, [0, 1], *heads, head_dim, 16, data_type=dtype, q_data_type=dtype
    )
    out, lse = wrapper.run_return_lse(q, cache)
    assert (out[0] == 0).all()
    assert (lse[0] == -np.inf).all()
    pages = cache[indices].swapaxes(2, 3)
    keys, values = (pages[:, i].reshape(-1, 32, head_dim)[:129] for i in range(2))
    batch = PagedBatch([129], 16, None, None, None, None, None, [keys], [values])
    wanted = expected(q[1:], [1], batch, [visible_keys(1, 129, True)])
    assert_close(out[1:], wanted[0], dtype)
    assert_close(lse[1:], wanted[1] * LOG2_E, dtype)


def test_several_queries_of_each_request_are_causal() -> None:
    batch = paged_batch([20, 3, 7], 8, 2, 64)
    wrapper = planned(batch, (4, 2), 64, "NHD", "float32", q_len_per_req=3)
    q = queries(9, 4, 64)
    visible = [visible_keys(3, m, True) for m in batch.kv_lens]
    wanted, _ = expected(q, [3] * 3, batch, visible)
    assert_close(wrapper.run(q, batch.cache("packed", "NHD"), q_len_per_req=3), wanted, "float32")
    with pytest.raises(ValueError, match=r"run: q_len_per_req: got 2, expected 3 as planned"):
        wrapper.run(q, batch.cache("packed", "NHD"), q_len_per_req=2)


def test_scales_of_plain_and_of_eight_bit_caches() -> None:
    batch = paged_batch([40, 11], 16, 2, 64)
    q = queries(2, 4, 64)
    cache = batch.cache("tuple", "NHD")
    scales = {"q_scale": 0.5, "k_scale": 0.25, "v_scale": 3.0}
    out, lse = planned(batch, (4, 2), 64, "NHD", "float32").run(q, cache, **scales, return_lse=True)
    visible = [visible_keys(1, m, True) for m in batch.kv_lens]
    wanted = expected(q, [1, 1], batch, visible, scale=64**-0.5 * 0.125)
    assert_close(out, wanted[0] * 3, "float32", factor=3)
    assert_close(lse, wanted[1] * LOG2_E, "float32")

    eight_bits = tuple((x * 4).astype(ml_dtypes.float8_e4m3fn) for x in cache)
    wrapper = planned(batch, (4, 2), 64, "NHD", "float32", kv_data_type="float8_e4m3fn")
    out, lse = wrapper.run(q, eight_bits, k_scale=0.25, v_scale=np.float32(0.25), return_lse=True)
    for rows in (batch.keys, batch.values):
        rows[:] = [(x * 4).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) / 4 for x in rows]
    wanted = expected(q, [1, 1], batch, visible)
    assert_close(out, wanted[0], "float32")
    assert_close(lse, wanted[1] * LOG2_E, "float32")


def test_sinks_and_given_outputs() -> None:
    batch = paged_batch([40, 11], 16, 2, 64)
    q, sinks = queries(2, 4, 64), np.array([-1, 0, 3, 50], np.float32)
    wrapper = planned(batch, (4, 2), 64, "HND", "float32", o_data_type="float16", sm_scale=0.3)
    given = np.empty((2, 4, 64), np.float16), np.empty((2, 4), np.float32)
    cache = batch.cache("packed", "HND")
    out, lse = wrapper.run(q, cache, sinks=sinks, out=given[0], lse=given[1], return_lse=True)
    assert out is given[0]
    assert lse is given[1]
    visible = [visible_keys(1, m, True) for m in batch.kv_lens]
    wanted = expected(q, [1, 1], batch, visible, sinks=sinks, scale=0.3)
    assert_close(out, wanted[0], "float16")
    assert_close(lse, wanted[1] * LOG2_E, "float32")
    with pytest.raises(ValueError, match=r"run: out: got float32 .*, expected float16"):
        wrapper.run(q, cache, out=np.empty((2, 4, 64), np.float32))


def test_alibi_counts_positions_from_the_query() -> None:
    # One query per sequence has position 0, so a score gains slope * key's position.
    batch = paged_batch([40, 1, 17], 16, 2, 64)
    q = queries(3, 6, 64)
    wrapper = planned(batch, (6, 2), 64, "NHD", "float32", pos_encoding_mode="ALIBI")
    out, lse = wrapper.run(q, batch.cache("tuple", "NHD"), return_lse=True)
    slopes = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    visible = [visible_keys(1, m, True) for m in batch.kv_lens]
    wanted = expected(q, [1] * 3, batch, visible, slopes=slopes)
    more = np.array(batch.kv_lens)[:, None] - 1
    assert_close(out, wanted[0], "float32")
    assert_close(lse, (wanted[1] + more * np.array(slopes)) * LOG2_E, "float32")


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_batch_invariance(dtype: str) -> None:
    batch = paged_batch([300, 7, 64, 0, 129], 16, 2, 64, dtype)
    q = queries(5, 8, 64, dtype)
    cache = batch.cache("tuple", "NHD")
    together = planned(batch, (8, 2), 64, "NHD", dtype).run(q, cache, return_lse=True)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(None)
    for row in range(5):
        begin, end = batch.indptr[row : row + 2]
        wrapper.plan(
            [0, end - begin],
            batch.indices[begin:end],
            batch.last_page_len[row : row + 1],
            8,
            2,
            64,
            16,
            q_data_type=dtype,
            disable_split_kv=True,
        )
        alone = wrapper.run(q[row : row + 1], cache, return_lse=True)
        for one, all_of_them in zip(alone, together, strict=True):
            assert one.tobytes() == all_of_them[row : row + 1].tobytes()


@pytest.mark.parametrize("kv_len", [1, 5, 300])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("mode", ["NONE", "ALIBI"])
def test_single_decode(kv_len: int, layout: str, mode: str) -> None:
    batch = paged_batch([kv_len], 1, 2, 64, "float16")
    q = queries(1, 4, 64, "float16")
    k, v = batch.keys[0], batch.values[0]
    given = (k, v) if layout == "NHD" else (k.swapaxes(0, 1), v.swapaxes(0, 1))
    out, lse = flashinfer.single_decode_with_kv_cache(
        q[0],
        *given,
        kv_layout=layout,
        pos_encoding_mode=mode,
        window_left=9,
        v_scale=2.0,
        return_lse=True,
    )
    slopes = [2**-2, 2**-4, 2**-6, 2**-8] if mode == "ALIBI" else None
    visible = [visible_keys(1, kv_len, True, 9)]
    wanted = expected(q, [1], batch, visible, slopes=slopes)
    more = np.array(slopes or [0] * 4) * (kv_len - 1)
    assert_close(out, wanted[0][0] * 2, "float16", factor=2)
    assert_close(lse, (wanted[1][0] + more) * LOG2_E, "float16")


def test_single_decode_without_keys() -> None:
    q, none = queries(1, 4, 64)[0], np.empty((0, 2, 64), np.float32)
    out, lse = flashinfer.single_decode_with_kv_cache(q, none, none, return_lse=True)
    assert (out == 0).all()
    assert (lse == -np.inf).all()


def test_torch_tensors_come_back_as_torch_tensors() -> None:
    torch: Any = pytest.importorskip("torch")
    torch.manual_seed(0)
    q = torch.randn(2, 8, 64, dtype=torch.bfloat16)
    cache = torch.randn(5, 2, 16, 2, 64, dtype=torch.bfloat16)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(torch.empty(1), "NHD")
    indices = torch.tensor([4, 0, 2], dtype=torch.int32)
    wrapper.plan(
        torch.tensor([0, 2, 3], dtype=torch.int32),
        indices,
        torch.tensor([7, 16], dtype=torch.int32),
        8,
        2,
        64,
        16,
        q_data_type=torch.bfloat16,
    )
    given = torch.zeros(2, 8, 64, dtype=torch.bfloat16)
    out, lse = wrapper.run(q, cache, out=given, return_lse=True)
    assert out is given
    assert (lse.dtype, lse.shape) == (torch.float32, (2, 8))
    assert wrapper.run(q, cache).dtype == torch.bfloat16
    for row, (pages, length) in enumerate([([4, 0], 23), ([2], 16)]):
        k, v = (cache[pages, i].reshape(-1, 2, 64)[:length].double() for i in range(2))
        k, v = (x.repeat_interleave(4, dim=1) for x in (k, v))
        weights = torch.softmax(torch.einsum("hd,khd->hk", q[row].double(), k) / 8, dim=1)
        wanted = torch.einsum("hk,khd->hd", weights, v)
        assert (out[row].double() - wanted).abs().max() < TOLERANCE["bfloat16"]
