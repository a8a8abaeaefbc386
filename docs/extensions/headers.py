"""What a header of the C++ library declares: its public declarations, each with its comment.

It reads these headers, whose style clang-format and tests/test_codebase.py see to, not all of C++.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TYPE = re.compile(r"(?:template <[^{;]*>\s*)?(?:class|struct|union|enum(?: class)?) (\w+)")
ALIAS = r"using (\w+) ="
FUNCTION = r"(operator[^\s\w(]+|~?\w+)(?:<\w*>)?\("
VARIABLE = r"(\w+)[\[\]]*(?:\{.*\}| = .*)?;$"
TRAILING = re.compile(r"\s+//.*$", re.MULTILINE)


@dataclass
class Declaration:
    """Declarations that one comment is of, or a type whose members have comments of their own."""

    comment: list[str]
    code: str
    name: str
    members: list[Declaration] = field(default_factory=list)


@dataclass
class Header:
    """A header: the comment that it begins with, and what it declares in namespace quire."""

    comment: list[str]
    declarations: list[Declaration]


def public_headers(root: Path) -> list[str]:
    """quire/quire.h and all that it includes, directly or not; `root` is the folder of quire/."""
    found: list[str] = []
    to_read = ["quire/quire.h"]
    while to_read:
        header = to_read.pop(0)
        if header not in found:
            found.append(header)
            to_read += included_headers((root / header).read_text())
    return found


def included_headers(text: str) -> list[str]:
    """The headers of ours that a header includes itself."""
    return re.findall(r'#\s*include\s+"(.+)"', text)


def read_header(text: str) -> Header:
    """The header whose text this is."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if not line.startswith("//"))
    code = [line for line in lines[start:] if not re.match(r"#|namespace |\}  // namespace", line)]
    return Header([line[2:] for line in lines[:start]], list(declarations(code, is_public=True)))


def depth_change(line: str) -> int:
    """How many braces and parentheses more are open after the line than before it."""
    bare = re.sub(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])+'|//.*", "", line)
    return sum((c in "({") - (c in ")}") for c in bare)


def declarations(lines: list[str], is_public: bool) -> Iterator[Declaration]:
    """Of a namespace's lines or of a class's: the public ones, those under one comment together."""
    comment: list[str] = []
    group: list[str] = []
    statement: list[str] = []
    depth = 0
    for line in [*lines, ""]:
        text = line.strip()
        if group and text.startswith("//") and indent_of(line) > indent_of(group[-1]):
            group[-1] += "\n" + line  # the comment beside a declaration goes on
            continue
        if not statement and (not text or text.startswith("//")) and group:
            yield of_group(comment, group)
            comment, group = [], []
        if not statement and text.startswith("//"):
            comment.append(text[2:])
        elif not statement and re.fullmatch(r"(public|protected|private):", text):
            is_public = text == "public:"
        elif text or statement:
            statement.append(line)
            depth += depth_change(line)
            if not depth and TRAILING.sub("", line).endswith((";", "}")):
                whole, statement = "\n".join(statement), []
                if is_public and TYPE.match(whole.strip()) and "{" in whole:
                    if group:
                        yield of_group(comment, group)
                        comment, group = [], []
                    yield of_type(comment, whole)
                    comment = []
                elif is_public and not re.search(
                    r"= delete;|^\s*(friend |class \w+;|static_assert)", whole
                ):
                    group.append(without_body(whole))
        elif not group:
            comment = []  # of what is not public, or of nothing


def of_group(comment: list[str], group: list[str]) -> Declaration:
    names = dict.fromkeys(filter(None, map(name_of, group)))
    return Declaration(comment, dedented("\n".join(group)), ", ".join(names))


def of_type(comment: list[str], whole: str) -> Declaration:
    """A class whose members have comments, member by member; another type as it stands."""
    head, body = whole.split("{", 1)
    body = body.rsplit("}", 1)[0]
    match = TYPE.match(head.strip())
    assert match, whole
    keyword = re.search(r"(class|struct|union|enum)(?: class)? " + match[1], head)
    assert keyword, whole
    name = f"{keyword[1]} {match[1]}"
    members = list(declarations(body.splitlines(), is_public=keyword[1] != "class"))
    if keyword[1] == "enum" or not any(member.comment or member.members for member in members):
        code = whole if keyword[1] == "enum" else joined(head, members)
        return Declaration(comment, dedented(code), name)
    head = dedented(head.rstrip())
    return Declaration(comment, "" if head == name else head + ";", name, members)


def joined(head: str, members: list[Declaration]) -> str:
    """A type whose members need no words."""
    if not members:
        return head.rstrip() + ";"
    indent = " " * (indent_of(head) + 2)
    body = "\n".join(indent + line for member in members for line in member.code.splitlines())
    return f"{head.rstrip()} {{\n{body}\n{indent[2:]}}};"


def without_body(statement: str) -> str:
    """A function without its body and initialisers; anything else as it is."""
    depth = 0
    for at, character in enumerate(statement):
        depth += (character in "(") - (character in ")")
        before = statement[:at].rstrip()
        begins = character == "{" or (character == ":" and statement[at - 1 : at + 2] == " : ")
        if depth == 0 and begins and re.search(r"\)( const| noexcept| override)*$", before):
            return before + ";"
    return statement


def name_of(statement: str) -> str:
    """What a declaration is called, as well as can be told; "" for what has no name."""
    plain = TRAILING.sub("", statement).replace("decltype(auto)", "auto").strip()
    for pattern in (ALIAS, FUNCTION, VARIABLE):
        if match := re.search(pattern, plain, re.DOTALL):
            return match[1]
    return ""


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def dedented(code: str) -> str:
    """Code as far to the left as its first line allows."""
    indent = indent_of(code)
    return "\n".join(
        line[indent:] if line[:indent].isspace() else line for line in code.splitlines()
    )
