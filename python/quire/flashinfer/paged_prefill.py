"""Attention of several tokens of each sequence, with FlashInfer's names and arguments."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from quire.flashinfer.page import as_nhd, check_layout, check_lengths, lengths_of, tables_of
from quire.flashinfer.paged_decode import planned, run_paged
from quire.flashinfer.planned import Given, Plan, indptr_of, masks_of, with_scales
from quire.flashinfer.refused import refuse
from quire.row_attention import Batch
from quire.tensor_views import array_of


def single_prefill_with_kv_cache(
    q: Any,
    k: Any,
    v: Any,
    scale_q: Any = None,
    scale_k: Any = None,
    scale_v: Any = None,
    o_dtype: Any = None,
    custom_mask: Any = None,
    packed_custom_mask: Any = None,
    causal: bool = False,
    kv_layout: str = "NHD",
    pos_encoding_mode: str = "NONE",
    use_fp16_qk_reduction: bool = False,
    sm_scale: float | None = None,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
    kv_cache_sf: Any = None,
    k_scale: float | None = None,
    v_scale: float | None = None,
) -> Any:
    """Attention of n queries over m contiguous keys and values.

    Query j stands at position m - n + j; where n > m the first queries stand before all keys, and
    see all of them, or none under causal.

    Args:
        q: [n, Hq, D]. k: [m, Hkv, D] (kv_layout "NHD") or [Hkv, m, D] ("HND"). v: likewise with Dv.
        scale_q: [Hq] or a number, what 8-bit queries are multiples of. scale_k, scale_v: [Hkv] or a
            number, likewise of 8-bit keys and values, and as k_scale, v_scale.
        o_dtype: of the result; None: q's, bfloat16 of a float8.
        custom_mask: bool [n, m]: which keys a query sees, in place of causal. Where not all see the
            first m - n, the cost is that of a sequence per query: keys are read again for each.
        packed_custom_mask: uint8, 8 entries of custom_mask a byte, the first in the lowest bit
            (packbits with bitorder "little"); comes before custom_mask.
        window_left: keys before a query's own position that it sees, of masked ones too; -1: all.
        rope_scale, rope_theta: accepted and ignored, without ROPE_LLAMA.
        Others: as in single_decode_with_kv_cache; kv_cache_sf: None.

    Returns:
        out [n, Hq, Dv] of q's library, or (out, lse [n, Hq] float32, in base 2). A row that sees no
        key is 0, its lse -inf.

    Raises:
        NotImplementedError: what is not here, by name. ValueError, TypeError.
    """
    function = "single_prefill_with_kv_cache"
    refuse(function, backend=backend, kv_cache_sf=kv_cache_sf)
    check_layout(f"{function}: kv_layout", kv_layout)
    queries = array_of(q, f"{function}: q")
    keys, values = (
        as_nhd(array_of(x, f"{function}: {name}"), kv_layout) for name, x in [("k", k), ("v", v)]
    )
    for name, x in [("q", queries), ("k", keys), ("v", values)]:
        if x.ndim != 3:
            raise ValueError(f"{function}: {name}: got {x.ndim} axes, expected 3")
    lengths = np.array([len(queries)]), np.array([len(keys)])
    batch = Batch(
        np.array([0, len(queries)]),
        np.zeros((1, 1), np.int64),
        lengths[1],
        causal,
        window_left,
        masks_of(function, custom_mask, packed_custom_mask, *lengths),
    )
    heads, dims = (queries.shape[1], keys.shape[1]), (queries.shape[2], values.shape[2])
    dtypes = (queries.dtype, keys.dtype, o_dtype)
    scores = sm_scale, logits_soft_cap, pos_encoding_mode, use_fp16_qk_reduction
    plan = Plan.of(function, batch, heads, dims, dtypes, *scores)
    plan.shape.check_keys(function, keys, values, (len(keys),))
    for name, first, second in [("k", scale_k, k_scale), ("v", scale_v, v_scale)]:
        if first is not None and second is not None:
            raise ValueError(
                f"{function}: scale_{name}: got it and {name}_scale, expected one of the two"
            )
    k_scale = scale_k if k_scale is None else k_scale
    v_scale = scale_v if v_scale is None else v_scale
    given = Given(scale_q, k_scale, v_scale, return_lse=return_lse)
    return plan.run(q, keys[None], values[None], given, function=function)


single_prefill_with_kv_cache_return_lse = functools.partial(
    single_prefill_with_kv_cache, return_lse=True
)


class BatchPrefillWithPagedKVCacheWrapper:
    """Attention of several tokens of each sequence over a paged cache: plan() once a step, run()
    once a layer.

    The bits of a sequence's result depend neither on the rest of the batch nor on how the work is
    split: fixed_split_size and disable_split_kv are accepted and ignored, as are the workspaces,
    the buffers of CUDA graphs, non_blocking, enable_pdl, and seq_lens_q, block_tables and the max_*
    sizes, which say what the other arguments say.

    Args:
        float_workspace_buffer: accepted and ignored; may be None.
        kv_layout: "NHD" or "HND".
        use_cuda_graph: False. backend: "auto". jit_args, jit_kwargs: None. Others raise
            NotImplementedError.
    """

    def __init__(
        self,
        float_workspace_buffer: Any = None,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: Any = None,
        paged_kv_indptr_buf: Any = None,
        paged_kv_indices_buf: Any = None,
        paged_kv_last_page_len_buf: Any = None,
        custom_mask_buf: Any = None,
        mask_indptr_buf: Any = None,
        backend: str = "auto",
        jit_args: Any = None,
        jit_kwargs: Any = None,
    ) -> None:
        name = type(self).__name__
        refuse(
            name,
            use_cuda_graph=use_cuda_graph,
            backend=backend,
            jit_args=jit_args,
            jit_kwargs=jit_kwargs,
        )
        check_layout(f"{name}: kv_layout", kv_layout)
        self._kv_layout = kv_layout
        self._plan: Plan | None = None

    def plan(
        self,
        qo_indptr: Any,
        paged_kv_indptr: Any,
        paged_kv_indices: Any,
        paged_kv_last_page_len: Any,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        head_dim_vo: int | None = None,
        custom_mask: Any = None,
        packed_custom_mask: Any = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: Any = "float16",
        kv_data_type: Any = None,
        o_data_type: Any = None,
        non_blocking: bool = True,
        prefix_len_ptr: Any = None,
        token_pos_in_items_ptr: Any = None,
        token_pos_in_items_len: int = 0,
        max_item_len_ptr: Any = None,
        seq_lens: Any = None,
        seq_lens_q: Any = None,
        block_tables: Any = None,
        max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
    ) -> None:
        """Says which rows and pages belong to which sequence, who sees what, and how scores are
        made.

        Args:
            qo_indptr: [B + 1]: rows qo_indptr[i]:qo_indptr[i + 1] of q are the last tokens of
                sequence i, and may be more than its keys.
            paged_kv_indptr: [B + 1]: where each sequence's pages begin.
            paged_kv_indices: [paged_kv_indptr[-1]]: the pages.
            paged_kv_last_page_len: [B]: tokens in the last page, 1 to page_size.
            num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo, page_size: of q and the caches.
            custom_mask: bool, flat, the [n, m] matrix of each sequence after the other.
            packed_custom_mask: each matrix on bytes of its own (segment_packbits with bitorder
                "little").
            seq_lens: [B]: tokens of each sequence, as the pages say.
            q_data_type, kv_data_type, o_data_type: dtypes or their names; None: as q_data_type,
                but results of float8 queries are bfloat16.
            Others: as in single_prefill_with_kv_cache; those of multi-item scoring: None and 0.

        Raises:
            NotImplementedError: what is not here, by name. ValueError, TypeError, IndexError. The
            plan before stays then.
        """
        function = f"{type(self).__name__}.plan"
        refuse(
            function,
            prefix_len_ptr=prefix_len_ptr,
            token_pos_in_items_ptr=token_pos_in_items_ptr,
            token_pos_in_items_len=token_pos_in_items_len,
            max_item_len_ptr=max_item_len_ptr,
        )
        starts = indptr_of(paged_kv_indptr, f"{function}: paged_kv_indptr")
        rows = indptr_of(qo_indptr, f"{function}: qo_indptr", length=len(starts))
        where = f"{function}: paged_kv_last_page_len"
        lengths = lengths_of(where, starts, paged_kv_last_page_len, page_size)
        check_lengths(f"{function}: seq_lens", seq_lens, lengths)
        names = ("paged_kv_indptr", "paged_kv_indices")
        batch = Batch(
            rows,
            tables_of(function, names, starts, paged_kv_indices),
            lengths,
            causal,
            window_left,
            masks_of(function, custom_mask, packed_custom_mask, np.diff(rows), lengths),
        )
        heads, dims = (num_qo_heads, num_kv_heads), (head_dim_qk, head_dim_vo)
        dtypes = (q_data_type, kv_data_type, o_data_type)
        scores = sm_scale, logits_soft_cap, pos_encoding_mode, use_fp16_qk_reduction
        self._plan = Plan.of(function, batch, heads, dims, dtypes, *scores)
        self._page_size = page_size

    begin_forward = plan

    def run(
        self,
        q: Any,
        paged_kv_cache: Any,
        *args: Any,
        q_scale: Any = None,
        k_scale: Any = None,
        v_scale: Any = None,
        out: Any = None,
        lse: Any = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        window_left: int | None = None,
        sinks: Any = None,
        kv_cache_sf: Any = None,
        skip_softmax_threshold_scale_factor: float | None = None,
        use_fp16_softmax: bool | None = None,
        uses_spcompress: bool | None = None,
    ) -> Any:
        """Attention of the planned batch: q [qo_indptr[-1], Hq, D], and the rest as in
        BatchDecodeWithPagedKVCacheWrapper.run. The scales of float8 queries, keys and values may
        also be given by position."""
        function = f"{type(self).__name__}.run"
        refuse(
            function,
            kv_cache_sf=kv_cache_sf,
            skip_softmax_threshold_scale_factor=skip_softmax_threshold_scale_factor,
            use_fp16_softmax=use_fp16_softmax,
            uses_spcompress=uses_spcompress,
        )
        plan = planned(self._plan, function, window_left)
        given = Given(q_scale, k_scale, v_scale, sinks, out, lse, return_lse)
        plan, given = self._with_args(function, plan, args, given)
        return run_paged(plan, q, paged_kv_cache, given, self._kv_layout, self._page_size, function)

    run_return_lse = functools.partialmethod(run, return_lse=True)

    def _with_args(
        self, function: str, plan: Plan, args: tuple[Any, ...], given: Given
    ) -> tuple[Plan, Given]:
        """Both with what run() is given by position."""
        return plan, with_scales(function, plan, args, given)
