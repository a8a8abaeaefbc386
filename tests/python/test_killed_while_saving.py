"""A process that is killed while it saves leaves the old file or the new one, whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

KILLS = 200


# In memory where there is such a file system: a disk's fsync, which no kill interrupts, would take
# up most of the time, and set when the process dies.
MEMORY = Path("/dev/shm")


def test_killed_at_random_moments() -> None:
    script = Path(__file__).with_name("saving_child.py")
    with TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as directory:
        command = [sys.executable, str(script), directory, str(KILLS), "1"]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    cut_short, versions = map(int, finished.stdout.split())
    # kills came in the middle of saves, and after each kind of them: or this proves nothing
    assert cut_short > KILLS // 10
    assert versions == 4  # two of the table, two of the cache
