"""Priorities of cached blocks: the lowest go first, in memory and after a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire


def new_cache() -> quire.PrefixCache:
    return quire.PrefixCache(quire.BlockPool(16, block_size=4, num_kv_heads=1, head_dim=8))


def leave(cache: quire.PrefixCache, ids: list[int], priority: Any) -> None:
    """Cached, and in nobody's use."""
    with cache.match(ids) as table:
        new = np.ones((len(ids) - len(table), 1, 8), np.float32)
        table.append(new, new)
        cache.insert(ids, table, priority=priority)


def test_the_lowest_goes_first(tmp_path: Path) -> None:
    cache = new_cache()
    prompts = {priority: [priority] * 8 for priority in (100, -100, 0, np.int64(7))}
    for priority, ids in prompts.items():
        leave(cache, ids, priority)
    cache.save(tmp_path)
    loaded = new_cache()
    assert loaded.load(tmp_path) == 8
    for each in (cache, loaded):
        for priority in sorted(prompts):
            assert each.peek([*prompts[priority], 1]) == 8
            assert each.evict(2) == 2
            assert each.peek([*prompts[priority], 1]) == 0
        assert len(each) == 0


def test_it_refuses() -> None:
    cache = new_cache()
    leave(cache, [1, 2], 0)
    with cache.match([1, 2, 3]) as table:
        for wrong in (101, -101):
            message = f"PrefixCache.insert: priority: got {wrong}, expected -100 to 100"
            with pytest.raises(ValueError, match=message):
                cache.insert([1, 2], table, priority=wrong)
        with pytest.raises(TypeError, match=r"PrefixCache\.insert: priority: got float"):
            cache.insert([1, 2], table, priority=1.5)  # type: ignore[arg-type]
    assert len(cache) == 1
