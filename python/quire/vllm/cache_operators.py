"""Writing to a paged cache and joining results, with vLLM's names and arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import quire
from quire.tensor_views import Array, array_of, integers_of, written_array

FP8 = np.dtype(ml_dtypes.float8_e4m3fn)  # vLLM's "fp8"
_CACHE_DTYPES = {
    "fp8": FP8,
    "fp8_e4m3": FP8,
    "fp8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


def refuse(function: str, **given: Any) -> None:
    """Raises NotImplementedError for the first argument that is not None."""
    for name, value in given.items():
        if value is not None:
            got = value if isinstance(value, str | int | float) else type(value).__name__
            raise NotImplementedError(
                f"{function}: {name}: got {got}, expected it left out: it is not here"
            )


def descale_of(
    where: str, descale: Any, numbers: Array, heads: int, sequences: int | None = None
) -> Any:
    """What 8-bit numbers are multiples of: a number, or float32 [heads] or [sequences, heads].

    Of other floats, which have no such thing, None; ones may be given for them.
    """
    quantised = numbers.dtype.itemsize == 1
    if descale is None:
        return 1.0 if quantised else None
    scales = np.asarray(descale) if isinstance(descale, int | float) else array_of(descale, where)
    if not quantised:
        if (scales != 1).any():
            raise ValueError(f"{where}: got scales for {numbers.dtype}, expected None")
        return None
    if scales.size == 1:
        return float(scales.reshape(()))
    shapes = [(heads,)] if sequences is None else [(heads,), (sequences, heads)]
    if scales.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"{where}: got shape {list(scales.shape)}, expected one number or {expected}"
        )
    return scales.astype(np.float32)


def reshape_and_cache_flash(
    key: Any,
    value: Any,
    key_cache: Any,
    value_cache: Any,
    slot_mapping: Any,
    kv_cache_dtype: str,
    k_scale: Any,
    v_scale: Any,
) -> None:
    """Writes rows of keys and values into their slots of a paged cache.

    Args:
        key: [n, Hkv, D]. value: [n, Hkv, Dv]. Rows past slot_mapping's end are padding.
        key_cache, value_cache: [num_blocks, block_size, Hkv, D] and [.., Dv], in any strides.
        slot_mapping: [tokens]: block * block_size + offset; a negative one skips the row.
        kv_cache_dtype: "auto": the caches' own, float32, float16 or bfloat16; "fp8" or "fp8_e4m3":
            the caches are float8_e4m3fn, "fp8_e5m2": float8_e5m2, or uint8 that stand for it.
        k_scale, v_scale: of 8-bit floats: a number, [1] or [Hkv], what the stored numbers are
            multiples of; cut off at 448 or 57344 times it. Ignored under "auto".

    Raises:
        NotImplementedError: another kv_cache_dtype. ValueError, TypeError, IndexError. Nothing has
        been written then.
    """
    function = "reshape_and_cache_flash"
    names = ("key", "value", "key_cache", "value_cache")
    k, v, k_cache, v_cache = (
        array_of(x, f"{function}: {name}")
        for name, x in zip(names, (key, value, key_cache, value_cache), strict=True)
    )
    planes = (
        _Plane("key", k, "key_cache", k_cache, "k_scale", k_scale),
        _Plane("value", v, "value_cache", v_cache, "v_scale", v_scale),
    )
    _write_rows(function, planes, slot_mapping, kv_cache_dtype)


def concat_and_cache_mla(
    kv_c: Any,
    k_pe: Any,
    kv_cache: Any,
    slot_mapping: Any,
    kv_cache_dtype: str,
    scale: Any,
) -> None:
    """Writes latents and keys with positions, side by side, into their slots of a paged cache.

    flash_attn_varlen_func reads it with k=kv_cache[:, :, None] and v=kv_cache[:, :, None, :R].

    Args:
        kv_c: [n, R]. k_pe: [n, P]. Rows past slot_mapping's end are padding.
        kv_cache: [num_blocks, block_size, R + P], in any strides.
        slot_mapping, kv_cache_dtype: as reshape_and_cache_flash.
        scale: of 8-bit floats: a number or [1], which both are multiples of; ignored under "auto".

    Raises:
        NotImplementedError: another kv_cache_dtype. ValueError, TypeError, IndexError. Nothing has
        been written then.
    """
    function = "concat_and_cache_mla"
    names = ("kv_c", "k_pe", "kv_cache")
    arrays = [
        array_of(x, f"{function}: {name}")
        for name, x in zip(names, (kv_c, k_pe, kv_cache), strict=True)
    ]
    for name, x, axes in zip(names, arrays, (2, 2, 3), strict=True):
        if x.ndim != axes or x.shape[-1] == 0:
            raise ValueError(
                f"{function}: {name}: got shape {list(x.shape)}, expected {axes} axes, "
                "the last of at least 1"
            )
    latents, rotary, cache = (np.expand_dims(x, -2) for x in arrays)
    size = latents.shape[-1]
    if cache.shape[-1] != size + rotary.shape[-1]:
        raise ValueError(
            f"{function}: kv_cache: got a last axis of {cache.shape[-1]}, expected "
            f"{size + rotary.shape[-1]}, that of kv_c and of k_pe together"
        )
    planes = (
        _Plane("kv_c", latents, "kv_cache", cache[..., :size], "scale", scale),
        _Plane("k_pe", rotary, "kv_cache", cache[..., size:], "scale", scale),
    )
    _write_rows(function, planes, slot_mapping, kv_cache_dtype)


class _Plane(NamedTuple):
    """Rows [n, heads, size], the cache that they go to, and what messages call them."""

    rows_name: str
    rows: Array
    cache_name: str
    cache: Array
    scale_name: str
    scale: Any


def _write_rows(
    function: str, planes: tuple[_Plane, _Plane], slot_mapping: Any, kv_cache_dtype: str
) -> None:
    """Keys and values, or the two parts of keys, all of them or none."""
    if kv_cache_dtype not in ("auto", *_CACHE_DTYPES):
        raise NotImplementedError(
            f"{function}: kv_cache_dtype: got {kv_cache_dtype!r}, "
            "expected 'auto', 'fp8', 'fp8_e4m3' or 'fp8_e5m2'"
        )
    slots = np.maximum(integers_of(slot_mapping, f"{function}: slot_mapping"), -1)
    for plane in planes:
        if len(plane.rows) < len(slots):
            raise ValueError(
                f"{function}: {plane.rows_name}: got {len(plane.rows)} rows, expected {len(slots)}"
            )
    scales: dict[str, Any] = {}
    if kv_cache_dtype == "auto":
        for plane in planes:
            if plane.cache.dtype.itemsize == 1:
                raise ValueError(
                    f"{function}: {plane.cache_name}: got {plane.cache.dtype}, "
                    "expected floats for 'auto'"
                )
    else:
        wanted = _CACHE_DTYPES[kv_cache_dtype]
        for plane in planes:
            if plane.cache.dtype not in (wanted, np.uint8):
                raise ValueError(
                    f"{function}: {plane.cache_name}: got {plane.cache.dtype}, expected {wanted} "
                    f"or uint8 for {kv_cache_dtype!r}"
                )
        scales["cache_dtype"] = wanted
        for name, plane in zip(("k_scale", "v_scale"), planes, strict=True):
            where = f"{function}: {plane.scale_name}"
            scales[name] = descale_of(where, plane.scale, plane.cache, plane.rows.shape[1])
    k, v = (plane.rows[: len(slots)] for plane in planes)
    k_cache, v_cache = (plane.cache for plane in planes)
    quire.write_kv(k, v, k_cache, v_cache, slots, **scales)


def merge_attn_states(
    output: Any,
    prefix_output: Any,
    prefix_lse: Any,
    suffix_output: Any,
    suffix_lse: Any,
    output_lse: Any = None,
    prefill_tokens_with_context: int | None = None,
    output_scale: Any = None,
) -> None:
    """Joins attention over a prefix and over what follows it (arXiv 2501.01005, section 2.2).

    Args:
        output: [T, H, D], written; may be one of the two that are joined.
        prefix_output, suffix_output: [T, H, D] of output's dtype.
        prefix_lse, suffix_lse: [H, T] float32, natural; infinity counts as -infinity, which is how
            FlashAttention 2 marks a row without keys.
        output_lse: [H, T] float32, written where given.
        prefill_tokens_with_context: rows from this one on are suffix_output as it is; None: none.
        output_scale: None; float8 outputs are not here.

    Raises:
        NotImplementedError, ValueError, TypeError. Nothing has been written then.
    """
    function = "merge_attn_states"
    refuse(function, output_scale=output_scale)
    outs = [array_of(x, f"{function}: output") for x in (prefix_output, suffix_output)]
    target = written_array(output, outs[0].shape, outs[0].dtype, f"{function}: output")
    if outs[1].shape != target.shape or outs[1].dtype != target.dtype or target.ndim != 3:
        raise ValueError(
            f"{function}: suffix_output: got {outs[1].dtype} {list(outs[1].shape)}, "
            f"expected {target.dtype} {list(target.shape)}, [T, H, D]"
        )
    rows, heads = target.shape[:2]
    lses = []
    for name, x in [("prefix_lse", prefix_lse), ("suffix_lse", suffix_lse)]:
        lse = array_of(x, f"{function}: {name}")
        if lse.shape != (heads, rows) or lse.dtype != np.float32:
            raise ValueError(
                f"{function}: {name}: got {lse.dtype} {list(lse.shape)}, "
                f"expected float32 [{heads}, {rows}]"
            )
        lses.append(np.where(lse == np.inf, np.float32(-np.inf), lse).T)
    target_lse = (
        None
        if output_lse is None
        else written_array(output_lse, (heads, rows), np.float32, f"{function}: output_lse")
    )
    merged, merged_lse = quire.merge_states(np.stack(outs), np.ascontiguousarray(np.stack(lses)))
    if prefill_tokens_with_context is not None:
        alone = slice(int(prefill_tokens_with_context), None)
        merged[alone], merged_lse[alone] = outs[1][alone], lses[1][alone]
    target[...] = merged
    if target_lse is not None:
        target_lse[...] = merged_lse.T
