"""Results over parts of the keys joined, and attention in levels that share their keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import quire
from quire.flashinfer.page import check_layout
from quire.flashinfer.paged_prefill import BatchPrefillWithPagedKVCacheWrapper
from quire.flashinfer.refused import refuse
from quire.tensor_views import Array, array_of, tensor_like, written_array


def _merged(outs: Array, lses: Array) -> tuple[Array, Array]:
    """Joins outs [n, T, H, Dv] by lses [n, T, H] in base 2.

    Relative to each row's largest, so that large ones lose nothing in another base.
    """
    largest = lses.max(axis=0, initial=-np.inf)
    base = np.where(np.isfinite(largest), largest, 0).astype(np.float64)
    natural = (lses - base) * math.log(2)
    out, lse = quire.merge_states(outs, np.ascontiguousarray(natural, np.float32))
    return out, (base + lse / math.log(2)).astype(np.float32)


def _state(function: str, names: tuple[str, str], v: Any, s: Any, axes: int) -> tuple[Array, Array]:
    """A result and its log-sum-exps as arrays; raises ValueError where they do not fit."""
    out = array_of(v, f"{function}: {names[0]}")
    lse = array_of(s, f"{function}: {names[1]}")
    if out.ndim != axes:
        raise ValueError(f"{function}: {names[0]}: got {out.ndim} axes, expected {axes}")
    if lse.shape != out.shape[:-1]:
        raise ValueError(
            f"{function}: {names[1]}: got shape {list(lse.shape)}, expected {list(out.shape[:-1])}"
        )
    if lse.dtype != np.float32:
        raise TypeError(f"{function}: {names[1]}: got dtype {lse.dtype}, expected float32")
    return out, lse


def _pair(
    function: str, names: tuple[str, str], v: Any, s: Any, like: Array
) -> tuple[Array, Array]:
    out, lse = _state(function, names, v, s, 3)
    if out.shape != like.shape or out.dtype != like.dtype:
        raise ValueError(
            f"{function}: {names[0]}: got {out.dtype} {list(out.shape)}, "
            f"expected {like.dtype} {list(like.shape)}"
        )
    return out, lse


def merge_state(v_a: Any, s_a: Any, v_b: Any, s_b: Any) -> tuple[Any, Any]:
    """Joins two results of attention over disjoint keys.

    Args:
        v_a, v_b: [T, H, D], float32, float16 or bfloat16. s_a, s_b: [T, H] float32: their
            log-sum-exps in base 2. (0, -inf) changes nothing.

    Returns:
        (v, s) of v_a's dtype and library. Formula: arXiv 2501.01005, section 2.2.

    Raises:
        ValueError, TypeError.
    """
    first = _state("merge_state", ("v_a", "s_a"), v_a, s_a, 3)
    second = _pair("merge_state", ("v_b", "s_b"), v_b, s_b, first[0])
    out, lse = _merged(np.stack([first[0], second[0]]), np.stack([first[1], second[1]]))
    return tensor_like(out, v_a), tensor_like(lse, v_a)


def merge_state_in_place(v: Any, s: Any, v_other: Any, s_other: Any, mask: Any = None) -> None:
    """As merge_state, into v and s.

    Args:
        v, v_other: [T, H, D]. s, s_other: [T, H] float32, in base 2.
        mask: bool [T]: the rows that are joined; None: all.
    """
    function = "merge_state_in_place"
    out, lse = _state(function, ("v", "s"), v, s, 3)
    other = _pair(function, ("v_other", "s_other"), v_other, s_other, out)
    written_array(v, out.shape, out.dtype, f"{function}: v")
    written_array(s, lse.shape, lse.dtype, f"{function}: s")
    rows = np.ones(len(out), bool) if mask is None else array_of(mask, f"{function}: mask")
    if rows.shape != (len(out),):
        raise ValueError(f"{function}: mask: got shape {list(rows.shape)}, expected [{len(out)}]")
    rows = rows.astype(bool)
    merged = _merged(np.stack([out, other[0]]), np.stack([lse, other[1]]))
    out[rows], lse[rows] = merged[0][rows], merged[1][rows]


def merge_states(v: Any, s: Any) -> tuple[Any, Any]:
    """Joins n results of attention over disjoint keys.

    Args:
        v: [T, n, H, D]. s: [T, n, H] float32, in base 2.

    Returns:
        (v [T, H, D], s [T, H]) of v's dtype and library.

    Raises:
        ValueError, TypeError.
    """
    outs, lses = _state("merge_states", ("v", "s"), v, s, 4)
    out, lse = _merged(outs.swapaxes(0, 1), lses.swapaxes(0, 1))
    return tensor_like(out, v), tensor_like(lse, v)


class MultiLevelCascadeAttentionWrapper:
    """Attention in levels: each level's sequences are groups of those of the next, and their keys
    come before those.

    Each level is a run of its own, and the results are joined. Quire reads blocks that sequences
    begin with alike once anyway: one level with whole tables gives the same, up to rounding.

    Args:
        num_levels: of the lists given to plan().
        float_workspace_buffer: accepted and ignored; may be None, as the *_buf_arr of CUDA graphs.
        kv_layout: "NHD" or "HND". use_cuda_graph: False.
    """

    def __init__(
        self,
        num_levels: int,
        float_workspace_buffer: Any = None,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf_arr: Any = None,
        paged_kv_indptr_buf_arr: Any = None,
        paged_kv_indices_buf_arr: Any = None,
        paged_kv_last_page_len_buf_arr: Any = None,
    ) -> None:
        name = "MultiLevelCascadeAttentionWrapper"
        refuse(name, use_cuda_graph=use_cuda_graph)
        check_layout(f"{name}: kv_layout", kv_layout)
        if num_levels < 1:
            raise ValueError(f"{name}: num_levels: got {num_levels}, expected 1 or more")
        self._num_levels = num_levels
        self._kv_layout = kv_layout
        self._levels: list[BatchPrefillWithPagedKVCacheWrapper] = []

    def plan(
        self,
        qo_indptr_arr: list[Any],
        paged_kv_indptr_arr: list[Any],
        paged_kv_indices_arr: list[Any],
        paged_kv_last_page_len: list[Any],
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
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
    ) -> None:
        """Says which rows and pages belong to which sequence of each level.

        Args:
            qo_indptr_arr, paged_kv_indptr_arr, paged_kv_indices_arr, paged_kv_last_page_len: what
                BatchPrefillWithPagedKVCacheWrapper.plan takes, for each level.
            causal: of the last level; those before are seen whole.
            window_left: -1. A window in each level by itself, which FlashInfer computes, is none
                over the whole; nor are the positions of ALiBi.
            Others: as in BatchPrefillWithPagedKVCacheWrapper.plan.

        Raises:
            NotImplementedError: a window, ALiBi, and what is not here, by name. ValueError,
            TypeError, IndexError. The plan before stays then.
        """
        function = "MultiLevelCascadeAttentionWrapper.plan"
        lists: dict[str, list[Any]] = {
            "qo_indptr_arr": qo_indptr_arr,
            "paged_kv_indptr_arr": paged_kv_indptr_arr,
            "paged_kv_indices_arr": paged_kv_indices_arr,
            "paged_kv_last_page_len": paged_kv_last_page_len,
        }
        for name, given in lists.items():
            if len(given) != self._num_levels:
                raise ValueError(
                    f"{function}: {name}: got {len(given)} levels, expected {self._num_levels}"
                )
        if window_left >= 0:
            raise NotImplementedError(
                f"{function}: window_left: got {window_left}, expected -1: levels do not know each "
                "other's positions"
            )
        if pos_encoding_mode == "ALIBI":
            raise NotImplementedError(
                f"{function}: pos_encoding_mode: got 'ALIBI', expected 'NONE': levels do not know "
                "each other's positions"
            )
        levels = []
        for level in range(self._num_levels):
            wrapper = BatchPrefillWithPagedKVCacheWrapper(None, self._kv_layout)
            wrapper.plan(
                qo_indptr_arr[level],
                paged_kv_indptr_arr[level],
                paged_kv_indices_arr[level],
                paged_kv_last_page_len[level],
                num_qo_heads,
                num_kv_heads,
                head_dim,
                page_size,
                causal=causal and level == self._num_levels - 1,
                pos_encoding_mode=pos_encoding_mode,
                use_fp16_qk_reduction=use_fp16_qk_reduction,
                sm_scale=sm_scale,
                logits_soft_cap=logits_soft_cap,
                q_data_type=q_data_type,
                kv_data_type=kv_data_type,
            )
            levels.append(wrapper)
        self._levels = levels

    begin_forward = plan

    def run(self, q: Any, paged_kv_cache: Any) -> Any:
        """Attention over all levels: [T, Hq, D] of q's dtype and library.

        Args:
            q: [T, Hq, D]; T is the last of each level's qo_indptr.
            paged_kv_cache: as in append_paged_kv_cache.
        """
        if not self._levels:
            raise RuntimeError(
                "MultiLevelCascadeAttentionWrapper.run: got no plan, expected plan() before"
            )
        out, lse = self._levels[-1].run(q, paged_kv_cache, return_lse=True)
        for level in self._levels[:-1]:
            merge_state_in_place(out, lse, *level.run(q, paged_kv_cache, return_lse=True))
        return out

    forward = run
