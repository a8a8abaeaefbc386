"""Quire as cache and attention of Hugging Face transformers.

    >>> import quire.transformers
    >>> model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="quire")
    >>> cache = quire.transformers.cache(model, num_blocks=1024)
    >>> model.generate(**inputs, past_key_values=cache)

Importing this registers the attention function "quire" and its mask. With another cache, or none,
the function computes the same over that cache's keys.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import LinearAttentionLayer

import quire
from quire.transformers.attention_function import attention, causal_mask
from quire.transformers.batch_tables import BatchTables, LayerGroup
from quire.transformers.paged_cache import PagedCache, PagedLayer

__all__ = ["PagedCache", "cache"]

# A name without a mask function gets no mask at all, for padded batches neither.
AttentionInterface.register("quire", attention)
AttentionMaskInterface.register("quire", causal_mask)

_FULL, _SLIDING = "full_attention", "sliding_attention"
_KEYS = (_FULL, _SLIDING)  # the order of the pools
_STATES = ("linear_attention",)


def cache(
    model: Any,
    *,
    num_blocks: int,
    dtype: npt.DTypeLike | None = None,
    block_size: int = 16,
    prefix_cache: bool = False,
    open_blocks: int | None = None,
) -> PagedCache:
    """A cache of a model of transformers, for generate(past_key_values=...).

    Layers with keys and values have them in a quire.BlockPool, those with a sliding window in a
    second one, whose blocks go back as soon as the window has gone past them, unless prefix_cache
    keeps them. Layers with linear attention keep their state beside, as in transformers.

    Args:
        model: a decoder with attn_implementation="quire", on the CPU.
        num_blocks: of each pool; a sequence takes ceil(tokens / block_size) in each.
        dtype: of the pools, as for quire.BlockPool; None: the model's. block_size: in tokens.
        prefix_cache: whether prompts share the blocks of what they have in common with earlier
            ones; PagedCache.start says which prompts come.
        open_blocks: as for quire.BlockPool, of dtypes that are quantised.

    Raises:
        ValueError: another attention, a kind of layer that is not supported, prefix_cache for a
        model with recurrent states; and what quire.BlockPool raises.
    """
    config = model.config.get_text_config(decoder=True)
    if config._attn_implementation != "quire":
        raise ValueError(
            f"cache: model: got attn_implementation {config._attn_implementation!r}, expected "
            "'quire': model.set_attn_implementation('quire')"
        )
    types = _layer_types(config)
    if prefix_cache and any(kind in _STATES for kind in types):
        raise ValueError(
            "cache: prefix_cache: got True, expected False for a model with linear-attention "
            "layers, whose states of a prefix are not kept"
        )
    kinds = [kind for kind in _KEYS if kind in types]
    groups = {}
    for kind in kinds:
        pool = quire.BlockPool(
            num_blocks,
            block_size=block_size,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
            num_layers=types.count(kind),
            dtype=str(model.dtype).removeprefix("torch.") if dtype is None else dtype,
            open_blocks=open_blocks,
        )
        window = config.sliding_window if kind == _SLIDING else None
        groups[kind] = LayerGroup(pool, window, quire.PrefixCache(pool) if prefix_cache else None)
    with_keys = sum(kind in _KEYS for kind in types)
    tables = BatchTables(list(groups.values()), with_keys, has_states=with_keys < len(types))
    layers: list[Any] = []
    placed = dict.fromkeys(kinds, 0)
    for kind in types:
        if kind in _STATES:
            states = getattr(config, "number_of_conv_states", 1)
            layers.append(LinearAttentionLayer(number_of_states=states))
            continue
        layers.append(PagedLayer(tables, groups[kind], placed[kind], sum(placed.values())))
        placed[kind] += 1
    return PagedCache(tables, layers)


def _layer_types(config: Any) -> list[str]:
    """The kind of each layer, as transformers infers it where the configuration does not say."""
    types = getattr(config, "layer_types", None)
    if types is None:
        windowed = getattr(config, "sliding_window", None) is not None
        types = [_SLIDING if windowed else _FULL] * config.num_hidden_layers
    for i, kind in enumerate(types):
        if kind not in _KEYS + _STATES:
            raise ValueError(
                f"cache: model: got {kind!r} as layer {i}, expected one of "
                f"{', '.join(_KEYS + _STATES)}"
            )
    if not any(kind in _KEYS for kind in types):
        raise ValueError("cache: model: got no layer with keys and values, expected one")
    if getattr(config, "num_kv_shared_layers", None):
        raise ValueError(
            f"cache: model: got {config.num_kv_shared_layers} layers that share keys of others, "
            "expected none"
        )
    return list(types)
