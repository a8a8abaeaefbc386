"""Every example runs, and the notebooks show what they give. The C++ one is built in
test_installed_library.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# what each notebook shows beside text
NOTEBOOKS = {
    "a_small_llama.ipynb": {"text/html"},
    "generate.ipynb": {"text/html", "image/png"},
    "larger_than_memory.ipynb": {"text/html", "image/png"},
    "paged_attention.ipynb": {"text/html"},
    "prefix_cache.ipynb": {"text/html", "image/png"},
    "quantised_kv.ipynb": {"image/png"},
    "windows_and_eviction.ipynb": {"text/html", "image/png"},
}
SANITIZED = "QUIRE_SANITIZED" in os.environ


def run(*command: str | Path) -> str:
    """What the command prints; fails with all of it where the command does."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_decode_loop() -> None:
    lines = run(sys.executable, ROOT / "examples" / "decode_loop.py").splitlines()
    assert lines[-2:] == ["12 of 12 blocks are free again", "same tokens together and alone: True"]
    assert sum(line.startswith("step") for line in lines) == 6


def test_kv_cache_manager() -> None:
    lines = run(sys.executable, ROOT / "examples" / "kv_cache_manager.py").splitlines()
    assert lines == [
        "55 tokens: 0 known, 4 new blocks",
        "53 tokens: 48 known, 1 new blocks",
        "3 blocks are shared, 5 of 10 used",
        "room for 160 tokens: False",
        "room for 160 tokens: True",
        "0 tokens of the first prompt are left in the cache",
    ]


def test_engine_batch() -> None:
    lines = run(sys.executable, ROOT / "examples" / "engine_batch.py").splitlines()
    assert lines[:3] == ["step 1: [0, 1]", "step 2: [0, 1, 2]", "step 3: [0, 1, 2, 3, 4]"]
    assert lines[-2:] == [
        "found in the prefix cache: [0, 0, 0, 32, 32]",
        "answers of [40, 40, 40, 40, 40] tokens, with preemptions: True",
    ]


def test_torch_decoder() -> None:
    pytest.importorskip("torch")
    lines = run(sys.executable, ROOT / "examples" / "torch_decoder.py").splitlines()
    assert lines[0].startswith("4 of 16 blocks are in use by [BlockTable(44 tokens")
    assert lines[1:] == ["same tokens as without a cache: True"]


def shown(cell: Any) -> list[Any]:
    """What a code cell shows, its text as one; of plots, whose bytes depend on fonts and versions,
    and of one that measures time, only that it shows."""
    if "measured" in cell.metadata.get("tags", ()):
        return [bool(cell.outputs)]
    text = "".join(output.get("text", "") for output in cell.outputs)
    data = [
        {kind: "a plot" if kind == "image/png" else value for kind, value in output["data"].items()}
        for output in cell.outputs
        if "data" in output
    ]
    return [text, *data]


def outputs(notebook: Any) -> list[Any]:
    """What each code cell shows."""
    return [shown(cell) for cell in notebook.cells if cell.cell_type == "code"]


# what Jupyter itself warns of is not ours
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(SANITIZED, reason="a kernel's process would need the sanitizer's runtime too")
@pytest.mark.parametrize(("name", "kinds"), NOTEBOOKS.items())
def test_notebook(name: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)  # Jupyter has its own
    nbformat: Any = pytest.importorskip("nbformat")
    nbclient: Any = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    if "image/png" in kinds:
        pytest.importorskip("matplotlib")
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    nbformat.validate(notebook)
    saved = outputs(notebook)
    data = [output for cell in saved for output in cell if isinstance(output, dict)]
    assert kinds <= {kind for output in data for kind in output}
    if "text/html" in kinds:
        assert any("<svg" in output.get("text/html", "") for output in data)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert outputs(notebook) == saved
