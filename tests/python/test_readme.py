"""The README's example runs, and does what its comments say."""

from __future__ import annotations

import re
import shlex

import pytest
from documented_code import ROOT, code_blocks, run_python

from quire import cli

README = ROOT / "README.md"


def test_the_example() -> None:
    names = run_python(README)
    assert names["out"].shape == (2, 8, 64)
    assert len(names["table"]) == 100
    assert names["pool"].stats().copies_on_write == 1


def test_what_generation_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tokenizers")
    (block,) = [b for b in code_blocks(README, "sh") if b.code.startswith("quire generate")]
    monkeypatch.chdir(ROOT)
    assert cli.main(shlex.split(block.code)[1:]) == 0
    assert capsys.readouterr().out == block.shown


def test_every_path_that_it_names_exists() -> None:
    text = README.read_text()
    named = re.findall(r"^(\w+/[\w/]*)", text, re.MULTILINE)
    named += re.findall(r"(?:scripts|benchmarks|docs)/[\w.]+", text)
    assert len(named) > 8
    for path in named:
        assert (README.parent / path).exists(), path
