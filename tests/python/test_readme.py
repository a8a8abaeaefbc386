"""The README's example runs, and does what its comments say."""

from __future__ import annotations

import re

from documented_code import ROOT, run_python

README = ROOT / "README.md"


def test_the_example() -> None:
    names = run_python(README)
    assert names["out"].shape == (2, 8, 64)
    assert len(names["table"]) == 100
    assert names["pool"].stats().copies_on_write == 1


def test_every_path_that_it_names_exists() -> None:
    text = README.read_text()
    named = re.findall(r"^(\w+/[\w/]*)", text, re.MULTILINE)
    named += re.findall(r"(?:scripts|benchmarks|docs)/[\w.]+", text)
    assert len(named) > 8
    for path in named:
        assert (README.parent / path).exists(), path
