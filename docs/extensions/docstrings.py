"""Docstrings as reStructuredText, for autodoc.

They are plain text for help(): paragraphs; "Args:", "Raises:" and the like, with what belongs to
them further in; `>>>` examples. Names of Quire's own classes and functions become links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

SECTION = re.compile(r"(Args|Returns|Raises|Example|Attributes):$")
# "k: [n, Hkv, D]." and "k_cache, v_cache: as in ...", the beginning of an entry
ENTRY = re.compile(r"((?:[a-z_]\w*, )*[a-z_]\w*|[A-Z]\w+): (.*)")

# between the errors of "ValueError: a size below 1. TypeError. OSError: no such file."
ERRORS = re.compile(r"(?<=\.) (?=(?:\w+Error|OutOfBlocks)\b[:.])")


def to_rst(docstring: str, names: Iterable[str]) -> list[str]:
    """Lines of reStructuredText. `names`, as "BlockTable.append", are those that become links."""
    link = re.compile(
        r"\b(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + r")\b(?![\w.]*')"
    )
    result: list[str] = []
    for indent, lines in paragraphs(docstring):
        section = SECTION.match(lines[0])
        if section:
            result += ["", f".. rubric:: {section[1]}", ""]
            lines = lines[1:]
            if not lines:
                continue
        if lines[0].lstrip().startswith(">>>"):
            result += ["", ".. code-block:: pycon", ""]
            margin = len(lines[0]) - len(lines[0].lstrip())
            result += ["   " + line[margin:] for line in lines]
        elif indent or section:
            result += ["", *entries(lines, link)]
        else:
            result += ["", linked(" ".join(lines), link)]
    return result


def paragraphs(docstring: str) -> list[tuple[int, list[str]]]:
    """(indentation, lines) of what blank lines, and headings of sections, divide."""
    found: list[tuple[int, list[str]]] = []
    is_new = True
    for line in docstring.expandtabs().splitlines():
        if not line.strip():
            is_new = True
            continue
        if is_new or SECTION.match(line):
            found.append((len(line) - len(line.lstrip()), []))
        found[-1][1].append(line)
        is_new = False
    return found


def entries(lines: list[str], link: re.Pattern[str]) -> list[str]:
    """A list of an indented stretch: an entry begins with a name, at the margin."""
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    items: list[str] = []
    for line in lines:
        text = line.strip()
        goes_on = len(line) - len(line.lstrip()) > margin or not ENTRY.match(text)
        if items and goes_on:
            items[-1] += " " + text
        else:
            items.append(text)
    rst = []
    for item in [part for whole in items for part in ERRORS.split(whole)]:
        entry = ENTRY.match(item)
        if entry:
            rst.append(f"* **{escaped(entry[1])}**: {linked(entry[2], link)}")
        else:
            rst.append(f"* {linked(item, link)}")
    return rst


def linked(text: str, link: re.Pattern[str]) -> str:
    pieces = link.split(text)
    return "".join(
        f":py:obj:`~quire.{piece}`\\ " if i % 2 else escaped(piece)
        for i, piece in enumerate(pieces)
    )


def escaped(text: str) -> str:
    return re.sub(r"([\\*`_|])", r"\\\1", text)


def linkable(module: Any) -> set[str]:
    """Names that nobody takes for words: of classes, members, and those with an underscore."""
    names = set()
    for name in module.__all__:
        thing = getattr(module, name)
        if isinstance(thing, type):
            names |= {f"{name}.{member}" for member in vars(thing) if not member.startswith("_")}
        if (isinstance(thing, type) and name != "Step") or "_" in name.strip("_"):
            names.add(name)
    return names


def setup(app: Any) -> dict[str, bool]:
    import quire

    names = linkable(quire)

    def convert(
        _app: Any, _what: str, _name: str, _of: Any, _options: Any, lines: list[str]
    ) -> None:
        lines[:] = to_rst("\n".join(lines), names)

    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
