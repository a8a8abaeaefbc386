"""The code of documents: what stands in them runs, and prints what they show.

A document is one program: its Python blocks run one after the other, with the same names. What a
block prints stands in a `text` block right after it; a block without one prints nothing.
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
# What a document may need beyond Quire's own requirements and tests.
OPTIONAL = {"flashinfer", "jax", "safetensors", "torch", "transformers", "vllm"}


@dataclass(frozen=True)
class CodeBlock:
    """A block of a document, the line where its code begins, and the text shown right after it."""

    language: str
    code: str
    line: int
    shown: str


def code_blocks(document: Path, language: str) -> list[CodeBlock]:
    """Those of one language, in order."""
    text = document.read_text()
    return [
        CodeBlock(match[1], match[2], text.count("\n", 0, match.start(2)) + 1, match[3] or "")
        for match in BLOCK.finditer(text)
        if match[1] == language
    ]


def only_block(document: Path, language: str) -> str:
    (block,) = code_blocks(document, language)
    return block.code


def skip_without_optional_packages(blocks: list[CodeBlock]) -> None:
    """Skips the test where a block imports one that is not installed, and says which."""
    for block in blocks:
        for name in re.findall(r"^\s*(?:import|from) (\w+)", block.code, re.MULTILINE):
            if name in OPTIONAL:
                pytest.importorskip(name)


def run_python(document: Path) -> dict[str, Any]:
    """Runs the document in the current folder, and returns its names. Fails where a block does, or
    where it prints something else than is shown."""
    names: dict[str, Any] = {"__name__": document.stem}
    for block in code_blocks(document, "python"):
        printed = io.StringIO()
        # blank lines before the code give errors the lines of the document
        code = compile("\n" * (block.line - 1) + block.code, str(document), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == block.shown, f"{document}:{block.line}"
    return names
