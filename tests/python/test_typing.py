"""mypy --strict on the package and on an example."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(util.find_spec("mypy") is None, reason="mypy is not installed")


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", *arguments]
    # for a call without the project's own configuration, in which other libraries' types are Any
    environment = {**os.environ, "MYPYPATH": "python"}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize(
    "what", [["--package", "quire"], ["examples/decode_loop.py", "examples/kv_cache_manager.py"]]
)
def test_strict(what: list[str]) -> None:
    checked = mypy(*what)
    assert checked.returncode == 0, checked.stdout


FLAGS = """
from typing import Any

import numpy as np
import quire
from typing_extensions import assert_type

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
OutAndLse = tuple[Array, np.ndarray[tuple[Any, ...], np.dtype[np.float32]]]


def call(q: Array, table: quire.BlockTable, lse: bool, mass: bool, causal: np.bool_) -> None:
    tables = [table]
    plain = (q, q, q, q, q)
    assert_type(quire.attend(q, tables, causal=causal), Array)
    assert_type(quire.attend(q, tables, return_lse=False), Array)
    assert_type(quire.attend(q, tables, return_lse=True), OutAndLse)
    assert_type(quire.attend(q, tables, return_lse=lse), Array | OutAndLse)
    assert_type(quire.attend(q, tables, return_lse=lse, return_block_mass=False), Array | OutAndLse)
    assert_type(quire.attend(q, tables, return_lse=lse, return_block_mass=True), tuple[Array, ...])
    assert_type(quire.attend(q, tables, return_block_mass=mass), Array | tuple[Array, ...])
    assert_type(
        quire.attend(q, tables, return_lse=lse, return_block_mass=mass), Array | tuple[Array, ...]
    )
    assert_type(quire.paged_attention(*plain, return_lse=lse), Array | OutAndLse)
    assert_type(quire.paged_attention(*plain, return_block_mass=mass), Array | tuple[Array, ...])
    quire.paged_attention(*plain, causal=lse, scale=0.5, k_open=q, v_open=q, layout="HND")
"""


def test_flags_may_be_variables(tmp_path: Path) -> None:
    flags = tmp_path / "flags.py"
    flags.write_text(FLAGS)
    checked = mypy(str(flags))
    assert checked.returncode == 0, checked.stdout


# Of a library, for whatever type stands for its arrays.
TENSORS = """
from typing import Any

import numpy as np
import quire
from quire import ops
from typing_extensions import assert_type
{library}
Both = tuple[Tensor, Tensor]
Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]


def call(q: Tensor, a: Array, table: quire.BlockTable, lse: bool, mass: bool) -> None:
    tables = [table]
    step = quire.Step(tables, 1)
    assert_type(quire.paged_attention(q, a, a, a, a), Tensor)
    assert_type(quire.paged_attention(q, q, q, q, q, k_scale=q, return_lse=True), Both)
    assert_type(quire.paged_attention(q, a, a, a, a, return_lse=lse), Tensor | Both)
    assert_type(quire.attend(q, tables, out=q), Tensor)
    assert_type(quire.attend(q, tables, return_lse=True), Both)
    assert_type(quire.attend(q, tables, return_block_mass=True), tuple[Tensor, ...])
    assert_type(quire.attend(q, tables, return_block_mass=mass), Tensor | tuple[Tensor, ...])
    assert_type(step.attend(q, q, q), Tensor)
    assert_type(step.attend(q, None, None, return_lse=True), Both)
    assert_type(quire.merge_states(q, q), Both)
    assert_type(step.attend(q, q), Tensor)
    assert_type(ops.linear(q, q), Tensor)
    assert_type(ops.swiglu(q, a), Tensor)
    assert_type(ops.rope(q, a), Tensor)
    assert_type(ops.causal_conv1d(q, a, state=a), Tensor)
    assert_type(ops.gated_delta_rule(q, a, a, a, a, state=a), Tensor)
    # the first array decides
    assert_type(quire.paged_attention(a, q, q, q, q), Array)
    assert_type(quire.attend(a, tables, sinks=q), Array)
    assert_type(quire.merge_states(a, q)[0], Array)
    assert_type(ops.linear(a, q), Array)
    assert_type(ops.swiglu(a, q), Array)
"""

LIBRARIES = {
    "torch": "from torch import Tensor",
    "jax": "from jax import Array as Tensor",
    "another": """

class Tensor:
    def __dlpack__(self, *, max_version: tuple[int, int] | None = None) -> object:
        return None

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0
""",
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_results_are_of_the_library_that_the_query_is_of(tmp_path: Path, library: str) -> None:
    if library != "another":
        pytest.importorskip(library)
    tensors = tmp_path / "tensors.py"
    tensors.write_text(TENSORS.format(library=LIBRARIES[library]))
    checked = mypy("--config-file", os.devnull, str(tensors))
    assert checked.returncode == 0, checked.stdout


def test_a_library_that_is_not_installed_gives_any(tmp_path: Path) -> None:
    """The types import none: without it, its arrays are of no known type, and no error."""
    tensors = tmp_path / "tensors.py"
    library = "from a_library_that_nobody_has import Tensor  # type: ignore[import-not-found]"
    text = TENSORS.format(library=library)
    tensors.write_text("\n".join(line for line in text.splitlines() if "assert_type(" not in line))
    tensors.write_text(tensors.read_text() + "    quire.attend(q, tables).whatever(1)\n")
    checked = mypy(str(tensors))
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    "call",
    [
        "quire.attend(q, [table], scal=0.5)",
        "quire.attend(q, [table], scale='large')",
        "quire.attend(q, [table], layout='HND')",
        "quire.attend(q, [table], return_lse=1)",
        "quire.paged_attention(q, q, q, q, q, implementation='best')",
    ],
)
def test_wrong_options_are_found(tmp_path: Path, call: str) -> None:
    wrong = tmp_path / "wrong.py"
    parameters = "q: np.ndarray[tuple[int, ...], np.dtype[np.float32]], table: quire.BlockTable"
    lines = ["import numpy as np", "import quire", f"def f({parameters}) -> None:", f"    {call}"]
    wrong.write_text("\n".join(lines) + "\n")
    checked = mypy(str(wrong))
    assert checked.returncode == 1
    assert "call-overload" in checked.stdout


def test_a_wrong_type_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import quire\n\nx: int = quire.verify(2).max_abs\n")
    checked = mypy(str(wrong))
    assert checked.returncode == 1
    assert "Incompatible types in assignment" in checked.stdout
