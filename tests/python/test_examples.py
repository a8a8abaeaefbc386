"""Every example runs; the C++ one against an installed library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SANITIZED = "QUIRE_SANITIZED" in os.environ


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_decode_loop() -> None:
    shown = run(sys.executable, ROOT / "examples" / "decode_loop.py")
    assert shown.count("sequence:") == 2
    assert "1 copied" in shown


@pytest.mark.skipif(SANITIZED, reason="a kernel's process would need the sanitizer's runtime too")
@pytest.mark.filterwarnings("ignore")
def test_notebook() -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "examples" / "paged_attention.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    drawn = [out for cell in notebook.cells for out in cell.get("outputs", []) if "data" in out]
    assert any("<svg" in out["data"].get("text/html", "") for out in drawn)


@pytest.mark.skipif(SANITIZED, reason="builds anew what it runs")
def test_minimal_cpp_against_the_installed_library(tmp_path: Path) -> None:
    build = Path(os.environ.get("QUIRE_BUILD_DIR", ROOT / "build" / "release"))
    cmake = shutil.which("cmake")
    if cmake is None or not (build / "CMakeCache.txt").exists():
        pytest.skip("no release build to install: scripts/test makes one")
    run(cmake, "--install", build, "--prefix", tmp_path / "prefix")
    run(
        cmake,
        "-S",
        ROOT / "examples",
        "-B",
        tmp_path / "build",
        f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}",
        "-DCMAKE_BUILD_TYPE=Release",
    )
    run(cmake, "--build", tmp_path / "build")
    shown = run(tmp_path / "build" / "minimal")
    assert shown == "40 tokens in 3 blocks, attention 19.500\n"
