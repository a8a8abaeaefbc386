"""The law of objects: code of one instruction set is never linked in the place of another's."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The type whose name every weak symbol of an instruction set's object carries: of its
# kernels_*.cpp, gemm_*.cpp and operators_*.cpp, and of the tests' words_*.cpp. What is scalar is
# compiled for the baseline, as everything else is: any copy of it will do.
TYPE_OF_OBJECT = {
    "avx2.cpp.o": "Avx2",
    "avx512.cpp.o": "Avx512",
    "avx512bf16.cpp.o": "Avx512Bf16",
    "amx.cpp.o": "Amx",
    "neon.cpp.o": "Neon",
}


def stray_weak_symbols(nm_output: str, type_name: str) -> list[str]:
    """Weak symbols, in an object of one instruction set, that do not carry its type's name.

    The linker keeps one of several weak symbols of a name. Were it this one, the code that runs on
    any processor would run instructions that its own may not have.
    """
    weak = re.findall(r"^\S*\s+[WVu] (.+)$", nm_output, re.MULTILINE)
    return [symbol for symbol in weak if not re.search(rf"\b{type_name}\b", symbol)]


def test_a_stray_weak_symbol_is_found() -> None:
    nm_output = """\
0000000000000000 W float quire::sum<quire::Avx512>(float const*)
0000000000000000 W float quire::sum<quire::Avx512Bf16>(float const*)
0000000000000010 W std::vector<float>::reserve(unsigned long)
0000000000000020 V quire::table
0000000000000030 u quire::once()::value
0000000000000040 T quire::kernels()
                 w pthread_create
                 U memcpy
"""
    stray = ["std::vector<float>::reserve(unsigned long)", "quire::table", "quire::once()::value"]
    bf16, avx512 = (f"float quire::sum<quire::Avx512{name}>(float const*)" for name in ["Bf16", ""])
    assert stray_weak_symbols(nm_output, "Avx512") == [bf16, *stray]
    assert stray_weak_symbols(nm_output, "Avx512Bf16") == [avx512, *stray]


def test_kernels_share_no_weak_symbols() -> None:
    build = Path(os.environ.get("QUIRE_BUILD_DIR", ROOT / "build" / "release"))
    objects = [
        (path, type_name)
        for name, type_name in TYPE_OF_OBJECT.items()
        for kind in ("kernels", "gemm", "operators", "words")
        for path in build.rglob(f"{kind}_{name}")
    ]
    if not objects and "QUIRE_BUILD_DIR" not in os.environ:
        pytest.skip(f"nothing built in {build}: scripts/test builds it")
    assert objects, f"no kernels in {build}"
    for path, type_name in objects:
        command = ["nm", "--demangle", str(path)]
        nm = subprocess.run(command, check=True, capture_output=True, text=True)
        assert stray_weak_symbols(nm.stdout, type_name) == [], path
