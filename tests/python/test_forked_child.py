"""A process that was forked from one with pools (os.fork, multiprocessing)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import quire

SCRIPT = Path(__file__).with_name("forked_child.py")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's, of threads and fork
@pytest.mark.parametrize("busy", [False, True], ids=["at rest", "busy"])
@pytest.mark.parametrize("what", ["refuse", "collect", "use_own", "end", "multiprocessing"])
def test_of_its_parents_pools(what: str, busy: bool) -> None:
    if busy and "QUIRE_SANITIZED" in os.environ:
        pytest.skip("a child inherits AddressSanitizer's locks as another thread holds them")
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *["busy"] * busy, what]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    assert ended.stdout.splitlines()[-1] == "well"


def test_a_pool_in_a_file_is_the_parents(tmp_path: Path) -> None:
    pool = quire.BlockPool(
        64,
        num_kv_heads=1,
        head_dim=64,
        dtype="float32",
        backing_file=tmp_path / "pool",
        resident_bytes=1 << 20,
    )
    table = quire.BlockTable(pool)
    rows = np.random.default_rng(0).standard_normal((600, 1, 64), np.float32)
    table.append(rows, rows)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            table.offload()
        except quire.QuireError:
            code = 0
        finally:
            del table, pool
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    k, v = table.gather()
    np.testing.assert_array_equal(k, rows)
    np.testing.assert_array_equal(v, rows)
    pool.check()
