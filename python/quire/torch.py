"""Quire as operators of PyTorch: what calls them can be compiled by torch.compile as a whole.

Importing this module registers quire::paged_attention, quire::write_kv and quire::merge_states,
which torch.ops.quire has too, and needs PyTorch from 2.5 on. They take what Quire's functions of
these names take, as tensors in CPU memory; scales are tensors as well, and paged_attention always
returns (out, lse). They have no gradients: tensors that need one are refused, so that parameters,
such as sinks, are given as sinks.detach(). Without torch.compile the functions themselves take
tensors, and cost less.

    >>> import torch, quire, quire.torch
    >>> pool = quire.BlockPool(64, num_kv_heads=2, head_dim=64)
    >>> k_cache = quire.torch.as_tensor(pool.k_cache())
"""

import inspect
from typing import Any

import numpy as np
import torch

from quire import _core

_torch: Any = torch  # some of its functions have no types
_LIBRARY = _torch.library.Library("quire", "DEF")  # its operators live as long as this

__all__ = ["as_tensor", "merge_states", "paged_attention", "write_kv"]


def as_tensor(array: Any) -> torch.Tensor:
    """A tensor over an array's memory, which lives as long as the tensor: nothing is copied.

    torch.from_numpy does the same, but for bfloat16 and float8_e4m3fn, the dtypes of most pools.
    Int4 caches are uint8, as in NumPy.

    Args:
        array: of a cache's dtypes, such as pool.k_cache(), with any strides of 0 or more.

    Raises:
        TypeError: no array, or another dtype. ValueError: a stride below 0, which no tensor has, or
        a read-only array, which a tensor cannot say of itself.

    Example:
        >>> as_tensor(pool.k_cache()).dtype
        torch.bfloat16
    """
    if isinstance(array, np.ndarray):
        if any(stride < 0 for stride in array.strides):
            raise ValueError(
                f"as_tensor: array: got strides {array.strides}, expected none below 0"
            )
        if not array.flags.writeable:
            raise ValueError("as_tensor: array: got a read-only array, expected a writable one")
    tensor: torch.Tensor = _torch.from_dlpack(_core.dlpack_of(array))
    return tensor


# PyTorch makes an operator's schema of these signatures. It has no tensors that are given by name
# alone, so options may be given by their place, too.
def _paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    k_open: torch.Tensor | None = None,
    v_open: torch.Tensor | None = None,
    cu_seqlens_q: torch.Tensor | None = None,
    key_positions: torch.Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    sliding_window: int | None = None,
    num_sink_tokens: int = 0,
    softcap: float | None = None,
    alibi_slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    layout: str = "NHD",
    implementation: str = "auto",
    num_threads: int | None = None,
    tree_mask: torch.Tensor | None = None,
    causal_of_each: torch.Tensor | None = None,
    window_sides: list[int] | None = None,
    cache_dtype: str | None = None,
    k_tail: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    options: dict[str, Any] = locals()
    # a schema has one type for each option, so what causal and sliding_window also take has a name
    # of its own, and is taken in their place
    if (each := options.pop("causal_of_each")) is not None:
        options["causal"] = each
    if (sides := options.pop("window_sides")) is not None:
        options["sliding_window"] = tuple(sides)
    given = [options.pop(name) for name in ("q", "k_cache", "v_cache", "block_tables", "seq_lens")]
    out: Any = _core.paged_attention(*given, **options, return_lse=True)
    return out[0], out[1]


def _fake_paged_attention(*given: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    arguments = inspect.signature(_paged_attention).bind(*given, **options).arguments
    q, v_cache = arguments["q"], arguments["v_cache"]
    tokens, heads, _ = q.shape
    is_int4 = v_cache.dtype == torch.uint8 and arguments.get("cache_dtype") in (None, "int4")
    numbers = 2 if is_int4 else 1  # of int4 a byte has two
    dtype = torch.bfloat16 if q.element_size() == 1 else q.dtype
    out = q.new_empty((tokens, heads, v_cache.shape[3] * numbers), dtype=dtype)
    return out, q.new_empty((tokens, heads), dtype=torch.float32)


def _write_kv(
    k: torch.Tensor,
    v: torch.Tensor | None,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor | None,
    slot_mapping: torch.Tensor,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    k_open: torch.Tensor | None = None,
    v_open: torch.Tensor | None = None,
    layout: str = "NHD",
    cache_dtype: str | None = None,
) -> None:
    options: dict[str, Any] = locals()
    given = [options.pop(name) for name in ("k", "v", "k_cache", "v_cache", "slot_mapping")]
    _core.write_kv(*given, **options)


def _merge_states(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    merged: Any = _core.merge_states(outs, lses)
    return merged[0], merged[1]


def _fake_merge_states(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return outs.new_empty(outs.shape[1:]), lses.new_empty(lses.shape[1:])


def _register(name: str, function: Any, fake: Any, *, mutates_args: tuple[str, ...] = ()) -> Any:
    """The operator quire::name. torch.library.custom_op would do the same at 2 to 8 times the cost
    of a call: it looks for gradients each time, which there are none of here."""
    schema = _torch.library.infer_schema(function, mutates_args=mutates_args)
    _LIBRARY.define(name + schema)
    # tensors of every device come here, and Quire says which it does not take
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")

    # A compiled graph runs on tensors that no longer say that they need a gradient, so what Quire
    # would refuse is refused when it is compiled.
    def refuse_or_fake(*given: Any, **options: Any) -> Any:
        if torch.is_grad_enabled():
            for argument in (*given, *options.values()):
                if isinstance(argument, torch.Tensor) and argument.requires_grad:
                    raise TypeError(
                        f"{name}: tensors: got one that needs a gradient, expected none that does"
                    )
        return fake(*given, **options)

    _torch.library.register_fake(f"quire::{name}", refuse_or_fake, lib=_LIBRARY)
    return getattr(_torch.ops.quire, name)


paged_attention = _register("paged_attention", _paged_attention, _fake_paged_attention)
# Scales that are read and not written, [Hkv], count as written too.
write_kv = _register(
    "write_kv",
    _write_kv,
    lambda *given, **options: None,
    mutates_args=("k_cache", "v_cache", "k_scale", "v_scale", "k_open", "v_open"),
)
merge_states = _register("merge_states", _merge_states, _fake_merge_states)
