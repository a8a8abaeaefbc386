"""vLLM's scenarios of prefix caching, on the KVCacheManager of the examples.

Block ids and the order of eviction are Quire's own; who finds what, and what is free, is vLLM's.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "kv_cache_manager.py"
BLOCK_SIZE = 16
COMMON = [i for i in range(3) for _ in range(BLOCK_SIZE)]  # three full blocks


@pytest.fixture(scope="module")
def example() -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("kv_cache_manager", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kv_cache_manager"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["kv_cache_manager"]


def make_manager(example: Any, num_blocks: int = 10, **options: Any) -> Any:
    pool = quire.BlockPool(
        num_blocks, block_size=BLOCK_SIZE, num_kv_heads=2, head_dim=8, dtype="float32"
    )
    return example.KVCacheManager(pool, **options)


def schedule(manager: Any, request: Any) -> tuple[list[int], int, list[int]]:
    """A prompt's first step: the blocks that are known, their tokens, and the new blocks."""
    computed, known, _ = manager.get_computed_blocks(request)
    blocks = manager.allocate_slots(request, request.num_tokens - known, known, computed)
    assert blocks is not None
    request.num_computed_tokens = request.num_tokens
    return computed.get_block_ids()[0], known, blocks.get_block_ids()[0]


def available(manager: Any) -> int:
    """Blocks that nobody holds: vLLM counts those that are cached among the free ones."""
    stats = manager.pool.stats()
    return int(stats.free + stats.cached)


def test_prefill(example: Any) -> None:
    manager = make_manager(example)
    first = example.Request("0", COMMON + [3] * 7)
    known, num_known, new = schedule(manager, first)
    assert (known, num_known, len(new)) == ([], 0, 4)
    counts = manager.pool.ref_counts
    assert (counts[new[:3]] >= 1).all()

    # A hit while the blocks are still in use, with 5 tokens of its own.
    second = example.Request("1", COMMON + [3] * 5)
    known, num_known, more = schedule(manager, second)
    assert (known, num_known, len(more)) == (new[:3], 48, 1)
    assert available(manager) == 5
    assert manager.get_num_common_prefix_blocks("0") == [3]
    assert manager.usage == 0.5

    manager.free(first)
    manager.free(second)
    assert available(manager) == 10
    assert manager.usage == 0

    # A hit on blocks that nobody holds any more.
    third = example.Request("2", COMMON + [3] * 6)
    known, num_known, last = schedule(manager, third)
    assert (known, num_known, len(last)) == (new[:3], 48, 1)
    assert available(manager) == 6
    manager.free(third)

    # A miss that needs every block, and so evicts all that is cached.
    huge = example.Request("3", [99] * (BLOCK_SIZE * 10))
    known, num_known, blocks = schedule(manager, huge)
    assert (known, num_known) == ([], 0)
    assert sorted(blocks) == list(range(10))
    assert available(manager) == 0
    manager.free(huge)
    assert manager.get_computed_blocks(example.Request("4", [*COMMON, 3]))[1] == 0
    manager.pool.check()


def test_decode_fills_blocks_that_become_matchable(example: Any) -> None:
    manager = make_manager(example)
    request = example.Request("0", COMMON + [3] * 7)  # 55 tokens in blocks of 16
    schedule(manager, request)

    request.all_token_ids += [8] * 4
    new = manager.allocate_slots(request, 4)
    assert new.get_block_ids() == ([],)  # 59 tokens fit into 4 blocks
    request.num_computed_tokens = 59
    longer = example.Request("1", [*request.all_token_ids, 7, 7, 7, 7, 7, 7])
    assert manager.get_computed_blocks(longer)[1] == 48
    manager.free(longer)

    request.all_token_ids += [8] * 15
    new = manager.allocate_slots(request, 15)
    assert len(new.get_block_ids()[0]) == 1  # 74 tokens: the fourth block is full, a fifth begun
    assert len(manager.get_block_ids("0")[0]) == 5
    request.num_computed_tokens = 74
    longer = example.Request("1", [*request.all_token_ids, 7])
    computed, known, _ = manager.get_computed_blocks(longer)
    assert known == 64
    assert computed.get_block_ids()[0] == manager.get_block_ids("0")[0][:4]
    manager.pool.check()


def test_the_last_token_is_computed_again(example: Any) -> None:
    # All of the prompt is cached: its last block is computed again, for the logits.
    manager = make_manager(example)
    first = example.Request("0", COMMON)
    schedule(manager, first)
    known, num_known, new = schedule(manager, example.Request("1", COMMON))
    assert (len(known), num_known, len(new)) == (2, 32, 1)


