"""Attention of ragged batches, with the names and arguments of vLLM's FlashAttention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from quire.row_attention import Batch, Ints, Options, attend_batch
from quire.tensor_views import Array, array_of, integers_of, tensor_like, written_array
from quire.vllm.cache_operators import FP8, descale_of, refuse

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def flash_attn_varlen_func(
    q: Any,
    k: Any,
    v: Any,
    max_seqlen_q: int,
    cu_seqlens_q: Any,
    max_seqlen_k: int,
    cu_seqlens_k: Any = None,
    seqused_k: Any = None,
    q_v: Any = None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sequence[int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Any = None,
    return_softmax_lse: bool = False,
    out: Any = None,
    scheduler_metadata: Any = None,
    q_descale: Any = None,
    k_descale: Any = None,
    v_descale: Any = None,
    num_splits: int = 0,
    output_scale: Any = None,
    fa_version: int = 2,
    s_aux: Any = None,
    cp_world_size: int = 1,
    cp_rank: int = 0,
    cp_tot_seqused_k: Any = None,
    mask_mod: Any = None,
    block_sparse_tensors: Any = None,
    aux_tensors: Any = None,
    aux_tensor_leading_dims: Any = None,
    dynamic_causal: Any = None,
) -> Any:
    """Attention of a ragged batch over a paged cache, or over keys one sequence after the other.

    Row j of the n of a sequence of m keys stands at position m - n + j, which is negative where the
    rows are more than the keys.

    Args:
        q: [T, Hq, D]. cu_seqlens_q: [B + 1]: where each sequence begins in q.
        k, v: with block_table [num_blocks, block_size, Hkv, D] and [.., Dv]; without it [total,
            Hkv, D] and [total, Hkv, Dv].
        block_table: [B, max_blocks]. seqused_k: [B]: tokens of each sequence, with block_table.
        cu_seqlens_k: [B + 1]: where each sequence begins in k and v, without block_table.
        softmax_scale: of the dot products; None: 1 / sqrt(D).
        causal: a row sees keys up to its own position.
        window_size: (left, right): keys on either side of its own position that it sees, -1 for
            all.
        softcap: cap * tanh(score / cap); 0: none.
        alibi_slopes: [Hq] or [B, Hq]: slope * (key - row's position) is added; needs causal.
        s_aux: [Hq]: one more logit per head in the softmax's sum, without a value.
        k_descale, v_descale: of 8-bit caches: a number, [1], [Hkv] or [B, Hkv], what their numbers
            are multiples of. Caches of uint8 are float8_e4m3fn, vLLM's "fp8"; one of "fp8_e5m2" is
            given as a view of float8_e5m2.
        q_descale: likewise of float8 queries, which need float8 keys.
        out: [T, Hq, Dv] to write into, of q's dtype; of a float8 q of float32, float16 or bfloat16.
        max_seqlen_q, max_seqlen_k, deterministic, scheduler_metadata, num_splits, fa_version:
            accepted and ignored; the result is deterministic, and has the same bits in any batch.
        Others: None, 0 or 1, as they are left out.

    Returns:
        out of q's library and dtype, bfloat16 of a float8 q, or (out, lse [Hq, T] float32). A row
        without a key is 0, its lse -inf.

    Raises:
        NotImplementedError: what is not here, by name. ValueError, TypeError, IndexError. Nothing
        has been written then.
    """
    function = "flash_attn_varlen_func"
    refuse(
        function,
        q_v=q_v,
        dropout_p=dropout_p or None,
        return_attn_probs=return_attn_probs or None,
        output_scale=output_scale,
        cp_world_size=None if cp_world_size == 1 else cp_world_size,
        cp_tot_seqused_k=cp_tot_seqused_k,
        mask_mod=mask_mod,
        block_sparse_tensors=block_sparse_tensors,
        aux_tensors=aux_tensors,
        aux_tensor_leading_dims=aux_tensor_leading_dims,
        dynamic_causal=dynamic_causal,
    )
    queries, keys, values = (
        array_of(x, f"{function}: {name}") for name, x in [("q", q), ("k", k), ("v", v)]
    )
    keys, values = (x.view(FP8) if x.dtype == np.uint8 else x for x in (keys, values))
    axes = 3 if block_table is None else 4
    for name, x, expected in [("q", queries, 3), ("k", keys, axes), ("v", values, axes)]:
        if x.ndim != expected:
            raise ValueError(f"{function}: {name}: got {x.ndim} axes, expected {expected}")
    rows = integers_of(cu_seqlens_q, f"{function}: cu_seqlens_q")
    if len(rows) == 0 or rows[0] != 0 or rows[-1] != len(queries) or (np.diff(rows) < 0).any():
        raise ValueError(
            f"{function}: cu_seqlens_q: got {rows.tolist()}, "
            f"expected from 0 to {len(queries)}, never falling"
        )
    tables, lengths = _keys_of(function, block_table, seqused_k, cu_seqlens_k, len(rows) - 1, keys)
    keys, values = (x[:, None] if block_table is None else x for x in (keys, values))
    left, right = (-1, -1) if window_size is None else window_size
    if right == 0:
        causal = True
    batch = Batch(rows, tables, lengths, causal, left, window_right=right)
    shape = (len(queries), queries.shape[1], values.shape[3])
    result = _result(f"{function}: out", out, shape, queries.dtype)
    scale = 1 / math.sqrt(queries.shape[2]) if softmax_scale is None else softmax_scale
    q_scale, k_scale, v_scale = (
        descale_of(f"{function}: {name}", given, x, keys.shape[2], len(rows) - 1)
        for name, given, x in [
            ("q_descale", q_descale, queries),
            ("k_descale", k_descale, keys),
            ("v_descale", v_descale, values),
        ]
    )
    if isinstance(q_scale, float):
        scale *= q_scale
    elif q_scale is not None:  # of the same heads and sequences as that of keys
        k_scale = np.asarray(q_scale * k_scale, np.float32)
    options = Options(
        scale,
        softcap if softcap > 0 else None,
        None,
        None if s_aux is None else array_of(s_aux, f"{function}: s_aux").astype(np.float32),
        k_scale,
        v_scale,
    )
    if alibi_slopes is None:
        lse = attend_batch(queries, keys, values, batch, options, result)
    else:
        slopes = array_of(alibi_slopes, f"{function}: alibi_slopes")
        lse = _with_slopes(function, queries, keys, values, batch, options, slopes, result)
    new_out = tensor_like(result, q) if out is None else out
    return (new_out, tensor_like(np.ascontiguousarray(lse.T), q)) if return_softmax_lse else new_out


def _result(where: str, out: Any, shape: tuple[int, ...], q_dtype: Any) -> Array:
    """What is written: the array given, or a new one. Of 8-bit queries any float's will do."""
    if out is None:
        return np.empty(shape, _BFLOAT16 if q_dtype.itemsize == 1 else q_dtype)
    given = array_of(out, where).dtype
    free = q_dtype.itemsize == 1 and given in (np.float32, np.float16, _BFLOAT16)
    return written_array(out, shape, given if free else q_dtype, where)


def _keys_of(
    function: str, block_table: Any, seqused_k: Any, cu_seqlens_k: Any, sequences: int, keys: Array
) -> tuple[Ints, Ints]:
    """The blocks and the tokens of each sequence; without a table each token is a block."""
    if block_table is None:
        if cu_seqlens_k is None or seqused_k is not None:
            raise ValueError(
                f"{function}: cu_seqlens_k: got {'None' if cu_seqlens_k is None else 'it'} and "
                f"{'no ' if seqused_k is None else ''}seqused_k, expected cu_seqlens_k alone "
                "without block_table"
            )
        starts = integers_of(cu_seqlens_k, f"{function}: cu_seqlens_k", length=sequences + 1)
        if starts[0] != 0 or starts[-1] > len(keys) or (np.diff(starts) < 0).any():
            raise ValueError(
                f"{function}: cu_seqlens_k: got {starts.tolist()}, "
                f"expected from 0 to at most {len(keys)}, never falling"
            )
        lengths = np.diff(starts)
        return starts[:-1, None] + np.arange(max(lengths, default=0)), lengths
    if seqused_k is None or cu_seqlens_k is not None:
        raise ValueError(
            f"{function}: seqused_k: got {'None' if seqused_k is None else 'it'} and "
            f"{'no ' if cu_seqlens_k is None else ''}cu_seqlens_k, expected seqused_k alone with "
            "block_table"
        )
    lengths = integers_of(seqused_k, f"{function}: seqused_k", length=sequences)
    tables = array_of(block_table, f"{function}: block_table")
    if tables.ndim != 2 or len(tables) != sequences or tables.dtype.kind not in "iu":
        raise ValueError(
            f"{function}: block_table: got {tables.dtype} {list(tables.shape)}, "
            f"expected integers [{sequences}, max_blocks]"
        )
    room = tables.shape[1] * keys.shape[1]
    wrong = np.flatnonzero((lengths < 0) | (lengths > room))
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"{function}: seqused_k: got {lengths[at]} at sequence {at}, expected 0 to {room}"
        )
    return tables.astype(np.int64), lengths


