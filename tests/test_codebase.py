"""The laws of the tree. Each is a function of plain data, so that it can be shown to fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {".h", ".cpp", ".py", ".pyi", ".txt", ".toml", ".sh", ".md"}
FOLDERS = ["cpp", "bindings", "python", "tests", "benchmarks", "examples", "scripts", "docs"]

# One CMake target per folder: what each may include.
MAY_INCLUDE = {
    "base": {"base"},
    "kv": {"base", "kv"},
    "attention": {"base", "attention"},
    "cpu": {"base", "attention", "cpu"},
}
ISA_OF_FILE = {
    "kernels_avx2": "Avx2",
    "kernels_avx512": "Avx512",
    "kernels_avx512bf16": "Avx512",
    "kernels_neon": "Neon",
}


def files(*suffixes: str) -> list[Path]:
    found = [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return [path for path in found if not suffixes or path.suffix in suffixes]


def repeated_names(names: list[str]) -> list[str]:
    shared = {"CMakeLists.txt", "__init__.py", "conftest.py", "README.md"}
    return [name for name, count in Counter(names).items() if count > 1 and name not in shared]


def too_long(lines_of: dict[str, int], most: int = 400) -> list[str]:
    return [name for name, lines in lines_of.items() if lines > most]


def wrong_includes(folder: str, text: str) -> list[str]:
    included = re.findall(r'#include "quire/(\w+)/', text)
    return [name for name in included if name not in MAY_INCLUDE[folder]]


def knows_python(text: str) -> bool:
    return bool(re.search(r"#include .*(pybind11|Python\.h|numpy)", text))


def stray_weak_symbols(nm_output: str, isa: str) -> list[str]:
    """Weak symbols without the name of their instruction set, which another one could replace."""
    weak = re.findall(r"^\S* +[WVu] (.+)$", nm_output, re.MULTILINE)
    return [name for name in weak if isa not in name]


def test_file_names_are_unique() -> None:
    assert repeated_names([path.name for path in files()]) == []
    assert repeated_names(["a.py", "a.py", "README.md", "README.md"]) == ["a.py"]


def test_files_are_short() -> None:
    lines = {str(path): len(path.read_text().splitlines()) for path in files(*SOURCES)}
    assert too_long(lines) == []
    assert too_long({"long.cpp": 401, "short.cpp": 400}) == ["long.cpp"]


def test_dependencies_go_one_way() -> None:
    for folder in MAY_INCLUDE:
        for path in (ROOT / "cpp" / "quire" / folder).rglob("*"):
            if path.suffix in {".h", ".cpp"}:
                assert wrong_includes(folder, path.read_text()) == [], path
    assert wrong_includes("kv", '#include "quire/attention/split.h"') == ["attention"]


def test_the_library_does_not_know_python() -> None:
    for path in (ROOT / "cpp").rglob("*"):
        if path.suffix in {".h", ".cpp"}:
            assert not knows_python(path.read_text()), path
    assert knows_python("#include <pybind11/numpy.h>")


def test_only_numpy_view_knows_numpy() -> None:
    for path in (ROOT / "bindings").iterdir():
        if "pybind11/numpy.h" in path.read_text():
            assert path.name == "numpy_view.cpp"


def test_headers_are_guarded_and_explained() -> None:
    for path in files(".h"):
        text = path.read_text()
        assert text.startswith("// "), f"{path} does not say what it is"
        assert "#pragma once" in text, path


def test_python_files_have_docstrings() -> None:
    for path in files(".py", ".pyi"):
        assert re.match(r'(#!.*\n)?"""', path.read_text()), path


def test_no_tabs_no_trailing_blanks() -> None:
    for path in files(*SOURCES):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert "\t" not in line, f"{path}:{number}"
            assert line == line.rstrip(), f"{path}:{number}"


def test_no_macros() -> None:
    for path in files(".h", ".cpp"):
        assert "#define" not in path.read_text(), path


def test_versions_agree() -> None:
    cmake = re.search(r"project\(quire VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())
    python = re.search(r'^version = "([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert cmake is not None
    assert python is not None
    assert cmake[1] == python[1]
    assert f"## {python[1]}" in (ROOT / "CHANGELOG.md").read_text()


def test_kernels_share_no_weak_symbols() -> None:
    assert stray_weak_symbols("00 W quire::f()\n01 W g<quire::Avx2>()\n", "Avx2") == ["quire::f()"]
    build = Path(os.environ.get("QUIRE_BUILD_DIR", ROOT / "build" / "release"))
    objects = [path for path in build.rglob("kernels_*.cpp.o") if "scalar" not in path.name]
    if not objects or shutil.which("nm") is None:
        pytest.skip("no release build to look at: scripts/test makes one")
    for path in objects:
        nm = subprocess.run(
            ["nm", "--demangle", path], check=True, capture_output=True, text=True
        ).stdout
        isa = ISA_OF_FILE[path.name.removesuffix(".cpp.o")]
        assert stray_weak_symbols(nm, isa) == [], path
