"""Attention of the last token of each sequence, with FlashInfer's names and arguments."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from quire.flashinfer.page import (
    as_nhd,
    check_layout,
    check_lengths,
    lengths_of,
    tables_of,
    unpack_paged_kv_cache,
)
from quire.flashinfer.planned import Given, Plan, indptr_of, results
from quire.flashinfer.refused import refuse
from quire.row_attention import Batch
from quire.tensor_views import array_of


def single_decode_with_kv_cache(
    q: Any,
    k: Any,
    v: Any,
    kv_layout: str = "NHD",
    pos_encoding_mode: str = "NONE",
    use_tensor_cores: bool = False,
    q_scale: float | None = None,
    k_scale: float | None = None,
    v_scale: float | None = None,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    sm_scale: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention of one query over contiguous keys and values.

    Args:
        q: [Hq, D]. k: [m, Hkv, D] (kv_layout "NHD") or [Hkv, m, D] ("HND"). v: likewise with Dv.
        pos_encoding_mode: "NONE" or "ALIBI", with FlashInfer's slopes.
        use_tensor_cores, rope_scale, rope_theta: accepted and ignored.
        q_scale, k_scale: factors of the scores. v_scale: of the result. Of 8-bit keys and values
            k_scale and v_scale are what they are multiples of.
        window_left: keys before the query's own that it sees; -1: all.
        logits_soft_cap: cap * tanh(score / cap); None or 0: none.
        sm_scale: of the dot products; None: 1 / sqrt(D).

    Returns:
        out [Hq, Dv] of q's dtype (bfloat16 of a float8) and library, or (out, lse [Hq] float32, in
        base 2).

    Raises:
        NotImplementedError: what is not here, by name. ValueError, TypeError.
    """
    function = "single_decode_with_kv_cache"
    check_layout(f"{function}: kv_layout", kv_layout)
    queries = array_of(q, f"{function}: q")
    if queries.ndim != 2:
        raise ValueError(f"{function}: q: got shape {list(queries.shape)}, expected [Hq, D]")
    keys, values = (
        as_nhd(array_of(x, f"{function}: {name}"), kv_layout) for name, x in [("k", k), ("v", v)]
    )
    if keys.ndim != 3 or values.ndim != 3:
        raise ValueError(f"{function}: k: got {keys.ndim} axes, expected 3")
    batch = Batch(
        np.array([0, 1]), np.zeros((1, 1), np.int64), np.array([len(keys)]), False, window_left
    )
    dtypes = (queries.dtype, keys.dtype, None)
    heads, dims = (len(queries), keys.shape[1]), (queries.shape[1], values.shape[2])
    scores = sm_scale, logits_soft_cap, pos_encoding_mode
    plan = Plan.of(function, batch, heads, dims, dtypes, *scores)
    plan.shape.check_keys(function, keys, values, (len(keys),))
    given = Given(q_scale, k_scale, v_scale, return_lse=True)
    out, lse = plan.run(queries[None], keys[None], values[None], given, function=function)
    return results(q, out[0], lse[0], Given(return_lse=return_lse))


