"""pool.explain: columns, fills and holders of a table, as text and as values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from filled_pool import fill, new_pool

import quire


def values(report: quire.TableReport) -> list[tuple[int, ...]]:
    """(id, num_tokens, filled_rows, tables, caches, users) of each block."""
    return [(b.id, b.num_tokens, b.filled_rows, b.tables, b.caches, b.users) for b in report.blocks]


def test_everybody_who_holds_a_block() -> None:
    pool, random = new_pool(), np.random.default_rng(0)
    table, cache = quire.BlockTable(pool), quire.PrefixCache(pool)
    fill(table, 10, random)
    first, second, third = table.blocks.tolist()
    assert values(pool.explain(table)) == [
        (first, 4, 4, 1, 0, 0),
        (second, 4, 4, 1, 0, 0),
        (third, 2, 2, 1, 0, 0),
    ]
    cache.insert(range(4), table)
    cache.insert(range(4), table, namespace="other")
    pool.retain(np.array([second, second, second]))
    child = table.fork()
    child.truncate(9)
    assert values(pool.explain(child)) == [
        (first, 4, 4, 2, 2, 0),
        (second, 4, 4, 2, 0, 3),
        (third, 1, 2, 2, 0, 0),  # the parent has a row more
    ]
    report = pool.explain(child)
    assert [block.references for block in report.blocks] == pool.ref_counts[child.blocks].tolist()
    assert (report.block_size, report.num_tokens) == (4, 9)
    assert (report.num_shared, report.num_holes) == (3, 0)
    assert repr(report) == str(report)
    assert str(report).splitlines() == [
        "9 tokens in 3 blocks of 4: 3 shared",
        "  column   block  tokens  held by",
        f"       0{first:>8}     4/4  2 tables, 2 caches",
        f"       1{second:>8}     4/4  2 tables, 3 users",
        f"       2{third:>8}     1/4  2 tables, filled to 2",
    ]
    fill(child, 1, random)  # copies the last block
    assert values(pool.explain(child))[2] == (child.blocks[2], 2, 2, 1, 0, 0)
    assert values(pool.explain(table))[2] == (third, 2, 2, 1, 0, 0)
    table.free()
    assert str(pool.explain(child)).splitlines()[2:] == [
        f"       0{first:>8}     4/4  1 table, 2 caches",
        f"       1{second:>8}     4/4  1 table, 3 users",
        f"       2{child.blocks[2]:>8}     2/4  this table",
    ]


def test_holes_and_an_empty_table() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    assert pool.explain(table).blocks == ()
    assert str(pool.explain(table)) == "0 tokens in 0 blocks of 4"
    fill(table, 13, np.random.default_rng(0))
    table.drop_before(9, num_sink_tokens=1)
    report = pool.explain(table)
    assert report.num_tokens == len(table) == 13
    assert [block.is_hole for block in report.blocks] == [False, True, False, False]
    assert values(report)[1] == (-1, 0, 0, 0, 0, 0)
    assert not report.blocks[1].is_shared
    assert str(report).splitlines()[0] == "13 tokens in 4 blocks of 4: 3 private, 1 hole"
    assert str(report).splitlines()[3] == "       1    hole"


@pytest.mark.parametrize(("columns", "lines"), [(14, 16), (16, 18), (17, 18), (4000, 18)])
def test_a_long_table_is_abbreviated(columns: int, lines: int) -> None:
    pool = quire.BlockPool(columns, block_size=1, num_kv_heads=1, head_dim=1)
    table = quire.BlockTable(pool)
    table.extend(columns)
    report = pool.explain(table)
    assert len(report.blocks) == columns
    shown = str(report).splitlines()
    assert len(shown) == lines
    numbers = [line.split()[0] for line in shown[2:]]
    if "..." not in numbers:
        assert numbers == [str(column) for column in range(columns)]
        return
    gap = numbers.index("...")
    assert numbers[:gap] == [str(column) for column in range(gap)]
    after = len(numbers) - gap - 1
    assert numbers[gap + 1 :] == [str(column) for column in range(columns - after, columns)]
    assert shown[2 + gap].split() == ["...", str(columns - gap - after), "more"]


def test_a_report_stays_as_it_was() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    fill(table, 6, np.random.default_rng(0))
    report = pool.explain(table)
    before = values(report)
    table.free()
    assert values(report) == before
    with pytest.raises(AttributeError):
        report.blocks[0].id = 3  # type: ignore[misc]


def test_refusals() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    wrong: Any = table.blocks
    with pytest.raises(
        TypeError, match=r"^BlockPool\.explain: table: got numpy\.ndarray, expected"
    ):
        pool.explain(wrong)
    with pytest.raises(ValueError, match=r"^BlockPool\.explain: table: got one of another pool"):
        new_pool().explain(table)
    table.free()
    with pytest.raises(ValueError, match=r"^BlockPool\.explain: table: got a freed one"):
        pool.explain(table)