def test_evict_the_least_recently_used(example: Any) -> None:
    manager = make_manager(example)
    first = example.Request("0", list(range(5 * BLOCK_SIZE + 7)))
    second = example.Request("1", list(range(1000, 1000 + 3 * BLOCK_SIZE)))
    schedule(manager, first)
    schedule(manager, second)
    assert available(manager) == 1
    manager.free(first)
    manager.free(second)
    # Seven blocks: two that hold nothing, and five of the first request from its end.
    schedule(manager, example.Request("2", list(range(2000, 2000 + 7 * BLOCK_SIZE))))
    assert manager.get_computed_blocks(example.Request("3", list(range(33))))[1] == 0
    hit = example.Request("4", [*range(1000, 1000 + 3 * BLOCK_SIZE), 5])
    assert manager.get_computed_blocks(hit)[1] == 3 * BLOCK_SIZE


def test_computed_blocks_are_not_evicted(example: Any) -> None:
    manager = make_manager(example, num_blocks=2)
    first = example.Request("0", list(range(BLOCK_SIZE)))
    second = example.Request("1", list(range(100, 100 + BLOCK_SIZE)))
    _, _, blocks = schedule(manager, first)
    schedule(manager, second)
    manager.free(first)
    manager.free(second)
    # Found at once, then asked for one block more: the other one goes, whichever is older.
    request = example.Request("2", list(range(2 * BLOCK_SIZE)))
    known, num_known, new = schedule(manager, request)
    assert (known, num_known, len(new)) == (blocks, BLOCK_SIZE, 1)
    assert new != blocks


def test_no_room_changes_nothing(example: Any) -> None:
    manager = make_manager(example, num_blocks=5)
    first = example.Request("0", COMMON + [3] * 7)
    schedule(manager, first)
    second = example.Request("1", COMMON + [4] * 33)
    computed, known, _ = manager.get_computed_blocks(second)
    assert known == 48
    held = manager.get_block_ids("1")
    assert manager.allocate_slots(second, 33, known, computed) is None
    assert manager.get_block_ids("1") == held
    assert available(manager) == 1
    manager.free(second)
    with pytest.raises(ValueError, match="allocate_slots: num_new_tokens: got 0"):
        manager.allocate_slots(first, 0)
    assert not manager.reset_prefix_cache()
    manager.free(first)
    assert manager.reset_prefix_cache()
    assert manager.get_computed_blocks(first)[1] == 0


def test_salts_share_nothing_and_caching_can_be_off(example: Any) -> None:
    manager = make_manager(example)
    schedule(manager, example.Request("0", [*COMMON, 1], cache_salt="a"))
    for salt, known in [("b", 0), ("", 0), ("a", 48)]:
        request = example.Request("1", [*COMMON, 2], cache_salt=salt)
        assert manager.get_computed_blocks(request)[1] == known
    manager = make_manager(example, enable_caching=False)
    schedule(manager, example.Request("0", [*COMMON, 1]))
    assert manager.get_computed_blocks(example.Request("1", [*COMMON, 2]))[1] == 0


def test_lookahead_gets_slots_but_is_not_cached(example: Any) -> None:
    manager = make_manager(example)
    request = example.Request("0", COMMON[:40])
    blocks = manager.allocate_slots(request, 40, num_lookahead_tokens=24)
    assert len(blocks.get_block_ids()[0]) == 4
    request.num_computed_tokens = 40
    request.all_token_ids += [5]
    # Room for the next token is there already.
    assert manager.allocate_slots(request, 1, num_lookahead_tokens=4).get_block_ids() == ([],)
    other = example.Request("1", [*COMMON[:40], *([5] * 30)])
    assert manager.get_computed_blocks(other)[1] == 32


def test_a_hit_gives_the_bits_of_a_miss(example: Any) -> None:
    random = np.random.default_rng(0)
    k, v = random.standard_normal((2, 256, 2, 8)).astype(np.float32)
    q = random.standard_normal((1, 4, 8)).astype(np.float32)

    def attended(manager: Any, request: Any) -> bytes:
        _, known, _ = schedule(manager, request)
        table = manager.tables[request.request_id]
        tokens = request.all_token_ids[known:]
        position = np.arange(known, request.num_tokens)
        slots = table.blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
        pool = manager.pool
        quire.write_kv(k[tokens], v[tokens], pool.k_cache(), pool.v_cache(), slots)
        return bytes(quire.attend(q, [table]).tobytes())

    warm, cold = make_manager(example), make_manager(example, enable_caching=False)
    attended(warm, example.Request("0", COMMON + [3] * 7))
    request = example.Request("1", COMMON + [9] * 5)
    assert attended(warm, request) == attended(cold, example.Request("1", COMMON + [9] * 5))
    assert warm.cache.stats().tokens_matched >= 48
