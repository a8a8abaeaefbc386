"""The pictures of pools and tables."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import quire
from quire.display import COLOURS


def squares(html: str) -> list[str]:
    """The states drawn, in order. The picture must be well-formed."""
    names = {colour: state for state, colour in COLOURS.items()}
    root = ElementTree.fromstring(html)
    return [names[rect.attrib["fill"]] for rect in root.iter("rect")]


def new_pool(num_blocks: int = 12) -> quire.BlockPool:
    return quire.BlockPool(num_blocks, block_size=4, num_kv_heads=1, head_dim=4)


def test_a_pool_draws_its_blocks() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    table.extend(10)
    fork = table.fork()
    fork.extend(1)
    html = pool._repr_html_()
    states = squares(html)
    assert len(states) == 12
    assert (states.count("free"), states.count("private"), states.count("shared")) == (8, 2, 2)
    assert "12 blocks of 4 tokens, 8 free, 4 used, 2 shared" in html


def test_a_table_draws_its_own() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    assert squares(table._repr_html_()) == []
    table.extend(6)
    fork = table.fork()
    fork.extend(4)
    assert squares(fork._repr_html_()) == ["shared", "private", "private"]
    table.free()
    assert "freed" in table._repr_html_()


def test_large_pools_stay_small() -> None:
    pool = new_pool(1_000_000)
    pool.allocate(1000)
    html = pool._repr_html_()
    assert len(html) < 200_000
    assert "blocks and shows the most shared" in html
    assert "private" in squares(html)
