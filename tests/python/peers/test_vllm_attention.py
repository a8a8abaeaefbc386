"""quire.vllm's operators: vLLM's names and meanings against a float64 reference."""

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

import quire.vllm as vllm

# vLLM's grid of heads, head sizes and block sizes, and the (query, key) lengths of its batches.
GRID = sampled(
    48,
    seed=21,
    heads=[(4, 4), (8, 2), (9, 3)],
    head_dim=[96, 128, 512],
    block_size=[16, 48, 96, 128],
    lengths=[[(1, 132), (5, 18), (129, 146)], [(1, 52), (1, 1), (1, 0)], [(7, 3), (33, 33)]],
    causal=[True, False],
    window=[None, (-1, -1), (25, 0), (10, -1)],
    softcap=[0.0, 50.0, 2.0],
    extra=["none", "sinks", "alibi"],
    dtype=list(DTYPES),
)
WINDOWS = sampled(
    24,
    seed=22,
    lengths=[[(5, 18), (20, 20)], [(9, 4), (1, 30), (3, 0)]],
    left=[-1, 0, 3],
    right=[0, 1, 6],
    sinks=[False, True],
    layout=["paged", "ragged"],
)


def lengths_of(lengths: list[tuple[int, int]]) -> tuple[list[int], list[int], Any]:
    rows, keys = (list(x) for x in zip(*lengths, strict=True))
    return rows, keys, np.concatenate([[0], np.cumsum(rows)]).astype(np.int32)


def run(q: Any, rows: Any, batch: PagedBatch, **options: Any) -> Any:
    """Over a paged cache; table entries past a sequence's end are garbage."""
    return vllm.flash_attn_varlen_func(
        q,
        batch.k_cache,
        batch.v_cache,
        int(np.diff(rows).max()),
        rows,
        max(batch.kv_lens),
        seqused_k=np.array(batch.kv_lens, np.int32),
        block_table=batch.table(99999),
        **options,
    )


@pytest.mark.parametrize("point", GRID, ids=str)
def test_flash_attn_varlen_func_with_block_table(point: dict[str, Any]) -> None:
    rows, keys, cu_seqlens_q = lengths_of(point["lengths"])
    heads, size, dtype = point["heads"], point["head_dim"], point["dtype"]
    causal = point["causal"] or point["extra"] == "alibi"
    batch = paged_batch(keys, point["block_size"], heads[1], size, dtype)
    q = queries(sum(rows), heads[0], size, dtype)
    random = np.random.default_rng(4)
    sinks = random.standard_normal(heads[0]).astype(DTYPES[dtype])
    slopes = random.random(heads[0]).astype(np.float32)
    given: dict[str, Any] = {"sinks": {"s_aux": sinks}, "alibi": {"alibi_slopes": slopes}}
    out, lse = run(
        q,
        cu_seqlens_q,
        batch,
        causal=causal,
        window_size=point["window"],
        softcap=point["softcap"],
        softmax_scale=0.07,
        return_softmax_lse=True,
        **given.get(point["extra"], {}),
    )
    left, right = point["window"] or (-1, -1)
    visible = [visible_keys(n, m, causal, left, right) for n, m in point["lengths"]]
    options: dict[str, Any] = {"sinks": {"sinks": sinks}, "alibi": {"slopes": slopes}}
    wanted = expected(
        q,
        rows,
        batch,
        visible,
        softcap=point["softcap"],
        scale=0.07,
        **options.get(point["extra"], {}),
    )
    assert out.dtype == DTYPES[dtype]
    assert_close(out, wanted[0], dtype)
    assert_close(lse.T, wanted[1], dtype)


@pytest.mark.parametrize("point", WINDOWS, ids=str)
def test_windows_on_both_sides(point: dict[str, Any]) -> None:
    rows, keys, cu_seqlens_q = lengths_of(point["lengths"])
    batch = paged_batch(keys, 16 if point["layout"] == "paged" else 1, 2, 64)
    q = queries(sum(rows), 4, 64)
    sinks = np.array([0, 1, -1, 2], np.float32) if point["sinks"] else None
    options = {"window_size": (point["left"], point["right"]), "s_aux": sinks}
    if point["layout"] == "paged":
        out = run(q, cu_seqlens_q, batch, **options)
    else:
        cu_seqlens_k = np.concatenate([[0], np.cumsum(keys)]).astype(np.int32)
        k, v = np.concatenate(batch.keys), np.concatenate(batch.values)
        out = vllm.flash_attn_varlen_func(
            q, k, v, max(rows), cu_seqlens_q, max(keys), cu_seqlens_k, **options
        )
    visible = [
        visible_keys(n, m, False, point["left"], point["right"]) for n, m in point["lengths"]
    ]
    wanted, _ = expected(q, rows, batch, visible, sinks=sinks)
    assert_close(out, wanted, "float32")