def _with_slopes(
    function: str,
    q: Array,
    k: Array,
    v: Array,
    batch: Batch,
    options: Options,
    slopes: Array,
    out: Array,
) -> Array:
    """attend_batch with slopes for all sequences, or for each its own: then a call for each."""
    if not batch.causal:
        raise NotImplementedError(
            f"{function}: alibi_slopes: got slopes without causal, expected causal=True"
        )
    if options.sinks is not None:
        raise NotImplementedError(f"{function}: s_aux: got it with alibi_slopes, expected None")
    heads, sequences = q.shape[1], len(batch.kv_lens)
    if slopes.shape not in ((heads,), (sequences, heads)):
        raise ValueError(
            f"{function}: alibi_slopes: got shape {list(slopes.shape)}, "
            f"expected [{heads}] or [{sequences}, {heads}]"
        )
    named = {**vars(options), "alibi_slopes": slopes.astype(np.float32)}
    if slopes.ndim == 1:
        return attend_batch(q, k, v, batch, Options(**named), out)
    result, lse = np.empty(out.shape, out.dtype), np.empty(out.shape[:2], np.float32)
    for sequence, own in enumerate(named["alibi_slopes"]):
        first, end = batch.cu_seqlens_q[sequence : sequence + 2]
        one = Batch(
            np.array([0, end - first]),
            batch.tables[sequence : sequence + 1],
            batch.kv_lens[sequence : sequence + 1],
            batch.causal,
            batch.window_left,
            window_right=batch.window_right,
        )
        own_options = Options(**{**named, "alibi_slopes": own}).of_sequences([sequence])
        lse[first:end] = attend_batch(q[first:end], k, v, one, own_options, result[first:end])
    out[...] = result
    return lse
