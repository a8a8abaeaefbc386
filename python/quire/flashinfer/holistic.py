"""FlashInfer's wrappers for prefill and decode in one batch, and for attention sinks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quire.flashinfer.page import check_layout, pages_of
from quire.flashinfer.paged_decode import planned, run_paged
from quire.flashinfer.paged_prefill import BatchPrefillWithPagedKVCacheWrapper
from quire.flashinfer.planned import Given, Plan, indptr_of
from quire.flashinfer.refused import refuse
from quire.row_attention import Batch
from quire.tensor_views import number_of


class BatchAttention:
    """Prefill and decode mixed over a paged cache: plan() once a step, run() once a layer.

    Args:
        kv_layout: "NHD" or "HND". device: accepted and ignored, tensors are in CPU memory.
    """

    def __init__(self, kv_layout: str = "NHD", device: str = "cuda") -> None:
        check_layout("BatchAttention: kv_layout", kv_layout)
        self._kv_layout = kv_layout
        self._plan: Plan | None = None

    def plan(
        self,
        qo_indptr: Any,
        kv_indptr: Any,
        kv_indices: Any,
        kv_len_arr: Any,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        head_dim_vo: int,
        page_size: int,
        causal: bool = False,
        sm_scale: float | None = None,
        logits_soft_cap: float | None = None,
        q_data_type: Any = "bfloat16",
        kv_data_type: Any = "bfloat16",
        use_profiler: bool = False,
    ) -> None:
        """Says which rows and pages belong to which sequence, and how scores are made.

        Args:
            qo_indptr, kv_indptr: [B + 1]: where each sequence begins in q, and in the pages.
            kv_indices: [kv_indptr[-1]]: the pages. kv_len_arr: [B]: tokens of each sequence.
            use_profiler: False. Others: as in BatchPrefillWithPagedKVCacheWrapper.plan.

        Raises:
            NotImplementedError: what is not here, by name. ValueError, TypeError, IndexError. The
            plan before stays then.
        """
        function = "BatchAttention.plan"
        refuse(function, use_profiler=use_profiler)
        tables, lengths = pages_of(function, kv_indptr, kv_indices, kv_len_arr, page_size)
        rows = indptr_of(qo_indptr, f"{function}: qo_indptr", length=len(lengths) + 1)
        batch = Batch(rows, tables, lengths, causal)
        heads, dims = (num_qo_heads, num_kv_heads), (head_dim_qk, head_dim_vo)
        dtypes, scores = (q_data_type, kv_data_type, None), (sm_scale, logits_soft_cap)
        self._plan = Plan.of(function, batch, heads, dims, dtypes, *scores)
        self._page_size = page_size

    def run(
        self,
        q: Any,
        kv_cache: Any,
        out: Any = None,
        lse: Any = None,
        k_scale: Any = None,
        v_scale: Any = None,
        logits_soft_cap: float = 0.0,
        profiler_buffer: Any = None,
        kv_cache_sf: Any = None,
    ) -> Any:
        """Attention of the planned batch: (out, lse in base 2).

        Args:
            q: [qo_indptr[-1], Hq, D] of the planned dtype. logits_soft_cap: 0, or what was planned.
            Others: as in BatchDecodeWithPagedKVCacheWrapper.run.
        """
        function = "BatchAttention.run"
        refuse(function, profiler_buffer=profiler_buffer, kv_cache_sf=kv_cache_sf)
        plan = planned(self._plan, function)
        if logits_soft_cap > 0 and logits_soft_cap != plan.scores.softcap:
            raise ValueError(
                f"{function}: logits_soft_cap: got {logits_soft_cap}, "
                f"expected {plan.scores.softcap} as planned"
            )
        given = Given(None, k_scale, v_scale, None, out, lse, return_lse=True)
        return run_paged(plan, q, kv_cache, given, self._kv_layout, self._page_size, function)


class BatchAttentionWithAttentionSinkWrapper(BatchPrefillWithPagedKVCacheWrapper):
    """BatchPrefillWithPagedKVCacheWrapper whose run() takes the sinks and the scale by position:
    run(q, paged_kv_cache, sink, sm_scale).

    Args:
        pos_encoding_mode, window_left, q_data_type, kv_data_type, head_dim_qk, head_dim_vo: of the
            kernel that FlashInfer compiles; ignored, as plan() says them. use_fp16_qk_reduction:
            False. Others: as in BatchPrefillWithPagedKVCacheWrapper.
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
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        q_data_type: Any = "bfloat16",
        kv_data_type: Any = "bfloat16",
        head_dim_qk: int = 128,
        head_dim_vo: int = 128,
        window_left: int = -1,
    ) -> None:
        super().__init__(kv_layout=kv_layout, use_cuda_graph=use_cuda_graph, backend=backend)
        refuse(type(self).__name__, use_fp16_qk_reduction=use_fp16_qk_reduction)

    def _with_args(
        self, function: str, plan: Plan, args: tuple[Any, ...], given: Given
    ) -> tuple[Plan, Given]:
        """sink [Hq], and sm_scale where it is not the planned one."""
        if len(args) not in (1, 2) or given.sinks is not None:
            raise ValueError(
                f"{function}: args: got {len(args)} arguments, expected sink and sm_scale"
            )
        if len(args) == 2:
            sm_scale = number_of(args[1], f"{function}: sm_scale")
            plan = replace(plan, scores=replace(plan.scores, sm_scale=sm_scale))
        return plan, replace(given, sinks=args[0])
