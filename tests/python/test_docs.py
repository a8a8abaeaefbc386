"""The documentation: its code runs and prints what it shows, and its reference is of all that is
public. scripts/docs builds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from compiled_code import check_that_it_compiles, compiler
from docstrings import linkable, to_rst
from documented_code import (
    ROOT,
    code_blocks,
    run_python,
    skip_without_optional_packages,
)
from headers import public_headers, read_header

import quire

DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", DOCS / "quickstart.md", *sorted((DOCS / "guides").glob("*.md"))]
CPP_PAGES = [page for page in PAGES if code_blocks(page, "cpp")]


def by_name(page: Path) -> str:
    return page.stem


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the libraries that guides bring in
@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_python_of(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = code_blocks(page, "python")
    assert blocks or page in CPP_PAGES, "a page without code"
    skip_without_optional_packages(blocks)
    monkeypatch.chdir(tmp_path)
    # pages find the small models beside them
    for model in (ROOT / "tests" / "data" / "models").glob("pystdlib-*"):
        (tmp_path / model.name).symlink_to(model)
    run_python(page)


@pytest.mark.skipif("QUIRE_SANITIZED" in os.environ, reason="the compiler is not ours")
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("page", CPP_PAGES, ids=by_name)
def test_cpp_of(page: Path, tmp_path: Path) -> None:
    for i, block in enumerate(code_blocks(page, "cpp")):
        source = tmp_path / f"block_{i}.cpp"
        source.write_text(block.code)
        check_that_it_compiles(source, ROOT / "cpp")


def document(folder: Path, *blocks: str) -> Path:
    page = folder / "page.md"
    page.write_text("# Page\n\n" + "\n\n".join(block + "\n```" for block in blocks) + "\n")
    return page


def test_a_page_is_one_program(tmp_path: Path) -> None:
    page = document(tmp_path, "```python\na = 1", "```sh\nls", "```python\nprint(a)", "```text\n1")
    assert run_python(page)["a"] == 1


@pytest.mark.parametrize("blocks", [["```python\nprint(2)", "```text\n1"], ["```python\nprint(2)"]])
def test_what_is_not_shown_is_found(tmp_path: Path, blocks: list[str]) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:4"):
        run_python(document(tmp_path, *blocks))


def test_an_error_has_the_line_of_the_page(tmp_path: Path) -> None:
    page = document(tmp_path, "```python\na = 1", "```python\nb = 2\na / 0")
    with pytest.raises(ZeroDivisionError) as raised:
        run_python(page)
    assert page.read_text().splitlines()[raised.traceback[-1].lineno] == "a / 0"


def test_a_page_that_needs_what_is_not_there_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = code_blocks(document(tmp_path, "```python\nfrom vllm.a import b"), "python")
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(pytest.skip.Exception, match="vllm"):
        skip_without_optional_packages(blocks)


HEADER = """\
// Boxes.
#pragma once

#include "quire/base/check.h"

namespace quire {

class Lid;
inline constexpr int kSides = 6;

// A box
// with a lid.
class Box : public Thing {
 public:
  explicit Box(int size) : size_(size) {}
  int width;  // in
              // metres
  Box(const Box&) = delete;

  // Puts it in.
  template <class T>
  void put(const T& thing) {
    if (thing) size_ += 1;
  }
  void take();

 private:
  // Not told.
  int size_;
};

enum class Colour { red, blue };  // of a box

}  // namespace quire
"""


def test_a_header_is_read() -> None:
    header = read_header(HEADER)
    assert header.comment == [" Boxes."]
    sides, box, colour = header.declarations
    assert (sides.name, sides.code) == ("kSides", "inline constexpr int kSides = 6;")
    assert (box.name, box.comment) == ("class Box", [" A box", " with a lid."])
    assert box.code == "class Box : public Thing;"
    assert [member.code for member in box.members] == [
        "explicit Box(int size);\nint width;  // in\n            // metres",
        "template <class T>\nvoid put(const T& thing);\nvoid take();",
    ]
    assert (box.members[1].name, box.members[1].comment) == ("put, take", [" Puts it in."])
    assert (colour.name, colour.code) == (
        "enum Colour",
        "enum class Colour { red, blue };  // of a box",
    )


def test_every_public_header_is_in_the_reference() -> None:
    headers = public_headers(ROOT / "cpp")
    assert "quire/kv/ledger/block_ledger.h" in headers, "by way of block_pool.h"
    for room in {Path(header).parts[1] for header in headers if header != "quire/quire.h"}:
        page = DOCS / "reference" / f"cpp_{room}.md"
        assert f"```{{cpp-headers}} {room}\n" in page.read_text()
    for header in headers:
        read = read_header((ROOT / "cpp" / header).read_text())
        assert read.declarations or header == "quire/quire.h", header


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "python.md").read_text()
    missing = [name for name in quire.__all__ if f":: {name}\n" not in text]
    assert missing == ["__version__"]


DOCSTRING = """\
Puts things into a box, as BlockTable.append.

Args:
    k: [n, D], of *any* dtype,
        2**3 at most. v: likewise.

Raises:
    ValueError: too many. TypeError.

Example:
    >>> put(1)
"""


def test_a_docstring_is_converted() -> None:
    assert [line for line in to_rst(DOCSTRING, linkable(quire)) if line] == [
        "Puts things into a box, as :py:obj:`~quire.BlockTable.append`\\ .",
        ".. rubric:: Args",
        "* **k**: [n, D], of \\*any\\* dtype, 2\\*\\*3 at most. v: likewise.",
        ".. rubric:: Raises",
        "* **ValueError**: too many.",
        "* TypeError.",
        ".. rubric:: Example",
        ".. code-block:: pycon",
        "   >>> put(1)",
    ]
