"""Attention over keys and values that lie one sequence after the other, as FlashInfer names it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from quire.flashinfer.page import as_nhd, check_layout, check_lengths
from quire.flashinfer.paged_decode import planned
from quire.flashinfer.planned import Given, Plan, indptr_of, masks_of, with_scales
from quire.flashinfer.refused import refuse
from quire.row_attention import Batch
from quire.tensor_views import array_of


class BatchPrefillWithRaggedKVCacheWrapper:
    """Attention over contiguous keys and values: plan() once a step, run() once a layer.

    Each token is a block of its own here, which costs a decode about a quarter more than blocks of
    16. What BatchPrefillWithPagedKVCacheWrapper ignores is ignored here too.

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
        kv_indptr_buf: Any = None,
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
        kv_indptr: Any,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        head_dim_vo: int | None = None,
        custom_mask: Any = None,
        packed_custom_mask: Any = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
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
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
        seq_lens: Any = None,
        seq_lens_q: Any = None,
        max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None,
        v_indptr: Any = None,
        o_indptr: Any = None,
    ) -> None:
        """Says which rows belong to which sequence, who sees what, and how scores are made.

        Args:
            qo_indptr, kv_indptr: [B + 1]: where each sequence begins in q, and in k and v.
            v_indptr, o_indptr: None.
            Others: as in BatchPrefillWithPagedKVCacheWrapper.plan.

        Raises:
            NotImplementedError: what is not here, by name. ValueError, TypeError. The plan before
            stays then.
        """
        function = f"{type(self).__name__}.plan"
        refuse(
            function,
            prefix_len_ptr=prefix_len_ptr,
            token_pos_in_items_ptr=token_pos_in_items_ptr,
            token_pos_in_items_len=token_pos_in_items_len,
            max_item_len_ptr=max_item_len_ptr,
            v_indptr=v_indptr,
            o_indptr=o_indptr,
        )
        starts = indptr_of(kv_indptr, f"{function}: kv_indptr")
        rows = indptr_of(qo_indptr, f"{function}: qo_indptr", length=len(starts))
        lengths = np.diff(starts)
        check_lengths(f"{function}: seq_lens", seq_lens, lengths)
        tables = starts[:-1, None] + np.arange(max(lengths, default=0))
        batch = Batch(
            rows,
            tables,
            lengths,
            causal,
            window_left,
            masks_of(function, custom_mask, packed_custom_mask, np.diff(rows), lengths),
        )
        heads, dims = (num_qo_heads, num_kv_heads), (head_dim_qk, head_dim_vo)
        dtypes = (q_data_type, kv_data_type, o_data_type)
        scores = sm_scale, logits_soft_cap, pos_encoding_mode, use_fp16_qk_reduction
        self._plan = Plan.of(function, batch, heads, dims, dtypes, *scores)

    begin_forward = plan

    def run(
        self,
        q: Any,
        k: Any,
        v: Any,
        *args: Any,
        q_scale: Any = None,
        k_scale: Any = None,
        v_scale: Any = None,
        o_scale: float | None = None,
        out: Any = None,
        lse: Any = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        kv_cache_sf: Any = None,
    ) -> Any:
        """Attention of the planned batch.

        Args:
            q: [qo_indptr[-1], Hq, D]. k: [kv_indptr[-1], Hkv, D], or with the first two axes
                exchanged (HND). v: likewise with Dv. All of the planned dtypes.
            q_scale, k_scale, v_scale: as in BatchDecodeWithPagedKVCacheWrapper.run; of float8
                queries they may be given by position.
            out: [qo_indptr[-1], Hq, Dv] to write into. lse: [.., Hq] float32, likewise.

        Returns:
            out, or (out, lse in base 2), of q's library. A row without a key is 0, its lse -inf.

        Raises:
            RuntimeError: nothing is planned. NotImplementedError: what is not here, by name.
            ValueError, TypeError. Nothing has been written then.
        """
        function = f"{type(self).__name__}.run"
        refuse(function, o_scale=o_scale, kv_cache_sf=kv_cache_sf)
        plan = planned(self._plan, function)
        keys, values = (
            as_nhd(plan.shape.as_keys(array_of(x, f"{function}: {name}")), self._kv_layout)
            for name, x in [("k", k), ("v", v)]
        )
        plan.shape.check_keys(function, keys, values, (int(plan.batch.kv_lens.sum()),))
        given = Given(q_scale, k_scale, v_scale, None, out, lse, return_lse)
        given = with_scales(function, plan, args, given)
        return plan.run(q, keys[:, None], values[:, None], given, function=function)

    run_return_lse = functools.partialmethod(run, return_lse=True)
