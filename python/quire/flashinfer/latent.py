"""Multi-head latent attention over a paged cache, with FlashInfer's names and arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from quire.flashinfer.page import pages_of
from quire.flashinfer.paged_decode import planned
from quire.flashinfer.planned import Given, Plan, Scores, Shape, indptr_of, results
from quire.flashinfer.refused import refuse
from quire.row_attention import Batch
from quire.tensor_views import Array, array_of, dtype_of


class BatchMLAPagedAttentionWrapper:
    """Latent attention: all heads share one key, ckv beside kpe, whose value is ckv (arXiv
    2405.04434). plan() once a step, run() once a layer.

    Nothing is copied, whether ckv_cache and kpe_cache are views of one array that has them side by
    side or two arrays apart. The first is a little faster.

    Args:
        float_workspace_buffer: accepted and ignored; may be None, as the buffers of CUDA graphs.
        use_cuda_graph: False. backend: "auto". Others raise NotImplementedError.
    """

    def __init__(
        self,
        float_workspace_buffer: Any = None,
        use_cuda_graph: bool = False,
        qo_indptr: Any = None,
        kv_indptr: Any = None,
        kv_indices: Any = None,
        kv_len_arr: Any = None,
        backend: str = "auto",
    ) -> None:
        name = "BatchMLAPagedAttentionWrapper"
        refuse(name, use_cuda_graph=use_cuda_graph, backend=backend)
        self._plan: Plan | None = None

    def plan(
        self,
        qo_indptr: Any,
        kv_indptr: Any,
        kv_indices: Any,
        kv_len_arr: Any,
        num_heads: int,
        head_dim_ckv: int,
        head_dim_kpe: int,
        page_size: int,
        causal: bool,
        sm_scale: float,
        q_data_type: Any,
        kv_data_type: Any,
        use_profiler: bool = False,
    ) -> None:
        """Says which rows and pages belong to which sequence, and how scores are made.

        Args:
            qo_indptr, kv_indptr: [B + 1]: where each sequence begins in q, and in the pages.
            kv_indices: [kv_indptr[-1]]: the pages. kv_len_arr: [B]: tokens of each sequence.
            num_heads: of queries. head_dim_ckv: of a latent, and of a value. head_dim_kpe: of the
                part with positions; may be 0.
            sm_scale: of the dot products, which FlashInfer has no default for.
            kv_data_type: float16, bfloat16 or float32. use_profiler: False.

        Raises:
            NotImplementedError: what is not here, by name. ValueError, TypeError, IndexError. The
            plan before stays then.
        """
        function = "BatchMLAPagedAttentionWrapper.plan"
        refuse(function, use_profiler=use_profiler)
        if dtype_of(kv_data_type, f"{function}: kv_data_type").itemsize == 1:
            raise NotImplementedError(
                f"{function}: kv_data_type: got {kv_data_type}, expected float16, bfloat16 or "
                "float32: float8 latent caches are not here"
            )
        tables, lengths = pages_of(function, kv_indptr, kv_indices, kv_len_arr, page_size)
        rows = indptr_of(qo_indptr, f"{function}: qo_indptr", length=len(lengths) + 1)
        dims = head_dim_ckv + head_dim_kpe, head_dim_ckv
        shape = Shape.of(function, (num_heads, 1), dims, q_data_type, kv_data_type, None)
        scores = Scores.of(function, sm_scale, None)
        self._plan = Plan(Batch(rows, tables, lengths, bool(causal)), shape, scores)
        self._page_size = page_size

    def run(
        self,
        q_nope: Any,
        q_pe: Any,
        ckv_cache: Any,
        kpe_cache: Any,
        out: Any = None,
        lse: Any = None,
        return_lse: bool = False,
        profiler_buffer: Any = None,
        kv_len: Any = None,
        page_table: Any = None,
        return_lse_base_on_e: bool = False,
        o_scale: float | None = None,
        *,
        ckv_scale: float | None = None,
        ckv_scale_arr: Any = None,
        kpe_scale: float | None = None,
    ) -> Any:
        """Attention of the planned batch.

        Args:
            q_nope: [T, H, head_dim_ckv]. q_pe: [T, H, head_dim_kpe].
            ckv_cache: [pages, page_size, head_dim_ckv]. kpe_cache: likewise, head_dim_kpe.
            out: [T, H, head_dim_ckv] to write into. lse: [T, H] float32, likewise.
            return_lse_base_on_e: log-sum-exps are natural ones instead of those in base 2.
            Others: None; what they ask for is not here.

        Returns:
            out, or (out, lse), of q_nope's library. A row without a key is 0, its lse -inf.

        Raises:
            RuntimeError: nothing is planned. NotImplementedError: what is not here, by name.
            ValueError, TypeError, IndexError. Nothing has been written then.
        """
        function = "BatchMLAPagedAttentionWrapper.run"
        refuse(
            function,
            profiler_buffer=profiler_buffer,
            kv_len=kv_len,
            page_table=page_table,
            o_scale=o_scale,
            ckv_scale=ckv_scale,
            ckv_scale_arr=ckv_scale_arr,
            kpe_scale=kpe_scale,
        )
        plan = planned(self._plan, function)
        size = plan.shape.head_dim_vo
        rest = plan.shape.head_dim_qk - size
        parts = [
            self._part(function, name, x, width)
            for name, x, width in [
                ("q_nope", q_nope, size),
                ("q_pe", q_pe, rest),
                ("ckv_cache", ckv_cache, size),
                ("kpe_cache", kpe_cache, rest),
            ]
        ]
        pairs = [("q_pe", parts[0], parts[1]), ("kpe_cache", parts[2], parts[3])]
        for name, first, second in pairs:
            if first.shape[:2] != second.shape[:2] or first.dtype != second.dtype:
                raise ValueError(
                    f"{function}: {name}: got {second.dtype} {list(second.shape)}, "
                    f"expected {first.dtype} {[*first.shape[:2], rest]}"
                )
        ckv, kpe = parts[2][:, :, None], parts[3][:, :, None]
        plan.shape.check_values(f"{function}: ckv_cache", ckv, (len(ckv), self._page_size))
        last = int(plan.batch.tables.max(initial=-1))
        if last >= len(ckv):
            raise IndexError(
                f"{function}: ckv_cache: got {len(ckv)} pages, expected page {last} of the plan"
            )
        joined = _side_by_side(ckv, kpe)
        new_out, new_lse = plan.run(
            np.concatenate(parts[:2], axis=-1),
            ckv if joined is None else joined,
            ckv,
            Given(out=out, lse=lse, return_lse=True),
            k_tail=kpe if joined is None else None,
            function=function,
        )
        arrays = array_of(new_out, f"{function}: out"), array_of(new_lse, f"{function}: lse")
        if return_lse_base_on_e:
            arrays[1][...] *= math.log(2)
        return results(q_nope, *arrays, Given(out=out, lse=lse, return_lse=return_lse))

    @staticmethod
    def _part(function: str, name: str, x: Any, width: int) -> Array:
        array = array_of(x, f"{function}: {name}")
        if array.ndim != 3 or array.shape[2] != width:
            raise ValueError(
                f"{function}: {name}: got shape {list(array.shape)}, expected [.., .., {width}]"
            )
        return array


def _side_by_side(ckv: Array, kpe: Array) -> Array | None:
    """One view of both, [pages, page_size, 1, D], where each row of kpe follows that of ckv."""
    size, rest, item = ckv.shape[3], kpe.shape[3], ckv.dtype.itemsize
    if rest == 0:
        return ckv
    follows = kpe.ctypes.data - ckv.ctypes.data == size * item
    if not follows or kpe.strides != ckv.strides or ckv.strides[3] != item or not kpe.size:
        return None
    shape = (*ckv.shape[:3], size + rest)
    return np.lib.stride_tricks.as_strided(ckv, shape, writeable=False)
