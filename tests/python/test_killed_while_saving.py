"""A process that is killed while it saves leaves the old file or the new one, whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

KILLS = 200


def test_killed_at_random_moments(tmp_path: Path) -> None:
    script = Path(__file__).with_name("saving_child.py")
    command = [sys.executable, str(script), str(tmp_path), str(KILLS), "1"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    cut_short, versions = map(int, finished.stdout.split())
    # kills came in the middle of saves, and after each kind of them: or this proves nothing
    assert cut_short > KILLS // 10
    assert versions == 4  # two of the table, two of the cache
