"""What the wrappers have in common: a plan is checked once, and runs on any number of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from quire.flashinfer.refused import refuse, uses_alibi
from quire.row_attention import Batch, Ints, Options, attend_batch
from quire.tensor_views import (
    Array,
    array_of,
    dtype_of,
    integers_of,
    number_of,
    tensor_like,
    written_array,
)

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOAT8 = (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))


def alibi_slopes_of(num_heads: int) -> Array:
    """FlashInfer's slopes, float32 [num_heads] (arXiv 2108.12409, section 3).

    2^(-8 i / n), i = 1..n, for the largest power of two n of at most num_heads; of the rest
    2^(-4 i / n), i = 1, 3, 5, ...
    """
    n = 1 << (num_heads.bit_length() - 1)
    exponents = [-8 * i / n for i in range(1, n + 1)]
    exponents += [-4 * i / n for i in range(1, 2 * (num_heads - n), 2)]
    return np.array([2.0**exponent for exponent in exponents], np.float32)


@dataclass(frozen=True)
class Shape:
    """The sizes and dtypes that a plan is made for; what runs on it is compared with them."""

    num_qo_heads: int
    num_kv_heads: int
    head_dim_qk: int
    head_dim_vo: int
    q_dtype: np.dtype[Any]
    kv_dtype: np.dtype[Any]
    o_dtype: np.dtype[Any]

    @staticmethod
    def of(
        function: str,
        heads: tuple[int, int],
        head_dims: tuple[int, int | None],
        q_data_type: Any,
        kv_data_type: Any,
        o_data_type: Any,
    ) -> Shape:
        """With FlashInfer's defaults: keys, values and results have the queries' dtype and size.

        But results of 8-bit queries, which FlashInfer would round to 8 bits too, are bfloat16.
        """
        if heads[1] < 1 or heads[0] < 1 or heads[0] % heads[1]:
            raise ValueError(
                f"{function}: num_qo_heads: got {heads[0]}, "
                f"expected a multiple of num_kv_heads, {heads[1]}"
            )
        q_dtype = dtype_of(q_data_type, f"{function}: q_data_type")
        o_default = _BFLOAT16 if q_dtype in _FLOAT8 else q_dtype
        kv_dtype, o_dtype = (
            default if given is None else dtype_of(given, f"{function}: {name}")
            for name, given, default in [
                ("kv_data_type", kv_data_type, q_dtype),
                ("o_data_type", o_data_type, o_default),
            ]
        )
        if o_dtype in _FLOAT8:
            raise NotImplementedError(
                f"{function}: o_data_type: got {o_dtype}, expected float32, float16 or bfloat16: "
                "float8 results are not here"
            )
        head_dim_vo = head_dims[0] if head_dims[1] is None else head_dims[1]
        return Shape(*heads, head_dims[0], head_dim_vo, q_dtype, kv_dtype, o_dtype)

    def as_keys(self, array: Array) -> Array:
        """A cache as its planned dtype, where it holds 8-bit floats as uint8; a view."""
        is_bytes = array.dtype == np.uint8 and self.kv_dtype in _FLOAT8
        return array.view(self.kv_dtype) if is_bytes else array

    def check_queries(self, where: str, q: Array, rows: int) -> None:
        """Raises ValueError unless q is [rows, num_qo_heads, head_dim_qk] of the planned dtype."""
        _check(where, q, (rows, self.num_qo_heads, self.head_dim_qk), self.q_dtype)

    def check_keys(self, function: str, k: Array, v: Array, leading: tuple[int, ...]) -> None:
        """Raises ValueError unless keys and values, NHD, have their planned sizes and dtype."""
        if np.uint8 in (k.dtype, v.dtype):
            raise NotImplementedError(
                f"{function}: paged_kv_cache: got dtype uint8, expected numbers: NVFP4 caches are "
                "not here"
            )
        shape = (*leading, self.num_kv_heads, self.head_dim_qk)
        _check(f"{function}: k", k, shape, self.kv_dtype)
        self.check_values(f"{function}: v", v, leading)

    def check_values(self, where: str, v: Array, leading: tuple[int, ...]) -> None:
        """Raises ValueError unless values, NHD, have their planned size and dtype."""
        _check(where, v, (*leading, self.num_kv_heads, self.head_dim_vo), self.kv_dtype)


def _check(where: str, x: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if x.shape != shape:
        raise ValueError(f"{where}: got shape {list(x.shape)}, expected {list(shape)} as planned")
    if x.dtype != dtype:
        raise ValueError(f"{where}: got dtype {x.dtype}, expected {dtype} as planned")


@dataclass(frozen=True)
class Scores:
    """What plan() says of scores: sm_scale, a soft cap and ALiBi."""

    sm_scale: float | None
    softcap: float | None
    alibi: bool

    @staticmethod
    def of(
        function: str,
        sm_scale: Any,
        logits_soft_cap: float | None,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
    ) -> Scores:
        """Checked; a soft cap of 0 or less is none."""
        refuse(function, use_fp16_qk_reduction=use_fp16_qk_reduction)
        cap = logits_soft_cap if logits_soft_cap is not None and logits_soft_cap > 0 else None
        alibi = uses_alibi(function, pos_encoding_mode, cap)
        return Scores(number_of(sm_scale, f"{function}: sm_scale"), cap, alibi)


@dataclass(frozen=True)
class Given:
    """What run() is given beside tensors of queries, keys and values.

    Scales are numbers, or arrays: [Hq] of queries, [Hkv] or [B, Hkv] of 8-bit keys and values.
    """

    q_scale: Any = None
    k_scale: Any = None
    v_scale: Any = None
    sinks: Any = None
    out: Any = None
    lse: Any = None
    return_lse: bool = False


@dataclass(frozen=True)
class Plan:
    """A batch, and what of it does not change from layer to layer."""

    batch: Batch
    shape: Shape
    scores: Scores

    @staticmethod
    def of(
        function: str,
        batch: Batch,
        heads: tuple[int, int],
        head_dims: tuple[int, int | None],
        dtypes: tuple[Any, Any, Any],
        *scores: Any,
    ) -> Plan:
        """Heads are of queries and of keys, sizes of q/k and of v, dtypes of q, of the cache and of
        the result; scores are what Scores.of takes."""
        return Plan(
            batch, Shape.of(function, heads, head_dims, *dtypes), Scores.of(function, *scores)
        )

    def run(
        self,
        q: Any,
        k: Array,
        v: Array,
        given: Given,
        *,
        k_tail: Array | None = None,
        layout: str = "NHD",
        function: str,
    ) -> Any:
        """Attention of q over the blocks k and v, in q's library: out, or (out, lse in base 2).

        k_tail: the last numbers of keys where they are an array of their own; of plans without
        masks.
        """
        queries = array_of(q, f"{function}: q")
        self.shape.check_queries(f"{function}: q", queries, int(self.batch.cu_seqlens_q[-1]))
        out, lse = self._results(len(queries), given, function)
        options, v_factor, q_factors = self._options(given, v.dtype, function)
        options = replace(options, k_tail=k_tail)
        if q_factors is not None:
            queries = queries.astype(np.float32) * q_factors[:, None]
        natural = attend_batch(queries, k, v, self.batch, options, out, layout=layout)
        if v_factor is not None:
            out[...] = out.astype(np.float32) * v_factor
        lse[...] = self._base_2(natural)
        return results(q, out, lse, given)

    def _results(self, rows: int, given: Given, function: str) -> tuple[Array, Array]:
        def made(name: str, tensor: Any, dtype: Any, *shape: int) -> Array:
            if tensor is None:
                return np.empty(shape, dtype)
            return written_array(tensor, shape, dtype, f"{function}: {name}")

        heads = self.shape.num_qo_heads
        out = made("out", given.out, self.shape.o_dtype, rows, heads, self.shape.head_dim_vo)
        return out, made("lse", given.lse, np.float32, rows, heads)

    def _options(
        self, given: Given, kv_dtype: np.dtype[Any], function: str
    ) -> tuple[Options, float | None, Array | None]:
        """Options; what the result is multiplied with where values have no scale of their own; and
        what each head of the queries is, where that is more than one number.

        Scales of 8-bit caches are Quire's own; those of others go where FlashInfer puts them.
        """
        quantised = kv_dtype.itemsize == 1
        heads, of_keys = self.shape.num_kv_heads, list[tuple[int, ...]]()
        if quantised:
            of_keys = [(heads,), (len(self.batch.kv_lens), heads)]
        of_queries = [(self.shape.num_qo_heads,)]
        q_scale = _scale_of(given.q_scale, f"{function}: q_scale", of_queries)
        k_scale = _scale_of(given.k_scale, f"{function}: k_scale", of_keys)
        v_scale = _scale_of(given.v_scale, f"{function}: v_scale", of_keys)
        scale = self.scores.sm_scale
        scale = 1 / math.sqrt(self.shape.head_dim_qk) if scale is None else scale
        q_factors = q_scale if isinstance(q_scale, np.ndarray) else None
        scale *= 1 if q_scale is None or q_factors is not None else q_scale
        if quantised:
            k_scale, v_scale = (1.0 if x is None else x for x in (k_scale, v_scale))
        else:
            scale *= 1 if k_scale is None else k_scale
        if given.sinks is not None and self.scores.alibi:
            raise NotImplementedError(
                f"{function}: sinks: got sinks with pos_encoding_mode 'ALIBI', expected None"
            )
        sinks = None
        if given.sinks is not None:
            sinks = array_of(given.sinks, f"{function}: sinks").astype(np.float32)
        options = Options(
            scale,
            self.scores.softcap,
            alibi_slopes_of(self.shape.num_qo_heads) if self.scores.alibi else None,
            sinks,
            k_scale if quantised else None,
            v_scale if quantised else None,
        )
        return options, None if quantised or v_scale == 1 else v_scale, q_factors

    def _base_2(self, natural: Array) -> Array:
        """Log-sum-exps in base 2, as FlashInfer has them.

        Its ALiBi counts positions of queries from the first query, Quire from the first key: that
        adds slope * (keys - queries) to all scores of a row.
        """
        lse = natural.astype(np.float64)
        if self.scores.alibi:
            queries = np.diff(self.batch.cu_seqlens_q)
            before = np.repeat(self.batch.kv_lens - queries, queries)
            lse += before[:, None] * alibi_slopes_of(self.shape.num_qo_heads).astype(np.float64)
        return lse / math.log(2)


def with_scales(function: str, plan: Plan, args: tuple[Any, ...], given: Given) -> Given:
    """The scales of 8-bit queries, keys and values, which FlashInfer's kernels for them take by
    position; nothing else is."""
    if plan.shape.q_dtype not in _FLOAT8 or len(args) != 3:
        refuse(function, args=args)
        return given
    if any(scale is not None for scale in (given.q_scale, given.k_scale, given.v_scale)):
        raise ValueError(f"{function}: args: got scales by position and by name, expected one")
    return replace(given, q_scale=args[0], k_scale=args[1], v_scale=args[2])


def _scale_of(value: Any, where: str, shapes: Sequence[tuple[int, ...]]) -> Any:
    """None, a number, or float32 of one of these shapes."""
    if value is not None and not isinstance(value, int | float) and not np.isscalar(value):
        array = array_of(value, where)
        if array.size != 1 and array.shape in shapes:
            return array.astype(np.float32)
    return number_of(value, where)


def results(q: Any, out: Array, lse: Array, given: Given) -> Any:
    """out or (out, lse) as run() returns them: the caller's own tensors, else new ones like q."""
    new_out = tensor_like(out, q) if given.out is None else given.out
    if not given.return_lse:
        return new_out
    return new_out, tensor_like(lse, q) if given.lse is None else given.lse


