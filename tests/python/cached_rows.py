"""Pools of small blocks, and sequences whose rows tell all that stands before them."""

from __future__ import annotations

from typing import Any

import numpy as np

import quire

BLOCK_SIZE = 4


def new_pool(num_blocks: int = 32, num_layers: int = 1) -> quire.BlockPool:
    return quire.BlockPool(
        num_blocks,
        block_size=BLOCK_SIZE,
        num_kv_heads=2,
        head_dim=8,
        v_head_dim=4,
        num_layers=num_layers,
        dtype="float32",
    )


def rows(ids: list[int], namespace: str = "") -> Any:
    """Rows that tell all tokens up to theirs, and the namespace: of one layer, one number each."""
    numbers, total = [], float(len(namespace))
    for token in ids:
        total = (31 * total + token + 1) % 65521
        numbers.append(total)
    return np.array(numbers, np.float32)


def append(table: quire.BlockTable, ids: list[int], namespace: str = "") -> None:
    """Writes what the table lacks of ids; layers differ by 100000."""
    new = rows(ids, namespace)[len(table) :, None, None]
    num_layers = table.pool.num_layers
    layers = np.stack([new + 100000 * layer for layer in range(num_layers)])
    k = np.broadcast_to(layers, (num_layers, len(new), 2, 8)).astype(np.float32)
    k = k if num_layers > 1 else k[0]
    table.append(k, -k[..., :4])


def holds(table: quire.BlockTable, ids: list[int], namespace: str = "") -> bool:
    for layer in range(table.pool.num_layers):
        k, v = table.gather(layer)
        expected = np.broadcast_to(rows(ids, namespace)[:, None, None] + 100000 * layer, k.shape)
        if not (np.array_equal(k, expected) and np.array_equal(v, -expected[..., :4])):
            return False
    return True


def serve(cache: quire.PrefixCache, ids: list[int], namespace: str = "") -> quire.BlockTable:
    """What an engine does: match, compute the rest, insert."""
    table = cache.match(ids, namespace=namespace)
    append(table, ids, namespace)
    cache.insert(ids, table, namespace=namespace)
    return table
