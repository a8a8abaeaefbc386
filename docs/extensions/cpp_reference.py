"""The directive `cpp-headers`: the public C++ headers of one folder, as sections of a page.

    ```{cpp-headers} kv
    ```

First those that quire.h names itself, then, as parts of one section, what these include.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from headers import Declaration, included_headers, public_headers, read_header
from sphinx import addnodes

CPP = Path(__file__).resolve().parents[2] / "cpp"


class CppHeaders(Directive):
    """Builds the sections without a markup language between: comments need no escapes then."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        interface = included_headers((CPP / "quire" / "quire.h").read_text())
        self.targets = {Path(header).name: label_of(header) for header in public_headers(CPP)}
        room = f"quire/{self.arguments[0]}/"
        here = sorted(h for h in public_headers(CPP) if h.startswith(room))
        first = [self.header(header) for header in here if header in interface]
        others = [self.header(header) for header in here if header not in interface]
        if not others:
            return first
        more = self.section("What these are made of", room + "parts")
        more += nodes.paragraph(text="Installed with the others, as these include them.")
        more += others
        return [*first, more]

    def section(self, title: str, label: str, is_code: bool = False) -> nodes.section:
        """A section that other pages can refer to by its label."""
        section = nodes.section(ids=[nodes.make_id(label)], names=[label])
        section += nodes.title(
            title, "", nodes.literal(text=title) if is_code else nodes.Text(title)
        )
        self.state.document.note_explicit_target(section)
        return section

    def header(self, path: str) -> nodes.section:
        self.state.document.settings.env.note_dependency(str(CPP / path))
        header = read_header((CPP / path).read_text())
        section = self.section(path, label_of(path), is_code=True)
        section += list(self.prose(header.comment))
        for i, declaration in enumerate(header.declarations):
            part = self.section(declaration.name or "more", f"{label_of(path)}-{i}", is_code=True)
            part += self.described(declaration)
            section += part
        return section

    def described(self, declaration: Declaration) -> list[nodes.Node]:
        """What is declared, what is said of it, and its members, each in the same way."""
        shown: list[nodes.Node] = []
        if declaration.code:
            shown.append(nodes.literal_block(declaration.code, declaration.code, language="cpp"))
        shown += self.prose(declaration.comment)
        for member in declaration.members:
            shown.append(nodes.container("", *self.described(member), classes=["cpp-member"]))
        return shown

    def prose(self, comment: list[str]) -> Iterator[nodes.Node]:
        """Paragraphs; lines that are further in are code."""
        for is_code, lines in stretches(comment):
            if is_code:
                text = "\n".join(lines)
                is_cpp = re.search(r";(\s*//.*)?$", text, re.MULTILINE)  # else a table or a drawing
                language = "cpp" if is_cpp else "text"
                yield nodes.literal_block(text, text, language=language, force=True)
            else:
                yield nodes.paragraph("", "", *self.inline(" ".join(lines)))

    def inline(self, text: str) -> Iterator[nodes.Node]:
        """Text with what stands in backquotes as code, and names of public headers as links."""
        for piece in re.split(r"(`[^`]+`|\b(?:[\w/]+/)?\w+\.h\b)", text):
            target = self.targets.get(Path(piece).name)
            if piece.startswith("`"):
                yield nodes.literal(text=piece.strip("`"))
            elif target:
                options = {"refdomain": "std", "reftype": "ref", "reftarget": target}
                yield addnodes.pending_xref(
                    "", nodes.literal(text=piece), refexplicit=True, refwarn=True, **options
                )
            elif piece:
                yield nodes.Text(piece)


def stretches(comment: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """(whether it is code, lines) of each paragraph and each piece of code of a comment."""
    lines: list[str] = []
    was_code = False
    for line in [*comment, ""]:
        is_code = line.startswith("   ")
        if lines and (not line.strip() or is_code != was_code):
            yield was_code, [text.strip() if not was_code else text[3:] for text in lines]
            lines = []
        if line.strip():
            was_code = is_code
            lines.append(line)


def label_of(header: str) -> str:
    return "header-" + nodes.make_id(header)


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("cpp-headers", CppHeaders)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
