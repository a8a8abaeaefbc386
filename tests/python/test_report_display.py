"""Pictures of a prefix cache and of reports: right, small, well formed."""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
from cached_rows import new_pool, serve

import quire
from quire.report import ImplementationResult, VerifyReport
from quire.report_display import cache_html, verify_html

SVG = "{http://www.w3.org/2000/svg}"


def pictures(html: str) -> list[ElementTree.Element]:
    """All of them; fails where one is not well formed."""
    return list(ElementTree.fromstring(html.replace("&nbsp;", " ")).iter(f"{SVG}svg"))


def bars(svg: ElementTree.Element) -> dict[str, int]:
    """Pixels of each part, by its title."""
    widths = {}
    for path in svg.iter(f"{SVG}path"):
        (width,) = re.findall(r"h(\d+)v", path.attrib["d"])
        widths[path.findtext(f"{SVG}title", "")] = int(width)
    return widths


def test_an_empty_cache() -> None:
    html = cache_html(quire.PrefixCache(new_pool()))
    assert [bars(svg) for svg in pictures(html)] == [{}, {}]
    assert "PrefixCache: 0 blocks, 0 evictions" in html


def test_what_a_cache_found() -> None:
    cache = quire.PrefixCache(new_pool(), max_blocks=8)
    ids = list(range(9))
    serve(cache, ids)  # cold
    cache.match([1, 2])  # short
    for _ in range(2):
        assert len(cache.match([*range(8), 5])) == 8
    cache.pin(ids)
    html: str = cache._repr_html_()  # what a notebook asks for
    tokens, matches = pictures(html)
    assert bars(tokens) == {
        "found 16": round(480 * 16 / 29),
        "to compute 13": 480 - round(480 * 16 / 29),
    }
    assert bars(matches) == {"hits 2": 240, "missed: cold 1": 120, "missed: short 1": 120}
    assert tokens.attrib["aria-label"] == "29 tokens asked for"
    assert "PrefixCache: 3 blocks of at most 8, 0 evictions; 3 pinned in its pool" in html
    assert len(html) < 5000


def report(rms: Any) -> VerifyReport:
    """A verification whose fused kernel was so far off."""
    numbers = np.array(rms)
    result = ImplementationResult("fused", "dense", 5e-3, numbers, numbers, np.ones(len(numbers)))
    return dataclasses.replace(quire.verify(steps=1), results={"fused": result})


def test_a_verification() -> None:
    made = quire.verify(steps=3)
    html: str = made._repr_html_()
    (svg,) = pictures(html)
    lines = [path.findtext(f"{SVG}title", "") for path in svg.iter(f"{SVG}path")]
    assert lines[0] == "bar, 0.005"
    assert [line.split(",")[0] for line in lines[1:]] == list(made.results)
    assert "passed: RMS" in html


def test_heights_are_logarithms_and_many_steps_are_the_worst_of_several() -> None:
    rms = np.full(10_000, 1e-5)
    rms[4321] = 5e-3  # on the bar
    html = verify_html(report(rms))
    (svg,) = pictures(html)
    bar, line = [path.attrib["d"] for path in svg.iter(f"{SVG}path")]
    heights = [float(point.split()[1]) for point in line[1:].split("L")]
    assert len(heights) <= 240
    assert f"M0 {min(heights)}h" in bar
    assert heights.count(min(heights)) == 1
    assert len(html) < 50_000


def test_a_failed_verification_with_numbers_that_are_none() -> None:
    html = verify_html(report([np.nan, np.inf, 0.0, 1.0]))
    (svg,) = pictures(html)
    _, line = [path.attrib["d"] for path in svg.iter(f"{SVG}path")]
    assert "nan" not in line
    assert "inf" not in line
    assert "FAILED" in html
    assert len(pictures(verify_html(report([1e-4])))) == 1


def test_a_table_report_draws_itself() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    table.extend(14)
    child = table.fork()
    child.drop_before(4)
    child.extend(1)
    html: str = pool.explain(child)._repr_html_()
    (svg,) = pictures(html)
    titles = [path.findtext(f"{SVG}title", "") for path in svg.iter(f"{SVG}path")]
    block = child.blocks[1]
    assert titles[0] == "dropped tokens, hole"
    assert titles[1] == f"block {block}, 4 of 4 tokens, 2 tables, 0 caches, shared"
    assert titles[3].endswith("3 of 4 tokens, 1 table, 0 caches, private")
    assert "TableReport: 15 tokens in 4 blocks of 4 tokens" in html
    longer = quire.BlockPool(3000, block_size=1, num_kv_heads=1, head_dim=1)
    long = quire.BlockTable(longer)
    long.extend(3000)
    assert len(longer.explain(long)._repr_html_()) < 50_000
    long.truncate(0)
    assert "0 tokens in 0 blocks" in longer.explain(long)._repr_html_()