class BatchDecodeWithPagedKVCacheWrapper:
    """Decode attention over a paged cache: plan() once a step, run() once a layer.

    The bits of a sequence's result depend neither on the rest of the batch nor on how the work is
    split: fixed_split_size and disable_split_kv are accepted and ignored, as are the workspaces,
    use_tensor_cores, non_blocking, enable_pdl, and block_tables, which says what indices say.

    Args:
        float_workspace_buffer: accepted and ignored; may be None.
        kv_layout: "NHD" or "HND".
        use_cuda_graph: False. backend: "auto". jit_args: None. Others raise NotImplementedError.
        paged_kv_indptr_buffer, paged_kv_indices_buffer, paged_kv_last_page_len_buffer: of CUDA
            graphs, accepted and ignored.
    """

    def __init__(
        self,
        float_workspace_buffer: Any = None,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
        paged_kv_indptr_buffer: Any = None,
        paged_kv_indices_buffer: Any = None,
        paged_kv_last_page_len_buffer: Any = None,
        backend: str = "auto",
        jit_args: Any = None,
    ) -> None:
        name = type(self).__name__
        refuse(name, use_cuda_graph=use_cuda_graph, backend=backend, jit_args=jit_args)
        check_layout(f"{name}: kv_layout", kv_layout)
        self._kv_layout = kv_layout
        self._use_tensor_cores = use_tensor_cores
        self._plan: Plan | None = None

    @property
    def use_tensor_cores(self) -> bool:
        """What it was made with."""
        return self._use_tensor_cores

    def plan(
        self,
        indptr: Any,
        indices: Any,
        last_page_len: Any,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        pos_encoding_mode: str = "NONE",
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        q_data_type: Any = "float16",
        kv_data_type: Any = None,
        o_data_type: Any = None,
        data_type: Any = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        non_blocking: bool = True,
        block_tables: Any = None,
        seq_lens: Any = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
        q_len_per_req: int = 1,
        *,
        window_right: int = 0,
    ) -> None:
        """Says which pages belong to which sequence, and how scores are made.

        Args:
            indptr: [B + 1]: where each sequence's pages begin. indices: [indptr[-1]]: the pages.
            last_page_len: [B]: tokens in the last page, 1 to page_size.
            num_qo_heads, num_kv_heads, head_dim, page_size: of q and the caches.
            q_data_type, kv_data_type, o_data_type: dtypes or their names; None: as q_data_type,
                but results of float8 queries are bfloat16. data_type: of those that are None.
            seq_lens: [B]: tokens of each sequence, as the pages say.
            q_len_per_req: queries of each sequence, its last tokens; more than 1 are causal.
            Others: as in single_decode_with_kv_cache.

        Raises:
            NotImplementedError: what is not here, by name. ValueError, TypeError, IndexError. The
            plan before stays then.
        """
        function = f"{type(self).__name__}.plan"
        refuse(function, window_right=window_right)
        starts = indptr_of(indptr, f"{function}: indptr")
        lengths = lengths_of(f"{function}: last_page_len", starts, last_page_len, page_size)
        check_lengths(f"{function}: seq_lens", seq_lens, lengths)
        if q_len_per_req < 1:
            raise ValueError(f"{function}: q_len_per_req: got {q_len_per_req}, expected 1 or more")
        batch = Batch(
            np.arange(len(lengths) + 1) * q_len_per_req,
            tables_of(function, ("indptr", "indices"), starts, indices),
            lengths,
            q_len_per_req > 1,
            window_left,
        )
        q_data_type = data_type if q_data_type is None else q_data_type
        kv_data_type = data_type if kv_data_type is None else kv_data_type
        heads, dims = (num_qo_heads, num_kv_heads), (head_dim, None)
        dtypes, scores = (q_data_type, kv_data_type, o_data_type), (sm_scale, logits_soft_cap)
        self._plan = Plan.of(function, batch, heads, dims, dtypes, *scores, pos_encoding_mode)
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
        q_len_per_req: int | None = None,
        skip_softmax_threshold_scale_factor: float | None = None,
        kv_cache_sf: Any = None,
    ) -> Any:
        """Attention of the planned batch.

        Args:
            q: [B * q_len_per_req, Hq, D] of the planned dtype.
            paged_kv_cache: as in append_paged_kv_cache; where a float8 was planned uint8 stands for
                it. Slots past a sequence's end are not read.
            q_scale, k_scale: factors of the scores. v_scale: of the result. Of 8-bit caches k_scale
                and v_scale are what their numbers are multiples of, also [Hkv] or [B, Hkv]; q_scale
                may be [Hq].
            out: [B * q_len_per_req, Hq, D] to write into. lse: [.., Hq] float32, likewise.
            window_left: None, or what was planned.
            sinks: [Hq]: one more logit per head in the softmax's sum, without a value.
            q_len_per_req: None, or what was planned.

        Returns:
            out, or (out, lse in base 2), of q's library. A row without a key is 0, its lse -inf.

        Raises:
            RuntimeError: nothing is planned. NotImplementedError: what is not here, by name.
            ValueError, TypeError, IndexError. Nothing has been written then.
        """
        function = f"{type(self).__name__}.run"
        refuse(
            function,
            args=args,
            kv_cache_sf=kv_cache_sf,
            skip_softmax_threshold_scale_factor=skip_softmax_threshold_scale_factor,
        )
        plan = planned(self._plan, function, window_left)
        per_request = int(plan.batch.cu_seqlens_q[-1]) // max(len(plan.batch.kv_lens), 1)
        if q_len_per_req is not None and q_len_per_req != per_request:
            raise ValueError(
                f"{function}: q_len_per_req: got {q_len_per_req}, expected {per_request} as planned"
            )
        given = Given(q_scale, k_scale, v_scale, sinks, out, lse, return_lse)
        return run_paged(plan, q, paged_kv_cache, given, self._kv_layout, self._page_size, function)

    run_return_lse = functools.partialmethod(run, return_lse=True)


def planned(plan: Plan | None, function: str, window_left: int | None = None) -> Plan:
    """The plan; raises RuntimeError where there is none, ValueError for another window."""
    if plan is None:
        raise RuntimeError(f"{function}: got no plan, expected plan() before")
    if window_left is not None and max(window_left, -1) != max(plan.batch.window_left, -1):
        raise ValueError(
            f"{function}: window_left: got {window_left}, "
            f"expected {plan.batch.window_left} as planned, or None"
        )
    return plan


def run_paged(
    plan: Plan,
    q: Any,
    paged_kv_cache: Any,
    given: Given,
    kv_layout: str,
    page_size: int,
    function: str,
) -> Any:
    """Runs a plan over a paged cache as FlashInfer takes them."""
    pair = unpack_paged_kv_cache(f"{function}: paged_kv_cache", paged_kv_cache, kv_layout)
    k, v = (plan.shape.as_keys(cache) for cache in pair)
    plan.shape.check_keys(function, as_nhd(k, kv_layout), as_nhd(v, kv_layout), (len(k), page_size))
    return plan.run(q, k, v, given, layout=kv_layout, function=function)