def test_slopes_of_each_sequence() -> None:
    lengths = [(5, 18), (1, 7), (6, 2)]
    rows, keys, cu_seqlens_q = lengths_of(lengths)
    batch = paged_batch(keys, 16, 2, 64)
    q = queries(sum(rows), 4, 64)
    slopes = np.random.default_rng(5).random((3, 4)).astype(np.float32)
    given = np.empty_like(q)
    out, lse = run(
        q,
        cu_seqlens_q,
        batch,
        causal=True,
        alibi_slopes=slopes,
        out=given,
        return_softmax_lse=True,
    )
    assert out is given
    for i, (n, m) in enumerate(lengths):
        some = slice(cu_seqlens_q[i], cu_seqlens_q[i + 1])
        visible = visible_keys(n, m, True)
        wanted = attention(q[some], batch.keys[i], batch.values[i], visible, slopes=slopes[i])
        assert_close(out[some], wanted[0], "float32")
        assert_close(lse.T[some], wanted[1], "float32")


def test_batch_invariance() -> None:
    lengths = [(30, 30), (1, 200), (17, 90)]
    rows, keys, cu_seqlens_q = lengths_of(lengths)
    batch = paged_batch(keys, 48, 3, 96, "bfloat16")
    q = queries(sum(rows), 9, 96, "bfloat16")
    together = run(q, cu_seqlens_q, batch, causal=True)
    for i in range(3):
        some = slice(cu_seqlens_q[i], cu_seqlens_q[i + 1])
        alone = vllm.flash_attn_varlen_func(
            q[some],
            batch.k_cache,
            batch.v_cache,
            rows[i],
            np.array([0, rows[i]]),
            keys[i],
            seqused_k=np.array([keys[i]]),
            causal=True,
            block_table=batch.table(-1)[i : i + 1],
            num_splits=3,
        )
        assert alone.tobytes() == together[some].tobytes()


CACHE = sampled(
    24,
    seed=23,
    head_size=[64, 80, 256],
    block_size=[8, 16, 32],
    dtype=["float32", "bfloat16"],
    kv_cache_dtype=["auto", "fp8", "fp8_e4m3"],
    layout=["NHC", "HNC"],
    scale=["tensor", "attn_head", "number"],
)


