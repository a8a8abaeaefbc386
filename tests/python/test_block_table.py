"""BlockTable: tokens in blocks, shared and copied on write."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import quire


def new_pool(num_blocks: int = 16, num_layers: int = 1) -> quire.BlockPool:
    return quire.BlockPool(
        num_blocks, block_size=4, num_kv_heads=2, head_dim=8, num_layers=num_layers, dtype="float32"
    )


def rows(begin: int, end: int) -> np.ndarray:
    """Rows that tell their token."""
    return np.broadcast_to(
        np.arange(begin, end, dtype=np.float32)[:, None, None], (end - begin, 2, 8)
    ).copy()


def filled(pool: quire.BlockPool, tokens: int) -> quire.BlockTable:
    table = quire.BlockTable(pool)
    table.append(rows(0, tokens), -rows(0, tokens))
    return table


def tokens_of(table: quire.BlockTable) -> list[float]:
    k, v = table.gather()
    assert (k == -v).all()
    assert k.shape == (len(table), 2, 8)
    return k[:, 0, 0].tolist()


def test_extend_gives_slots_in_order() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    slots = table.extend(6)
    assert slots.dtype == np.int64
    blocks = table.blocks
    assert blocks.dtype == np.int32
    assert slots.tolist() == [*range(blocks[0] * 4, blocks[0] * 4 + 4), *(blocks[1] * 4 + [0, 1])]
    assert len(table) == table.num_tokens == 6
    assert np.asarray(table).tolist() == blocks.tolist()
    assert np.asarray(table, dtype=np.int64).dtype == np.int64
    assert table.extend(0).shape == (0,)
    assert table.pool is pool
    assert "6 tokens in 2 blocks" in repr(table)


def test_copy_on_the_first_write_after_a_fork() -> None:
    pool = new_pool()
    parent = filled(pool, 6)
    child = parent.fork()
    assert (child.blocks == parent.blocks).all()
    assert pool.num_used == 2
    child.append(rows(100, 101), -rows(100, 101))
    assert child.blocks[0] == parent.blocks[0]
    assert child.blocks[1] != parent.blocks[1]
    parent.append(rows(6, 7), -rows(6, 7))  # alone again: no copy
    assert pool.stats().copies_on_write == 1
    assert tokens_of(parent) == [0, 1, 2, 3, 4, 5, 6]
    assert tokens_of(child) == [0, 1, 2, 3, 4, 5, 100]
    pool.check()


def test_a_full_shared_block_is_never_copied() -> None:
    pool = new_pool()
    parent = filled(pool, 4)
    child = parent.fork()
    child.append(rows(9, 10), -rows(9, 10))
    assert pool.stats().copies_on_write == 0
    assert pool.num_used == 2
    assert tokens_of(child) == [0, 1, 2, 3, 9]


def test_truncate_into_a_shared_block() -> None:
    pool = new_pool()
    parent = filled(pool, 11)
    child = parent.fork()
    child.truncate(5)
    assert len(child.blocks) == 2
    child.append(rows(50, 53), -rows(50, 53))
    assert tokens_of(parent) == list(range(11))
    assert tokens_of(child) == [0, 1, 2, 3, 4, 50, 51, 52]
    child.truncate(0)
    assert child.blocks.shape == (0,)
    for wrong in (-1, 1):
        with pytest.raises(ValueError, match=f"truncate: num_tokens: got {wrong}, expected 0 to 0"):
            child.truncate(wrong)
    pool.check()


def test_exhaustion_leaves_table_and_pool_as_they_were() -> None:
    pool = new_pool(4)
    table = filled(pool, 6)
    fork = table.fork()
    before = pool.ref_counts
    for call in (lambda: fork.extend(13), lambda: fork.append(rows(0, 13), rows(0, 13))):
        with pytest.raises(quire.OutOfBlocks, match="got 13, which takes"):
            call()
        assert (pool.ref_counts == before).all()
        assert len(fork) == 6
        assert (fork.blocks == table.blocks).all()
    with pytest.raises(quire.OutOfBlocks):
        table.extend(2**60)
    endless = np.broadcast_to(rows(0, 1), (2**40, 2, 8))
    with pytest.raises(quire.OutOfBlocks, match=f"append: k: got {2**40} tokens, expected at most"):
        table.append(endless, endless)
    pool.check()


def test_a_refused_append_changes_nothing() -> None:
    pool = new_pool()
    table = filled(pool, 6)
    child = table.fork()
    two = rows(0, 2)
    own = pool.k_cache()[0, :2]
    for k, v, error, message in (
        (two, rows(0, 3), ValueError, r"v: got shape \[3, 2, 8\], expected \[2, 2, 8\]"),
        (two[:, :1], two[:, :1], ValueError, r"k: got shape \[2, 1, 8\], expected \[n, 2, 8\]"),
        (two[..., :7], two, ValueError, r"k: got shape \[2, 2, 7\], expected \[n, 2, 8\]"),
        (two, two[..., :7], ValueError, r"v: got shape \[2, 2, 7\], expected \[n, 2, 8\]"),
        (two[None], two[None], ValueError, r"k: got shape \[1, 2, 2, 8\]"),
        (two, two[..., ::-1], ValueError, "v: got a last axis of stride -4 bytes"),
        (own, two, ValueError, r"k: got memory that overlaps pool.k_cache\(\)'s"),
        (two.astype(np.float64), two, TypeError, "k: got dtype float64"),
        (two, two.tolist(), TypeError, "v: got list, expected an array"),
    ):
        with pytest.raises(error, match=f"^BlockTable.append: {message}"):
            child.append(k, v)
        assert len(child) == 6
        assert pool.stats().copies_on_write == 0
        assert (child.blocks == table.blocks).all()


def test_several_layers() -> None:
    pool = new_pool(num_layers=3)
    table = quire.BlockTable(pool)
    k = np.stack([rows(10 * layer, 10 * layer + 5) for layer in range(3)])
    table.append(k, 2 * k)
    child = table.fork()
    child.append(k[:, :1], k[:, :1])
    for layer in range(3):
        got_k, got_v = table.gather(layer)
        assert (got_k == k[layer]).all()
        assert (got_v == 2 * k[layer]).all()
        assert (child.gather(layer)[0][:5] == k[layer]).all()
    with pytest.raises(IndexError, match="gather: layer: got 3, expected 0 to 2"):
        table.gather(3)
    with pytest.raises(
        ValueError, match=r"append: k: got shape \[5, 2, 8\], expected \[3, n, 2, 8\]"
    ):
        table.append(k[0], k[0])


def test_a_freed_table_raises() -> None:
    pool = new_pool()
    table = filled(pool, 5)
    table.free()
    assert pool.num_used == 0
    for use, name in (
        (table.free, "BlockTable.free: table"),
        (table.fork, "BlockTable.fork: table"),
        (table.gather, "BlockTable.gather: table"),
        (lambda: len(table), "BlockTable.num_tokens: table"),
        (lambda: table.blocks, "BlockTable.blocks: table"),
        (lambda: table.extend(1), "BlockTable.extend: table"),
        (lambda: table.truncate(0), "BlockTable.truncate: table"),
        (lambda: table.append(rows(0, 1), rows(0, 1)), "BlockTable.append: table"),
        (lambda: quire.pack_tables([table]), "pack_tables: tables"),
        (lambda: quire.attend(np.ones((1, 2, 8), np.float32), [table]), "attend: tables"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: got a freed"):
            use()
    assert "freed" in repr(table)


def test_with_and_garbage_collection_free() -> None:
    pool = new_pool()
    with quire.BlockTable(pool) as table:
        table.extend(9)
        assert pool.num_used == 3
    assert pool.num_used == 0
    with quire.BlockTable(pool) as table:
        table.free()
    table = filled(pool, 3)
    del table
    gc.collect()
    assert pool.num_used == 0


def test_pack_tables() -> None:
    pool = new_pool()
    tables = [filled(pool, 9), filled(pool, 0), filled(pool, 4)]
    packed, lengths = quire.pack_tables(tables, pad=-5)
    assert packed.dtype == lengths.dtype == np.int32
    assert lengths.tolist() == [9, 0, 4]
    assert packed.tolist() == [
        tables[0].blocks.tolist(),
        [-5] * 3,
        [*tables[2].blocks.tolist(), -5, -5],
    ]
    assert quire.pack_tables([])[0].shape == (0, 0)
    with pytest.raises(
        ValueError, match="pack_tables: tables: got a table of another pool at index 1"
    ):
        quire.pack_tables([tables[0], filled(new_pool(), 1)])
    with pytest.raises(TypeError, match="got int at index 1, expected a BlockTable"):
        quire.pack_tables([tables[0], 3])  # type: ignore[list-item]


def test_four_threads_fork_append_and_free_at_once() -> None:
    pool = new_pool(256)
    shared = filled(pool, 10)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(200):
                child = shared.fork()
                base = 1000 * number + step
                child.append(rows(base, base + 3), -rows(base, base + 3))
                grandchild = child.fork()
                grandchild.truncate(7)
                grandchild.append(rows(5, 6), -rows(5, 6))
                assert tokens_of(child) == [*range(10), base, base + 1, base + 2]
                assert tokens_of(grandchild) == [*range(7), 5]
                quire.attend(np.ones((2, 2, 8), np.float32), [child, grandchild])
                child.free()
                grandchild.free()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert pool.num_used == 3
    assert tokens_of(shared) == list(range(10))
    pool.check()