def indptr_of(tensor: Any, where: str, *, length: int | None = None) -> Ints:
    """Offsets of a ragged array: from 0, never falling."""
    indptr = integers_of(tensor, where, length=length)
    if len(indptr) == 0 or indptr[0] != 0:
        raise ValueError(f"{where}: got {indptr[:1].tolist()} at 0, expected 0")
    falls = np.flatnonzero(np.diff(indptr) < 0)
    if len(falls):
        at = int(falls[0]) + 1
        raise ValueError(f"{where}: got {indptr[at]} at {at}, expected at least {indptr[at - 1]}")
    return indptr


def masks_of(
    function: str, custom_mask: Any, packed_custom_mask: Any, queries: Ints, keys: Ints
) -> list[Array] | None:
    """FlashInfer's masks as bool [queries, keys] of each sequence; packed ones come first.

    custom_mask is flat, one sequence after the other; so is packed_custom_mask, with 8 entries a
    byte, the first in the lowest bit, and each sequence on bytes of its own (segment_packbits).
    """
    sizes = queries * keys
    if packed_custom_mask is not None:
        where = f"{function}: packed_custom_mask"
        packed = array_of(packed_custom_mask, where).reshape(-1)
        lengths = -(-sizes // 8)
        if packed.dtype != np.uint8 or len(packed) < lengths.sum():
            raise ValueError(
                f"{where}: got {packed.dtype} [{len(packed)}], expected uint8 [{lengths.sum()}]"
            )
        parts = np.split(packed, np.cumsum(lengths))[: len(sizes)]
        flat = [
            np.unpackbits(part, count=int(size), bitorder="little").astype(bool)
            for part, size in zip(parts, sizes, strict=True)
        ]
    elif custom_mask is not None:
        where = f"{function}: custom_mask"
        mask = array_of(custom_mask, where).reshape(-1)
        if mask.dtype != np.bool_ or len(mask) != sizes.sum():
            raise ValueError(
                f"{where}: got {mask.dtype} [{len(mask)}], expected bool [{sizes.sum()}]"
            )
        flat = np.split(mask, np.cumsum(sizes))[: len(sizes)]
    else:
        return None
    return [part.reshape(n, m) for part, n, m in zip(flat, queries, keys, strict=True)]
