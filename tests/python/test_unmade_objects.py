"""Objects whose __init__ failed or never ran: whatever is asked of one raises TypeError.

In a process of its own, as what this looks for is a crash, or a call that never ends.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = [
    "every_name",
    "every_protocol",
    "as_an_argument",
    "of_a_finaliser",
    "of_an_idle_subclass",
    "of_two_bases",
    "made_twice",
    "copies",
    "another_self",
]


@pytest.mark.parametrize("case", CASES)
def test_unmade(case: str) -> None:
    program = Path(__file__).with_name("unmade_child.py")
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(program), case],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr  # where a finaliser's errors go
