"""The laws of the tree.

A law is a function from the tree, texts by path, to its breaches, each "path: what is wrong".
Every law is shown twice: this tree keeps it, and a small tree that breaks it is caught.
"""

from __future__ import annotations

import ast
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [".ci", ".github", "benchmarks", "bindings", "cpp", "docs", "examples", "python"]
FOLDERS += ["scripts", "tests"]
BINARY = {".bin", ".gguf", ".npz", ".png", ".safetensors"}
MADE = {".pyc", ".so"}
# Models as others lay them out: data that nobody here writes.
GIVEN = "tests/data/models/"

MOST_LINES = 400
# A vocabulary is one list of words, however many: it is looked up, not read from end to end.
VOCABULARIES = "cpp/quire/cpu/simd/"
SHARED_NAMES = {"CMakeLists.txt", "README.md", "__init__.py", "conftest.py"}
# One CMake target per folder: what each may include.
MAY_INCLUDE = {
    "task": {"task"},
    "base": {"task", "base"},
    "format": {"task", "base", "format"},
    "kv": {"base", "format", "kv"},
    "io": {"base", "format", "kv", "io"},
    "ops": {"base", "format", "ops"},
    "cpu": {"task", "base", "format", "ops", "cpu"},
    "paged": {"base", "format", "kv", "ops", "cpu", "paged"},
    "model": {"base", "format", "kv", "io", "ops", "cpu", "paged", "model"},
    "engine": {"base", "format", "kv", "io", "ops", "cpu", "paged", "model", "engine"},
}
# What a condition of the preprocessor may ask: macros of the compiler and the system, none of ours.
MAY_ASK = {"__x86_64__", "__aarch64__", "__SANITIZE_THREAD__", "MADV_HUGEPAGE"}

Tree = dict[str, str]
Law = Callable[[Tree], Iterator[str]]


def read_tree() -> Tree:
    paths = [path for path in ROOT.iterdir() if path.name in {"CMakeLists.txt", "README.md"}]
    paths += [path for path in ROOT.iterdir() if path.suffix in {".cff", ".json", ".toml", ".md"}]
    paths += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    return {
        path.relative_to(ROOT).as_posix(): "" if path.suffix in BINARY else path.read_text()
        for path in paths
        if path.is_file()
        and not path.is_relative_to(ROOT / GIVEN)
        and path.suffix not in MADE
        and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
    }


def with_suffix(tree: Tree, *suffixes: str, under: str = "") -> Iterator[tuple[str, str]]:
    for path, text in tree.items():
        if PurePosixPath(path).suffix in suffixes and path.startswith(under):
            yield path, text


