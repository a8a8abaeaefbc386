"""The cache that a model of transformers is given: its layers' keys and values in block pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionLayer

import quire
from quire.transformers.batch_tables import BatchTables, LayerGroup, left_padded


class PagedLayer(CacheLayerMixin):
    """One layer with keys and values; update hands them on to the attention function "quire".

    The function writes them, as it knows the padding: here they are only marked.
    """

    is_compileable = False
    is_croppable = True
    supports_early_init = False

    def __init__(self, tables: BatchTables, group: LayerGroup, pool_layer: int, order: int) -> None:
        """pool_layer: of the group's pool. order: among all layers with keys and values."""
        super().__init__()
        self.tables, self.group = tables, group
        self.pool_layer, self.order = pool_layer, order
        self.is_sliding = group.window is not None

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Nothing: the pool is there from the beginning."""

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """The new keys and values [B, Hkv, n, D] as they came, with this layer beside the keys."""
        unread, self.tables.unread = self.tables.unread, None
        if unread is not None:
            raise RuntimeError(
                f"quire cache: attention: got one that has not read the keys of layer {unread}, "
                'expected attn_implementation="quire"'
            )
        self.tables.unread = self.order
        key_states.quire_layer = self
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Tokens of each row, padding included."""
        return self.tables.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a mask is about, padding included, and the first of them: all from 0 on."""
        return self.tables.columns + query_length, 0

    def get_max_length(self) -> int:
        """-1, no most: the pool is the limit."""
        return -1


class PagedCache(Cache):
    """Keys and values in blocks of quire.BlockPool, for generate(past_key_values=...).

    Made by quire.transformers.cache. Its blocks go back to the pools when it is reset or dropped.
    One batch at a time; a second generate with the same cache goes on in the same sequences, as
    with every cache of transformers, unless reset or start comes between.
    """

    def __init__(self, tables: BatchTables, layers: list[Any]) -> None:
        super().__init__(layers=layers)
        self._tables = tables

    @property
    def pools(self) -> tuple[quire.BlockPool, ...]:
        """One, or two in a model with sliding windows: of its full layers and of the others."""
        return tuple(group.pool for group in self._tables.groups)

    @property
    def prefix_caches(self) -> tuple[quire.PrefixCache, ...]:
        """One for each pool, or none."""
        return tuple(g.prefixes for g in self._tables.groups if g.prefixes is not None)

    def tables(self, row: int) -> tuple[quire.BlockTable, ...]:
        """The block tables of a row of the batch, one for each pool: to look at, not to change."""
        return tuple(group.tables[row] for group in self._tables.groups)

    def start(
        self, input_ids: Any, attention_mask: Any = None, *, namespace: str = ""
    ) -> list[int]:
        """Begin new sequences with what the prefix cache holds of their prompts.

        generate then computes only the rest of them, from the first column on that some row lacks,
        and the prompts become matchable once their keys are there. Rows that generate repeats, for
        beams or num_return_sequences, share what was found.

        Args:
            input_ids: [B, n], integers, what generate will be given. attention_mask: [B, n], 0 is
                padding, all of it on the left; None: there is none.
            namespace: nothing is shared between namespaces.

        Returns:
            The tokens found of each row.

        Raises:
            ValueError: a cache made without prefix_cache, a wrong shape, padding that is not on the
            left, a prompt without tokens. quire.OutOfBlocks. The cache is empty then.
        """
        self._need_prefixes("start")
        ids = np.asarray(input_ids)
        padding = np.ones(ids.shape, bool) if attention_mask is None else np.asarray(attention_mask)
        padding = padding.astype(bool)
        if ids.ndim != 2 or padding.shape != ids.shape:
            raise ValueError(
                f"start: input_ids: got {list(ids.shape)} with attention_mask "
                f"{list(padding.shape)}, expected [B, n] of both"
            )
        if not left_padded(padding) or not padding.any(axis=1).all():
            raise ValueError(
                "start: attention_mask: got a row that does not end in its tokens, expected "
                "padding on the left alone, and a token in each row"
            )
        self.reset()
        prompts = [row[kept].tolist() for row, kept in zip(ids, padding, strict=True)]
        return self._tables.start(prompts, padding, namespace)

    def remember(self, sequences: Any) -> None:
        """Put generated tokens into the prefix cache too, for the next turn of a conversation.

        Args:
            sequences: [B, n], what generate returned: prompts and what came after.

        Raises:
            ValueError: a cache made without prefix_cache, another number of rows, fewer columns
            than it has, or rows that were reordered by beam search, which are not those returned.
        """
        self._need_prefixes("remember")
        ids = np.asarray(sequences)
        tables = self._tables
        if tables.reordered:
            raise ValueError("remember: cache: got one of beams, expected rows in their order")
        if ids.ndim != 2 or len(ids) != tables.rows or ids.shape[1] < tables.columns:
            raise ValueError(
                f"remember: sequences: got {list(ids.shape)}, expected [{tables.rows or 0}, "
                f"{tables.columns} or more]"
            )
        tables.remember(ids)

    def _need_prefixes(self, function: str) -> None:
        if not self.prefix_caches:
            raise ValueError(f"{function}: cache: got one without prefix_cache, expected one with")

    def reset(self) -> None:
        """Give back all blocks; prefixes stay matchable. The next batch may have any size."""
        self._tables.reset()
        for i, layer in enumerate(self.layers):
            if isinstance(layer, LinearAttentionLayer):
                self.layers[i] = LinearAttentionLayer(number_of_states=layer.number_of_states)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Row i is then what row beam_idx[i] was; rows that come from one share its blocks."""
        self._tables.reordered = True
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Any) -> None:
        """Row i is then what row indices[i] was."""
        rows: Sequence[int] = np.asarray(indices).tolist()
        self._tables.select(rows)
        for layer in self._states():
            layer.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row so many times, one after the other; they share their blocks."""
        rows = np.repeat(np.arange(self._tables.rows or 0), repeats)
        self.batch_select_indices(torch.from_numpy(rows))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -tokens_to_remove tokens of each row; 0 or below.

        Raises:
            ValueError: a number above 0, more than there are, tokens before a window whose blocks
            are given back, or a model with recurrent states, which cannot go back.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"crop: tokens_to_remove: got {tokens_to_remove}, expected 0 or below")
        states = list(self._states())
        if tokens_to_remove < 0 and any(not layer.is_croppable for layer in states):
            raise ValueError(
                f"crop: tokens_to_remove: got {tokens_to_remove}, expected 0 in a model whose "
                "linear-attention layers have recurrent states"
            )
        self._tables.crop(-tokens_to_remove)
        for layer in states:
            if layer.record_past:
                layer.crop(tokens_to_remove)

    def activate_past_recording(self) -> None:
        """Keep what a window has gone past until the next crop."""
        super().activate_past_recording()
        self._tables.recording = True

    def _states(self) -> Any:
        return (layer for layer in self.layers if isinstance(layer, LinearAttentionLayer))
