"""Writing to a paged cache and joining results, with vLLM's names and arguments."""

from __future__ import annotations

from typing import Any

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
    if kv_cache_dtype not in ("auto", *_CACHE_DTYPES):
        raise NotImplementedError(
            f"{function}: kv_cache_dtype: got {kv_cache_dtype!r}, "
            "expected 'auto', 'fp8', 'fp8_e4m3' or 'fp8_e5m2'"
        )
    slots = np.maximum(integers_of(slot_mapping, f"{function}: slot_mapping"), -1)
    names = ("key", "value", "key_cache", "value_cache")
    arrays = [
        array_of(x, f"{function}: {name}")
        for name, x in zip(names, (key, value, key_cache, value_cache), strict=True)
    ]
    for name, x in zip(names[:2], arrays[:2], strict=True):
        if len(x) < len(slots):
            raise ValueError(f"{function}: {name}: got {len(x)} rows, expected {len(slots)}")
    scales: dict[str, Any] = {}
    if kv_cache_dtype == "auto":
        for name, x in zip(names[2:], arrays[2:], strict=True):
            if x.dtype.itemsize == 1:
                raise ValueError(f"{function}: {name}: got {x.dtype}, expected floats for 'auto'")
    else:
        wanted = _CACHE_DTYPES[kv_cache_dtype]
        for name, x in zip(names[2:], arrays[2:], strict=True):
            if x.dtype not in (wanted, np.uint8):
                raise ValueError(
                    f"{function}: {name}: got {x.dtype}, expected {wanted} or uint8 "
                    f"for {kv_cache_dtype!r}"
                )
        scales["cache_dtype"] = wanted
        for name, x, scale in [("k_scale", arrays[2], k_scale), ("v_scale", arrays[3], v_scale)]:
            scales[name] = descale_of(f"{function}: {name}", scale, x, arrays[0].shape[1])
    quire.write_kv(
        arrays[0][: len(slots)], arrays[1][: len(slots)], arrays[2], arrays[3], slots, **scales
    )


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