def numbered_lines(path: str, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        yield f"{path}:{number}", line


def names_are_unique(tree: Tree) -> Iterator[str]:
    count = Counter(PurePosixPath(path).name for path in tree)
    for path in tree:
        name = PurePosixPath(path).name
        if count[name] > 1 and name not in SHARED_NAMES:
            yield f"{path}: {count[name]} files have this name"


def files_are_short(tree: Tree) -> Iterator[str]:
    for path, text in tree.items():
        lines = len(text.splitlines())
        # a compiled module has one stub, however much it holds
        excepted = path.startswith(VOCABULARIES) or PurePosixPath(path).suffix in (".ipynb", ".pyi")
        if lines > MOST_LINES and not excepted:
            yield f"{path}: {lines} lines"


def includes_go_one_way(tree: Tree) -> Iterator[str]:
    for path, text in with_suffix(tree, ".h", ".cpp", under="cpp/quire/"):
        folder = PurePosixPath(path).parts[2]
        for included in re.findall(r'^\s*#\s*include\s+"(.+)"', text, re.MULTILINE):
            place = PurePosixPath(included).parts
            if place[0] != "quire":
                yield f"{path}: {included} does not begin with quire/"
            elif folder in MAY_INCLUDE and place[1] not in MAY_INCLUDE[folder]:
                yield f"{path}: {folder} includes {included}"


def tasks_are_plain(tree: Tree) -> Iterator[str]:
    """Every compiler takes them, also one for a GPU, which has no standard library."""
    for path, text in with_suffix(tree, ".h", ".cpp", under="cpp/quire/task/"):
        for included in re.findall(r"#\s*include\s+<(.+)>", text):
            if included not in {"cstddef", "cstdint"}:
                yield f"{path}: includes <{included}>"
        for name in re.findall(r"\bstd::(\w+)", text):
            if not re.fullmatch(r"byte|u?int\d+_t", name):
                yield f"{path}: std::{name}"


def the_library_does_not_know_python(tree: Tree) -> Iterator[str]:
    for path, text in with_suffix(tree, ".h", ".cpp", ".txt", under="cpp/"):
        if re.search(r"pybind11|Python\.h|Python::|numpy", text):
            yield f"{path}: knows Python"


def only_numpy_view_knows_numpy(tree: Tree) -> Iterator[str]:
    for path, text in with_suffix(tree, ".h", ".cpp", under="bindings/"):
        knows = re.search(r"pybind11/numpy\.h|py::array|numpy/", text)
        if knows and PurePosixPath(path).stem != "numpy_view":
            yield f"{path}: {knows[0]}"


def intrinsics_stay_in_simd(tree: Tree) -> Iterator[str]:
    for path, text in with_suffix(tree, ".h", ".cpp"):
        intrinsics = re.search(r"#\s*include\s+<(\w*intrin|arm_\w+)\.h>", text)
        if intrinsics and not path.startswith(VOCABULARIES):
            yield f"{path}: includes {intrinsics[1]}.h"


def words_of(vocabulary: str) -> set[str]:
    """What the public part of a vocabulary's struct defines."""
    public = "\n".join(part.split("private:")[0] for part in vocabulary.split("\nstruct ")[1:])
    return set(re.findall(r"^  static [^=(]*?\b(\w+)\(", public, re.MULTILINE))


def words_are_tested_and_used(tree: Tree) -> Iterator[str]:
    """A word's test takes it from words_of.h; and a word that no kernel uses is none."""
    tested = tree.get("tests/cpp/cpu/simd/words_of.h", "")
    kernels = [text for _, text in with_suffix(tree, ".h", under="cpp/quire/cpu/")]
    for path, text in with_suffix(tree, ".h", under=VOCABULARIES):
        for word in sorted(words_of(text)):
            call = rf"\bS::(template )?{word}\b"
            if not re.search(call, tested):
                yield f"{path}: no test of {word}"
            if not any(re.search(call, kernel) for kernel in kernels):
                yield f"{path}: nobody uses {word}"


def headers_are_guarded_and_explained(tree: Tree) -> Iterator[str]:
    for path, text in with_suffix(tree, ".h"):
        if not text.startswith("// "):
            yield f"{path}: does not begin with what it is"
        if not re.search(r"^#pragma once$", text, re.MULTILINE):
            yield f"{path}: no #pragma once"


def macros_are_the_systems(tree: Tree) -> Iterator[str]:
    for path, text in with_suffix(tree, ".h", ".cpp"):
        for place, line in numbered_lines(path, text):
            directive = re.match(r"\s*#\s*(define|undef|ifn?def|if|elif)\b(.*)", line)
            if not directive:
                continue
            asked = set(re.findall(r"[A-Za-z_]\w+", directive[2].split("//")[0])) - {"defined"}
            if directive[1] in {"define", "undef"} or not asked <= MAY_ASK:
                yield f"{place}: {line.strip()}"


def cpp_tests_are_named_after_a_source(tree: Tree) -> Iterator[str]:
    for path in tree:
        test = re.fullmatch(r"tests/cpp/([\w/]+)/(\w+)_test\.cpp", path)
        if not test:
            continue
        sources = [
            PurePosixPath(source).stem
            for source, _ in with_suffix(tree, ".h", ".cpp", under=f"cpp/quire/{test[1]}/")
        ]
        if not any(test[2] == stem or test[2].startswith(stem + "_") for stem in sources):
            yield f"{path}: no source of this name in cpp/quire/{test[1]}"


def python_files_have_docstrings(tree: Tree) -> Iterator[str]:
    for path, text in with_suffix(tree, ".py", ".pyi"):
        if not ast.get_docstring(ast.parse(text)):
            yield f"{path}: no docstring"


def lines_are_clean(tree: Tree) -> Iterator[str]:
    for path, text in tree.items():
        for place, line in numbered_lines(path, text):
            if "\t" in line or line != line.rstrip():
                yield f"{place}: a tab, or a blank at the end"
        if text and not text.endswith("\n"):
            yield f"{path}: no newline at the end"


def no_path_of_one_machine(tree: Tree) -> Iterator[str]:
    for path, text in tree.items():
        for place, line in numbered_lines(path, text):
            found = re.search(r"(?<![\w.~}*-])/(home|root|tmp|work|mnt|srv|opt|Users)/", line)
            if found:
                yield f"{place}: {found[0]}"


def documents_name_what_exists(tree: Tree) -> Iterator[str]:
    folders = {str(folder) for path in tree for folder in PurePosixPath(path).parents}
    for path, text in tree.items():
        if "/" in path or not path.endswith(".md"):
            continue
        for place, line in numbered_lines(path, text):
            for named in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", line):
                at_home = named.split("/")[0] in folders
                if at_home and named not in tree and named.rstrip("/") not in folders:
                    yield f"{place}: {named}"


def nobody_is_sent_to_the_other_quire(tree: Tree) -> Iterator[str]:
    for path, text in tree.items():
        for place, line in numbered_lines(path, text):
            if re.search(r"pip[ ]install .*(?<![\w./-])quire(?![\w./-])", line):
                yield f"{place}: the distribution is quire-kv"


def versions_agree(tree: Tree) -> Iterator[str]:
    version = re.search(r"project\(quire VERSION ([\d.]+)", tree["CMakeLists.txt"])
    assert version, "CMakeLists.txt names no version"
    for path, line in [
        ("pyproject.toml", f'version = "{version[1]}"'),
        ("CHANGELOG.md", f"## {version[1]}"),
        ("CITATION.cff", f"version: {version[1]}"),
    ]:
        if not re.search(rf"^{re.escape(line)}(?![\d.])", tree[path], re.MULTILINE):
            yield f"{path}: not version {version[1]}"


BREACHES: dict[Law, tuple[Tree, list[str]]] = {
    names_are_unique: (
        {"cpp/a.h": "", "docs/a.h": "", "cpp/README.md": "", "docs/README.md": ""},
        ["cpp/a.h", "docs/a.h"],
    ),
    files_are_short: (
        {
            "long.py": "\n" * 401,
            "short.py": "\n" * 400,
            "stub.pyi": "\n" * 401,
            "cpp/quire/cpu/simd/avx512.h": "\n" * 401,
            "cpp/quire/cpu/avx512.h": "\n" * 401,
        },
        ["long.py", "cpp/quire/cpu/avx512.h"],
    ),
    includes_go_one_way: (
        {
            "cpp/quire/kv/a.h": '#include "quire/cpu/plan/split.h"\n',
            "cpp/quire/ops/b.h": '#include "quire/kv/block_pool.h"\n',
            "cpp/quire/base/c.h": '#  include "quire/quire.h"\n',
            "cpp/quire/cpu/d.h": '#include "../base/check.h"\n',
            "cpp/quire/task/f.h": '#include "quire/base/dtype.h"\n',
            "cpp/quire/model/g.h": '#include "quire/engine/request.h"\n',
            "cpp/quire/cpu/good.h": '#include "quire/base/check.h"\n',
        },
        [
            "cpp/quire/kv/a.h",
            "cpp/quire/ops/b.h",
            "cpp/quire/base/c.h",
            "cpp/quire/cpu/d.h",
            "cpp/quire/task/f.h",
            "cpp/quire/model/g.h",
        ],
    ),
    tasks_are_plain: (
        {
            "cpp/quire/task/a.h": "#include <vector>\n",
            "cpp/quire/task/b.h": "#include <cstddef>\nstd::size_t count(std::byte x);\n",
            "cpp/quire/task/good.h": "#include <cstdint>\nstd::int64_t x;\nstd::byte* p;\n",
            "cpp/quire/cpu/good.h": "#include <vector>\n",
        },
        ["cpp/quire/task/a.h", "cpp/quire/task/b.h"],
    ),
    the_library_does_not_know_python: (
        {
            "cpp/quire/kv/a.h": "#include <pybind11/pybind11.h>\n",
            "cpp/quire/kv/CMakeLists.txt": "target_link_libraries(quire_kv Python::Module)\n",
            "bindings/good.cpp": "#include <pybind11/pybind11.h>\n",
        },
        ["cpp/quire/kv/a.h", "cpp/quire/kv/CMakeLists.txt"],
    ),
    only_numpy_view_knows_numpy: (
        {"bindings/a.cpp": "py::array x;\n", "bindings/numpy_view.cpp": "py::array x;\n"},
        ["bindings/a.cpp"],
    ),
    intrinsics_stay_in_simd: (
        {
            "cpp/quire/cpu/a.h": "#include <immintrin.h>\n",
            "cpp/quire/cpu/simd/neon.h": "#include <arm_neon.h>\n",
        },
        ["cpp/quire/cpu/a.h"],
    ),
    words_are_tested_and_used: (
        {
            "cpp/quire/cpu/simd/a.h": "// What.\n\nstruct Table {};\n\nstruct A {\n"
            "  static Vec add(Vec a, Vec b) { return plain(a, b); }\n"
            "  static Vec sub(Vec a, Vec b);\n"
            "  static Vec mul(Vec a, Vec b);\n"
            " private:\n"
            "  static Vec hidden(Vec a);\n"
            "};\n",
            "cpp/quire/cpu/kernel.h": "S::add(x, S::template sub<T>(y))",
            "tests/cpp/cpu/simd/words_of.h": "S::add(x, S::mul(y))",
        },
        ["cpp/quire/cpu/simd/a.h", "cpp/quire/cpu/simd/a.h"],
    ),
    headers_are_guarded_and_explained: (
        {"a.h": "// What.\n", "b.h": "#pragma once\n", "good.h": "// What.\n#pragma once\n"},
        ["a.h", "b.h"],
    ),
    macros_are_the_systems: (
        {
            "a.h": "#define MAX(a, b) 0\n",
            "b.cpp": "# ifdef QUIRE_FAST\n",
            "c.cpp": "#if defined(__x86_64__) && defined(QUIRE_FAST)\n",
            "good.cpp": "#if !defined(__SANITIZE_THREAD__)  // why\n#elif defined(__aarch64__)\n",
        },
        ["a.h:1", "b.cpp:1", "c.cpp:1"],
    ),
    cpp_tests_are_named_after_a_source: (
        {
            "cpp/quire/kv/block_pool.h": "",
            "cpp/quire/cpu/simd/avx2.h": "",
            "tests/cpp/cpu/simd/avx2_test.cpp": "",
            "tests/cpp/cpu/simd/block_pool_test.cpp": "",
            "tests/cpp/kv/split_test.cpp": "",
            "tests/cpp/base/block_pool_test.cpp": "",
            "tests/cpp/kv/block_pool_test.cpp": "",
            "tests/cpp/kv/block_pool_concurrency_test.cpp": "",
        },
        [
            "tests/cpp/cpu/simd/block_pool_test.cpp",
            "tests/cpp/kv/split_test.cpp",
            "tests/cpp/base/block_pool_test.cpp",
        ],
    ),
    python_files_have_docstrings: (
        {"a.py": "import os\n", "b.pyi": "# What.\n", "good.py": '"""What."""\n'},
        ["a.py", "b.pyi"],
    ),
    lines_are_clean: (
        {"a.h": "\tint x;\n", "b.h": "int x; \n", "c.h": "int x;", "good.h": "int x;\n"},
        ["a.h:1", "b.h:1", "c.h"],
    ),
    no_path_of_one_machine: (
        {"a.md": "in " + "/home" + "/ann/quire\n", "good.md": "cpp/tmp/x, ~/job/, /usr/src/x\n"},
        ["a.md:1"],
    ),
    documents_name_what_exists: (
        {
            "a.md": "`cpp/b.h`, `cpp/c.h`, `cpp/`, `docs/`\n`text/html` and `cpp/quire/kv/`\n",
            "cpp/b.h": "",
            "docs/d.md": "`cpp/gone.h`, as it was then\n",
        },
        ["a.md:1", "a.md:2"],
    ),
    nobody_is_sent_to_the_other_quire: (
        {
            "a.md": "pip " + "install quire\n",
            "b.cpp": "expected: pip " + "install 'quire[plot]'\n",
            "c.yml": "- run: pip " + "install numpy quire==0.1\n",
            "good.md": "pip install quire-kv, pip install 'quire-kv[plot]', pip install .\n",
        },
        ["a.md:1", "b.cpp:1", "c.yml:1"],
    ),
    versions_agree: (
        {
            "CMakeLists.txt": "project(quire VERSION 0.1.0 LANGUAGES CXX)\n",
            "pyproject.toml": 'version = "0.2.0"\n',
            "CHANGELOG.md": "## 0.1.0.1\n",
            "CITATION.cff": "cff-version: 0.1.0\n",
        },
        ["pyproject.toml", "CHANGELOG.md", "CITATION.cff"],
    ),
}


@pytest.mark.parametrize("law", BREACHES, ids=lambda law: law.__name__)
def test_the_tree_keeps(law: Law) -> None:
    assert list(law(read_tree())) == []


@pytest.mark.parametrize("law", BREACHES, ids=lambda law: law.__name__)
def test_a_breach_is_found_of(law: Law) -> None:
    tree, places = BREACHES[law]
    assert [breach.split(": ")[0] for breach in law(tree)] == places


def test_scripts_can_be_run() -> None:
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]:
        assert os.access(path, os.X_OK) == (path.suffix == ""), path