@pytest.mark.parametrize("point", CACHE, ids=str)
def test_reshape_and_cache_flash(point: dict[str, Any]) -> None:
    size, block_size, tokens, num_blocks = point["head_size"], point["block_size"], 21, 40
    random = np.random.default_rng(6)
    slots = random.permutation(block_size * num_blocks)[:tokens]
    slots[[3, 9]] = -1, -7
    qkv = queries(tokens + 2, 3 * 8, size, point["dtype"]).reshape(tokens + 2, 3, 8, size)
    key, value = qkv[:, 1], qkv[:, 2]  # two rows of padding, and strides of three times the heads
    eight_bits = point["kv_cache_dtype"] != "auto"
    stored = np.dtype(np.uint8) if eight_bits else DTYPES[point["dtype"]]
    shape = (num_blocks, 2, block_size, 8, size)
    if point["layout"] == "HNC":
        shape = (num_blocks, 2, 8, block_size, size)
    whole = np.full(shape, 64, stored)
    caches = [whole[:, i] for i in range(2)]
    if point["layout"] == "HNC":
        caches = [cache.swapaxes(1, 2) for cache in caches]
    if point["scale"] == "tensor":
        scales = [np.array([0.03], np.float32), np.array(0.02, np.float32)]
    elif point["scale"] == "attn_head":
        scales = [(np.arange(1, 9) / d).astype(np.float32) for d in (60, 80)]
    else:
        scales = [0.03, 0.02]
    before = whole.copy()
    vllm.reshape_and_cache_flash(key, value, *caches, slots, point["kv_cache_dtype"], *scales)
    for rows, cache, scale in zip((key, value), caches, scales, strict=True):
        for row, slot in zip(rows, slots, strict=False):
            if slot < 0:
                continue
            got = cache[slot // block_size, slot % block_size]
            if not eight_bits:
                assert got.tobytes() == row.tobytes()
                continue
            factor = np.broadcast_to(np.asarray(scale, np.float64).reshape(-1, 1), (8, 1))
            number = got.view(ml_dtypes.float8_e4m3fn).astype(np.float64) * factor
            np.testing.assert_allclose(number, row.astype(np.float64), rtol=0.07, atol=factor.max())
    untouched = np.ones(block_size * num_blocks, bool)
    untouched[slots[slots >= 0]] = False
    for i, cache in enumerate(caches):
        old = before[:, i] if point["layout"] == "NHC" else before[:, i].swapaxes(1, 2)
        for page, offset in zip(*np.divmod(np.flatnonzero(untouched), block_size), strict=True):
            assert cache[page, offset].tobytes() == old[page, offset].tobytes()


@pytest.mark.parametrize("descale", ["heads", "sequences"])
def test_attention_over_what_was_stored_in_eight_bits(descale: str) -> None:
    k, v = queries(40, 2, 64, seed=1), queries(40, 2, 64, seed=2)
    caches = [np.zeros((4, 16, 2, 64), np.uint8) for _ in range(2)]
    scales = [np.array(x, np.float32) for x in ([0.02, 0.03], [0.01, 0.02])]
    vllm.reshape_and_cache_flash(k, v, *caches, np.arange(40) + 16, "fp8", *scales)
    views = [cache.view(ml_dtypes.float8_e4m3fn) for cache in caches]
    q = queries(1, 4, 64, seed=3)
    given = [np.tile(scale, (1, 1)) if descale == "sequences" else scale for scale in scales]
    out = vllm.flash_attn_varlen_func(
        q,
        *views,
        1,
        [0, 1],
        40,
        seqused_k=[40],
        causal=True,
        block_table=np.array([[1, 2, 3]]),
        k_descale=given[0],
        v_descale=given[1],
    )
    k, v = (
        view.astype(np.float64).reshape(64, 2, 64)[16:56] * scale[:, None]
        for view, scale in zip(views, scales, strict=True)
    )
    assert_close(out, attention(q, k, v, visible_keys(1, 40, True))[0], "float32")


MERGE = sampled(
    18,
    seed=24,
    tokens=[1, 37],
    heads=[4, 9],
    size=[32, 96],
    context=[None, 0, 10],
    with_lse=[False, True],
    dtype=list(DTYPES),
)


@pytest.mark.parametrize("point", MERGE, ids=str)
def test_merge_attn_states(point: dict[str, Any]) -> None:
    tokens, heads, size, dtype = (point[x] for x in ("tokens", "heads", "size", "dtype"))
    random = np.random.default_rng(7)
    outs = random.standard_normal((2, tokens, heads, size)).astype(DTYPES[dtype])
    lses = random.standard_normal((2, heads, tokens)).astype(np.float32) * 5
    lses[0, 0, ::3] = np.inf  # how FlashAttention 2 marks rows without keys
    lses[1, 1, ::4] = -np.inf
    output, output_lse = np.empty_like(outs[0]), np.full((heads, tokens), 9, np.float32)
    vllm.merge_attn_states(
        output,
        outs[0],
        lses[0],
        outs[1],
        lses[1],
        output_lse if point["with_lse"] else None,
        point["context"],
    )
    logits = np.where(lses == np.inf, -np.inf, lses).astype(np.float64)
    top = logits.max(axis=0)
    weights = np.exp(logits - top)
    total = weights.sum(axis=0)
    shares = (weights / total).transpose(0, 2, 1)[..., None]
    wanted = (shares * outs.astype(np.float64)).sum(axis=0)
    wanted_lse = top + np.log(total)
    alone = slice(tokens if point["context"] is None else point["context"], None)
    wanted[alone], wanted_lse[:, alone] = outs[1][alone], logits[1][:, alone]
    assert_close(output, wanted, dtype)
    assert_close(output_lse, wanted_lse if point["with_lse"] else np.full_like(lses[0], 9), dtype)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"dropout_p": 0.1}, NotImplementedError, r"dropout_p: got 0\.1"),
        ({"return_attn_probs": True}, NotImplementedError, "return_attn_probs: got True"),
        ({"cp_world_size": 2}, NotImplementedError, "cp_world_size: got 2"),
        ({"mask_mod": len}, NotImplementedError, "mask_mod: got builtin"),
        ({"q_descale": 2.0}, ValueError, "q_descale: got scales for float32"),
        ({"alibi_slopes": np.ones(4)}, NotImplementedError, "alibi_slopes: got slopes without"),
        ({"k_descale": np.full(1, 2.0)}, ValueError, "k_descale: got scales for float32"),
        ({"seqused_k": None}, ValueError, "seqused_k: got None"),
        ({"seqused_k": [33]}, ValueError, "seqused_k: got 33 at sequence 0, expected 0 to 32"),
        ({"block_table": None}, ValueError, "k: got 4 axes, expected 3"),
        ({"cu_seqlens_q": [0, 2]}, ValueError, "cu_seqlens_q: got .*, expected from 0 to 1"),
        ({"out": np.zeros((1, 4, 32), np.float32)}, ValueError, "out: got float32"),
    ],
)
def test_flash_attn_varlen_func_refuses(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    cache = np.zeros((2, 16, 2, 64), np.float32)
    arguments = {
        "q": queries(1, 4, 64),
        "k": cache,
        "v": cache,
        "max_seqlen_q": 1,
        "cu_seqlens_q": [0, 1],
        "max_seqlen_k": 20,
        "seqused_k": [20],
        "block_table": np.array([[0, 1]]),
    }
    with pytest.raises(error, match="flash_attn_varlen_func: " + message):
        vllm.flash_attn_varlen_func(**{**arguments, **given})


def test_slots_and_dtypes_of_caches_are_checked() -> None:
    k, caches = queries(1, 2, 64), [np.zeros((2, 16, 2, 64), np.float32) for _ in range(2)]
    with pytest.raises(IndexError, match="slot_mapping: got 32"):
        vllm.reshape_and_cache_flash(k, k, *caches, [32], "auto", 1.0, 1.0)
    with pytest.raises(NotImplementedError, match="kv_cache_dtype: got 'fp8_inc'"):
        vllm.reshape_and_cache_flash(k, k, *caches, [0], "fp8_inc", 1.0, 1.0)
    with pytest.raises(ValueError, match="key: got 1 rows, expected 2"):
        vllm.reshape_and_cache_flash(k, k, *caches, [0, 1], "auto", 1.0, 1.0)
    eight_bits = [cache.astype(np.uint8) for cache in caches]
    with pytest.raises(ValueError, match="key_cache: got uint8, expected floats for 'auto'"):
        vllm.reshape_and_cache_flash(k, k, *eight_bits, [0], "auto", 1.0, 1.0)
    assert not any(cache.any() for cache in (*caches, *eight_bits))


def test_torch_tensors() -> None:
    torch: Any = pytest.importorskip("torch")
    torch.manual_seed(1)
    key, value = torch.randn(2, 40, 2, 64, dtype=torch.bfloat16)
    caches = torch.zeros(2, 8, 16, 2, 64, dtype=torch.bfloat16)
    slots = torch.arange(40) + 32
    ones = torch.ones(1)
    vllm.reshape_and_cache_flash(key, value, caches[0], caches[1], slots, "auto", ones, ones)
    assert torch.equal(caches[0].reshape(-1, 2, 64)[32:72], key)
    q, given = torch.randn(2, 8, 64).bfloat16(), torch.zeros(2, 8, 64).bfloat16()
    out, lse = vllm.flash_attn_varlen_func(
        q,
        caches[0],
        caches[1],
        2,
        torch.tensor([0, 2], dtype=torch.int32),
        40,
        seqused_k=torch.tensor([40], dtype=torch.int32),
        causal=True,
        block_table=torch.tensor([[2, 3, 4]], dtype=torch.int32),
        out=given,
        return_softmax_lse=True,
    )
    assert out is given
    assert (lse.dtype, lse.shape) == (torch.float32, (8, 2))
    keys, values = (x.float().numpy() for x in (key, value))
    wanted = attention(q.float().numpy(), keys, values, visible_keys(2, 40, True))
    assert_close(out.float().numpy(), wanted[0], "bfloat16")
    merged = torch.empty_like(q)
    vllm.merge_attn_states(merged, out, lse, out, lse)
    assert torch.equal(merged, out)
    assert math.isclose(float(lse[0, 0]), wanted[1][0, 0], rel_tol=0.02)
