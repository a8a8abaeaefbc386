"""Attention and its mask as transformers calls them, registered as "quire".

With a cache of quire.transformers the keys that come are the new ones alone, and carry the layer
that they belong to: only this attribute reaches the function in every version of transformers.
Keys of another cache, or of none, are all there are, and are read where they lie.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import quire
from quire.transformers.batch_tables import left_padded, padded_rows, token_rows

# What transformers hands to every attention function, and would change what ours computes.
_REFUSED = ("position_bias", "cu_seq_lens_q", "cu_seq_lens_k", "output_attentions", "head_mask")


def causal_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    *,
    attention_mask: Any = None,
    config: Any = None,
    **options: Any,
) -> Any:
    """The padding of the keys, bool [B, kv_length], or None where there is none.

    The function itself knows causality and windows. Any other mask is refused here, as it could not
    be told from a causal one later: packed sequences, images that see themselves, chunks, a static
    cache.
    """
    if not options.get("allow_is_causal_skip", False) or options.get("use_vmap", False):
        raise ValueError(
            "quire attention: mask: got one that is more than causal, a window and padding, "
            "expected such a one; packed sequences need an attention_mask of ones"
        )
    if getattr(config, "attention_chunk_size", None) is not None:
        raise ValueError(
            f"quire attention: config.attention_chunk_size: got {config.attention_chunk_size}, "
            "expected None"
        )
    if kv_offset + kv_length != q_offset + q_length:
        raise ValueError(
            f"quire attention: keys: got {kv_length} from {kv_offset} on, expected the last at "
            f"{q_offset + q_length - 1}, that of the queries: a static cache is not supported"
        )
    if attention_mask is None:
        return None
    if attention_mask.shape[1] != q_offset + q_length:
        raise ValueError(
            f"quire attention: attention_mask: got {list(attention_mask.shape)}, expected "
            f"[{batch_size}, {q_offset + q_length}], the tokens of the cache and the new ones"
        )
    attention_mask = attention_mask[:, -kv_length:]
    return None if attention_mask.all() else attention_mask


def attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: Any = None,
    **options: Any,
) -> tuple[Any, None]:
    """Attention of one layer as transformers' AttentionInterface has it.

    Args:
        module: the layer's attention. query: [B, Hq, n, D]. key, value: [B, Hkv, n, D] where they
            carry a layer of a cache of quire.transformers, otherwise [B, Hkv, kv, D].
        attention_mask: what causal_mask has given. scaling: of the scores; None: 1 / sqrt(D).
        sliding_window: keys that a query sees, its own included. softcap: as in quire.attend.
        s_aux: [Hq], a logit per head in the softmax's sum, without a value.

    Returns:
        [B, n, Hq, Dv] of query's dtype, and None, as there are no weights to show.

    Raises:
        ValueError: what Quire does not compute: dropout, not causal, a mask of four axes, a bias,
        packed sequences, weights. RuntimeError: under autograd, as there is no gradient.
    """
    layer = getattr(key, "quire_layer", None)
    if layer is not None:
        layer.tables.unread = None
    _check(module, query, attention_mask, dropout, is_causal, options)
    shared = {
        "scale": scaling,
        "sliding_window": sliding_window,
        "softcap": softcap,
        "sinks": None if s_aux is None else s_aux.detach(),
    }
    if layer is None:
        return _attend_plain(query, key, value, attention_mask, shared), None
    if sliding_window != layer.group.window:
        raise ValueError(
            f"quire attention: sliding_window: got {sliding_window}, expected "
            f"{layer.group.window}, as the configuration says of this layer"
        )
    states = (query, key, value)
    place = (layer.group, layer.pool_layer, layer.order)
    return layer.tables.attend(*place, states, attention_mask, **shared), None


def _check(
    module: Any,
    query: Any,
    mask: Any,
    dropout: float,
    is_causal: bool | None,
    options: dict[str, Any],
) -> None:
    if torch.is_grad_enabled() and query.requires_grad:
        raise RuntimeError(
            "quire attention: query: got one that requires a gradient, expected none: call the "
            "model within torch.no_grad()"
        )
    if dropout:
        raise ValueError(f"quire attention: dropout: got {dropout}, expected 0")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal:
        raise ValueError("quire attention: is_causal: got False, expected True")
    if mask is not None and mask.ndim != 2:
        raise ValueError(
            f"quire attention: attention_mask: got {list(mask.shape)}, expected two axes, batch "
            "and tokens"
        )
    for name in _REFUSED:
        if options.get(name) is not None and options[name] is not False:
            raise ValueError(f"quire attention: {name}: got a value, expected None")


def _attend_plain(query: Any, key: Any, value: Any, mask: Any, options: dict[str, Any]) -> Any:
    """Keys as blocks of one token, so that those of padding are left out of the tables."""
    batch, _, n, _ = query.shape
    length = key.shape[2]
    visible = np.ones((batch, length), bool) if mask is None else mask.numpy()
    if options["sliding_window"] is not None and not left_padded(visible):
        raise ValueError(
            "quire attention: attention_mask: got padding after a token, expected it before all of "
            "them in a layer with a sliding window"
        )
    seq_lens = visible.sum(axis=1)
    block_tables = np.full((batch, max(1, int(seq_lens.max()))), -1)
    block_tables[np.arange(block_tables.shape[1]) < seq_lens[:, None]] = np.flatnonzero(visible)
    new = visible[:, length - n :]
    tokens = None if new.all() else torch.from_numpy(new.reshape(-1))
    q = token_rows(query, tokens)
    out = q.new_empty(q.shape[0], q.shape[1], value.shape[3])
    quire.paged_attention(
        q,
        token_rows(key, None)[:, None],
        token_rows(value, None)[:, None],
        block_tables,
        seq_lens,
        cu_seqlens_q=np.cumsum([0, *new.sum(axis=1)]),
        out=out,
        **options,
    )
    return padded_rows(out, tokens).view(batch, n, *out.shape[1:])
