"""Attention under a mask of whole blocks, with FlashInfer's names and arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.flashinfer.page import tables_of
from quire.flashinfer.paged_decode import planned
from quire.flashinfer.planned import Given, Plan, indptr_of, masks_of
from quire.flashinfer.refused import refuse
from quire.row_attention import Batch, Ints
from quire.tensor_views import Array, array_of


class BlockSparseAttentionWrapper:
    """Attention of M queries over N keys, of which a block of R queries sees some blocks of C keys:
    plan() once, run() for any number of layers.

    The blocks are blocks of a cache to Quire, read where they lie. With a mask inside the blocks
    each row is a sequence of its own, as under custom_mask of single_prefill_with_kv_cache.

    Args:
        float_workspace_buffer: accepted and ignored; may be None. backend: "auto".
    """

    def __init__(self, float_workspace_buffer: Any = None, backend: str = "auto") -> None:
        refuse("BlockSparseAttentionWrapper", backend=backend)
        self._plan: Plan | None = None

    def plan(
        self,
        indptr: Any,
        indices: Any,
        M: int,  # noqa: N803
        N: int,  # noqa: N803
        R: int,  # noqa: N803
        C: int,  # noqa: N803
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        mask: Any = None,
        packed_mask: Any = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: Any = "float16",
        kv_data_type: Any = None,
        o_data_type: Any = "float16",
        non_blocking: bool = True,
        block_mask: Any = None,
    ) -> None:
        """Says which blocks are seen, as a matrix in block compressed sparse rows.

        Args:
            indptr: [ceil(M / R) + 1]: where each row of blocks begins in indices.
            indices: [nnz]: the blocks of keys that it sees, each below N / C.
            M, N: queries and keys; C divides N, the last block of queries may be shorter than R.
            mask: bool [nnz, R, C]: what is seen inside each block; None: all.
            packed_mask: in place of mask: of each row of blocks its [rows, blocks * C] matrix,
                packed as in BatchPrefillWithPagedKVCacheWrapper.plan.
            causal: without a mask: the keys of a row of blocks count as the last ones before its
                last query, however far apart they lie.
            block_mask: None: it would choose blocks for each head, which are not here.
            o_data_type: of the result, float16 unless said otherwise, whatever q_data_type.
            Others: as in single_prefill_with_kv_cache.

        Raises:
            NotImplementedError: what is not here, by name. ValueError, TypeError, IndexError. The
            plan before stays then.
        """
        function = "BlockSparseAttentionWrapper.plan"
        refuse(function, block_mask=block_mask)
        for name, size in [("M", M), ("N", N), ("R", R), ("C", C)]:
            if size < 1:
                raise ValueError(f"{function}: {name}: got {size}, expected 1 or more")
        if N % C:
            raise ValueError(f"{function}: N: got {N}, expected a multiple of C, {C}")
        starts = indptr_of(indptr, f"{function}: indptr", length=-(-M // R) + 1)
        tables = tables_of(function, ("indptr", "indices"), starts, indices)
        if tables.size and tables.max() >= N // C:
            raise IndexError(f"{function}: indices: got {tables.max()}, expected 0 to {N // C - 1}")
        rows = np.minimum(np.arange(len(starts)) * R, M)
        lengths = np.diff(starts) * C
        masks = (
            masks_of(function, None, packed_mask, np.diff(rows), lengths)
            if packed_mask is not None or mask is None
            else _masks_of_rows(function, mask, starts, np.diff(rows), (R, C))
        )
        batch = Batch(rows, tables, lengths, causal, masks=masks)
        heads, dims = (num_qo_heads, num_kv_heads), (head_dim, None)
        dtypes = (q_data_type, kv_data_type, o_data_type)
        scores = sm_scale, logits_soft_cap, pos_encoding_mode, use_fp16_qk_reduction
        self._plan = Plan.of(function, batch, heads, dims, dtypes, *scores)
        self._keys, self._block = N, C

    begin_forward = plan

    def run(
        self,
        q: Any,
        k: Any,
        v: Any,
        scale_q: Any = None,
        scale_k: Any = None,
        scale_v: Any = None,
        out: Any = None,
        lse: Any = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
    ) -> Any:
        """Attention of the planned blocks.

        Args:
            q: [M, Hq, D]. k, v: [N, Hkv, D].
            scale_q, scale_k, scale_v: as in single_prefill_with_kv_cache.
            out: [M, Hq, D] to write into. lse: [M, Hq] float32, likewise.

        Returns:
            out, or (out, lse in base 2), of q's library. A row without a key is 0, its lse -inf.
        """
        function = "BlockSparseAttentionWrapper.run"
        plan = planned(self._plan, function)
        keys, values = (
            plan.shape.as_keys(array_of(x, f"{function}: {name}"))
            for name, x in [("k", k), ("v", v)]
        )
        plan.shape.check_keys(function, keys, values, (self._keys,))
        keys, values = (x.reshape(-1, self._block, *x.shape[1:]) for x in (keys, values))
        given = Given(scale_q, scale_k, scale_v, None, out, lse, return_lse)
        return plan.run(q, keys, values, given, function=function)


def _masks_of_rows(
    function: str, mask: Any, starts: Ints, rows: Ints, block: tuple[int, int]
) -> list[Array]:
    """Masks of blocks [nnz, R, C] put side by side: [rows, blocks * C] of each row of blocks."""
    array = array_of(mask, f"{function}: mask")
    shape = (int(starts[-1]), *block)
    if array.dtype != np.bool_ or array.shape != shape:
        raise ValueError(
            f"{function}: mask: got {array.dtype} {list(array.shape)}, expected bool {list(shape)}"
        )
    return [
        part.swapaxes(0, 1)[:count].reshape(count, -1)
        for part, count in zip(np.split(array, starts[1:-1]), rows, strict=True)
    ]
