"""Pictures of pools and tables: right, small, and readable without colours."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import quire
from quire.display import COLOURS, pool_html, sequences_html, table_html

SVG = "{http://www.w3.org/2000/svg}"
STATES = {colour: state for state, colour in COLOURS.items()}


def parsed(html: str) -> ElementTree.Element:
    """The picture; fails where it is not well formed."""
    svg = ElementTree.fromstring(html.replace("&nbsp;", " ")).find(f"{SVG}svg")
    assert svg is not None
    return svg


def states(html: str) -> list[str]:
    """The state of each square, from its colour."""
    return [STATES[path.attrib["fill"]] for path in parsed(html).iter(f"{SVG}path")]


def titles(html: str) -> list[str]:
    return [path.findtext(f"{SVG}title", "") for path in parsed(html).iter(f"{SVG}path")]


def area(html: str) -> dict[str, int]:
    """Square pixels of each state."""
    found = {}
    for path in parsed(html).iter(f"{SVG}path"):
        bars = re.findall(r"h(\d+)v(\d+)h", path.attrib["d"])
        state = STATES[path.attrib["fill"]]
        found[state] = found.get(state, 0) + sum(int(w) * int(h) for w, h in bars)
    return found


def test_blocks_that_are_not_in_memory(tmp_path: Path) -> None:
    pool = quire.BlockPool(
        5, num_kv_heads=1, head_dim=4, backing_file=tmp_path / "f", resident_bytes=1 << 20
    )
    tables = [quire.BlockTable(pool) for _ in range(2)]
    for table in tables:
        table.extend(20)
    tables[0].offload()
    assert sorted(states(pool_html(pool))) == ["free", *["offloaded"] * 2, *["private"] * 2]
    assert states(table_html(tables[0])) == ["offloaded"] * 2
    assert states(table_html(tables[1])) == ["private"] * 2


def test_blocks_that_only_a_cache_holds(tmp_path: Path) -> None:
    pool = quire.BlockPool(
        6, num_kv_heads=1, head_dim=4, backing_file=tmp_path / "f", resident_bytes=1 << 20
    )
    cache = quire.PrefixCache(pool)
    tables = [quire.BlockTable(pool) for _ in range(3)]
    for i, table in enumerate(tables):
        table.extend(16)
        cache.insert(range(100 * i, 100 * i + 16), table)
    tables[2].offload()
    assert states(table_html(tables[1])) == ["shared"]
    blocks = [int(table.blocks[0]) for table in tables]
    tables[0].free()
    tables[2].free()
    assert pool.cached_blocks.tolist() == [i in (blocks[0], blocks[2]) for i in range(6)]
    expected = ["free"] * 6
    for block, state in zip(blocks, ["cached", "shared", "offloaded"], strict=True):
        expected[block] = state
    assert states(pool_html(pool)) == expected
    cache.clear()
    assert not pool.cached_blocks.any()


def test_each_block_of_a_pool() -> None:
    pool = quire.BlockPool(70, num_kv_heads=1, head_dim=4)
    ids = pool.allocate(3)
    pool.retain(ids[1:2])
    html = pool._repr_html_()
    expected = ["free"] * 70
    for block in ids:
        expected[block] = "private"
    expected[ids[1]] = "shared"
    assert states(html) == expected
    assert titles(html) == [f"block {i}, {state}" for i, state in enumerate(expected)]
    assert parsed(html).attrib["aria-label"] == (
        "BlockPool: 70 blocks of 16 tokens, 16 bytes a token: 67 free, 2 private, 1 shared"
    )
    assert parsed(html).attrib["role"] == "img"
    assert "67" in html.split("</svg>")[1]  # the legend counts too


def test_each_block_of_a_table() -> None:
    pool = quire.BlockPool(8, block_size=4, num_kv_heads=1, head_dim=4)
    table = quire.BlockTable(pool)
    assert "0 tokens in 0 blocks" in table_html(table)
    table.extend(8)
    child = table.fork()
    child.extend(1)
    html = child._repr_html_()
    assert states(html) == ["shared", "shared", "private"]
    first, last = child.blocks[0], child.blocks[-1]
    assert titles(html)[0] == f"block {first}, 2 references, shared"
    assert titles(html)[-1] == f"block {last}, 1 reference, private"
    assert "9 tokens in 3 blocks of 4 tokens" in html
    child.free()
    assert "freed" in table_html(child)


def test_holes_of_a_table() -> None:
    pool = quire.BlockPool(8, block_size=4, num_kv_heads=1, head_dim=4)
    table = quire.BlockTable(pool)
    table.extend(14)
    table.drop_before(12, num_sink_tokens=1)
    html = table_html(table)
    assert states(html) == ["private", "hole", "hole", "private"]
    assert titles(html)[1] == "dropped tokens, hole"
    assert "14 tokens in 4 blocks of 4 tokens: 2 private, 2 hole" in html
    assert states(pool_html(pool)).count("free") == 6


@pytest.mark.parametrize("num_blocks", [448, 449, 10_000, 1_000_000])
def test_large_pools_stay_small_and_keep_proportions(num_blocks: int) -> None:
    pool = quire.BlockPool(num_blocks, block_size=1, num_kv_heads=1, head_dim=1, dtype="float16")
    ids = pool.allocate(num_blocks * 3 // 4)
    pool.retain(np.random.default_rng(0).permutation(ids)[: num_blocks // 4])
    html = pool_html(pool)
    assert len(html) < 50_000
    found = area(html)
    share = found["shared"] / sum(found.values())
    assert abs(share - 0.25) < 0.05
    assert abs(found["free"] / sum(found.values()) - 0.25) < 0.05
    table = quire.BlockTable(pool)
    pool.release(pool.allocate(0))
    table.extend(pool.num_free)
    assert len(table_html(table)) < 50_000


def test_no_colour_of_text_is_set() -> None:
    """Dark and light pages choose their own."""
    html = pool_html(quire.BlockPool(3, num_kv_heads=1, head_dim=1))
    outside = re.sub(r"<span[^>]*>&#9632;</span>", "", html)
    assert "color:" not in outside
    assert "<style" not in html


def test_blocks_by_sequence() -> None:
    pool = quire.BlockPool(6, num_kv_heads=1, head_dim=4)
    first, second = quire.BlockTable(pool), quire.BlockTable(pool)
    first.extend(40)
    child = first.fork()
    child.extend(1)
    second.extend(3)
    html = sequences_html({"first": first, "<second>": second, "child": child})
    owners: dict[str, list[str]] = {}
    for path in parsed(html).iter(f"{SVG}path"):
        label = path.findtext(f"{SVG}title", "")
        owners.setdefault(label, []).append(path.attrib["fill"])
    blocks = {int(label.split()[1].rstrip(":")): label.split(": ")[1] for label in owners}
    expected = dict.fromkeys(range(6), "none of these")
    for name, table in (("first", first), ("<second>", second), ("child", child)):
        for block in table.blocks.tolist():
            expected[block] = ", ".join([*filter(lambda x: x[0] != "n", [expected[block]]), name])
    assert blocks == expected
    shared = [colours for label, colours in owners.items() if "first, child" in label]
    assert len(shared) == 2
    assert all(len(set(colours)) == 2 for colours in shared)
    assert "first, 40 tokens" in html
    assert "child, 41 tokens" in html


def test_sequences_of_one_pool_are_drawn() -> None:
    tables = [quire.BlockTable(quire.BlockPool(1, num_kv_heads=1, head_dim=4)) for _ in "ab"]
    with pytest.raises(ValueError, match="sequences_html: tables: got tables of 2 pools"):
        sequences_html(dict(zip("ab", tables, strict=True)))
    with pytest.raises(ValueError, match="sequences_html: tables: got tables of 0 pools"):
        sequences_html({})
    tables[0].free()
    with pytest.raises(ValueError, match="freed"):
        sequences_html({"a": tables[0]})
