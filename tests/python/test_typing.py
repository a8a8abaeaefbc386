"""mypy --strict on the package and on an example."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(util.find_spec("mypy") is None, reason="mypy is not installed")


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("what", [["--package", "quire"], ["examples/decode_loop.py"]])
def test_strict(what: list[str]) -> None:
    checked = mypy(*what)
    assert checked.returncode == 0, checked.stdout


def test_a_wrong_type_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import quire\n\nx: int = quire.verify(2).max_abs\n")
    checked = mypy(str(wrong))
    assert checked.returncode == 1
    assert "Incompatible types in assignment" in checked.stdout
