"""Signals during long calls: handlers run; where one raises, the call ends and changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from interrupted_child import CASES

import quire

# In memory where there is such a file system: nothing interrupts a disk's fsync.
MEMORY = Path("/dev/shm")


# interruption_test.cpp looks for signals under the sanitizers.
long_calls = pytest.mark.skipif(
    "QUIRE_SANITIZED" in os.environ, reason="calls of a second take minutes there"
)


@long_calls
@pytest.mark.parametrize("call", CASES)
def test_a_handler_that_raises_ends_the_call(call: str) -> None:
    script = Path(__file__).with_name("interrupted_child.py")
    with TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as directory:
        command = [sys.executable, str(script), call, directory]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr


def test_ctrl_c() -> None:
    program = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is born without it
import numpy as np, quire
pool = quire.BlockPool(8200, num_kv_heads=1, head_dim=64)
table = quire.BlockTable(pool)
k = np.ones((1 << 17, 1, 64), np.float32)
table.append(k, k)
q, lengths = np.ones((4096, 16, 64), np.float32), np.array([0, 4096], np.int32)
print("begins", flush=True)
try:
    while True:
        quire.attend(q, [table], cu_seqlens_q=lengths, implementation="dense")
except KeyboardInterrupt:
    print("interrupted", len(table), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begins\n"
        time.sleep(0.5)  # a call takes hours
        child.send_signal(signal.SIGINT)
        try:
            assert child.communicate(timeout=60)[0] == b"interrupted 131072\n"
        finally:
            child.kill()  # where it has not ended, or the test would wait for it for ever


class Table:
    """A table, queries that take a while, and what comes of them."""

    queries = 96 if "QUIRE_SANITIZED" in os.environ else 768

    def __init__(self) -> None:
        self.pool = quire.BlockPool(1030, num_kv_heads=2, head_dim=64, dtype="float16")
        self.table = quire.BlockTable(self.pool)
        self.rows = np.random.default_rng(0).standard_normal((1 << 14, 2, 64), np.float32)
        self.table.append(self.rows, self.rows)
        self.q = np.resize(self.rows, (self.queries, 16, 64))
        self.expected = self.attend()

    def attend(self, queries: int = queries) -> Any:
        cu_seqlens_q = np.array([0, queries], np.int32)
        return quire.attend(self.q[-queries:], [self.table], cu_seqlens_q=cu_seqlens_q)


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Any], None]]:
    """Sets a handler, and has a signal come 20 ms after the last was handled."""
    former = signal.getsignal(signal.SIGALRM)

    def start(handler: Any) -> None:
        def handle(number: int, frame: object) -> None:
            handler(number, frame)
            signal.setitimer(signal.ITIMER_REAL, 0.02)

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.02)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


def looks_during(call: Callable[[], object], come: list[Any]) -> object:
    """The result of a call that a handler ran in the middle of, as `come` grew meanwhile."""
    for _ in range(50):  # the machine may be too fast for a look
        before = len(come)
        result = call()
        if len(come) - before >= 2:
            return result
    raise AssertionError("no handler ran during a call")


def test_a_handler_that_does_not_raise_changes_nothing(on_alarm: Any) -> None:
    table, come = Table(), list[int]()
    on_alarm(lambda number, _: come.append(number))
    out = looks_during(table.attend, come)
    np.testing.assert_array_equal(out, table.expected)


def test_a_handler_may_compute(on_alarm: Any) -> None:
    """Also with the table that is being read; but to write it would wait for ever."""
    table, come = Table(), list[Any]()
    other = quire.BlockTable(table.pool)
    few = table.attend(7)

    def handler(*_: object) -> None:
        other.append(table.rows[:3], table.rows[:3])
        other.truncate(0)
        come.append(table.attend(7))
        try:
            table.table.append(table.rows[:1], table.rows[:1])
            table.table.truncate(1 << 14)
        except quire.QuireError as error:
            come.append(str(error))

    on_alarm(handler)
    out = looks_during(table.attend, come)
    np.testing.assert_array_equal(out, table.expected)
    for inner in (each for each in come if not isinstance(each, str)):
        np.testing.assert_array_equal(inner, few)
    refusals = [each for each in come if isinstance(each, str)]
    assert any("from inside of another one" in text for text in refusals)


@long_calls
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_handler_may_fork(num_threads: int, in_file: bool, tmp_path: Path) -> None:
    """The parent's call goes on; the child's, which has no threads to go on with, ends."""
    program = """
import os, signal, sys, time
import numpy as np, quire
num_threads, path = int(sys.argv[1]), sys.argv[2]
in_file = dict(backing_file=path, resident_bytes=1 << 22) if path else {}
pool = quire.BlockPool(2056, num_kv_heads=2, head_dim=64, dtype="float16", **in_file)
table = quire.BlockTable(pool)
rows = np.random.default_rng(0).standard_normal((1 << 15, 2, 64), np.float32)
table.append(rows, rows)
q, lengths = np.resize(rows, (768, 16, 64)), np.array([0, 768], np.int32)

def attend():
    return quire.attend(q, [table], cu_seqlens_q=lengths, num_threads=num_threads)

def fork(*_):
    children.append(os.fork())

parent, expected, children, results = os.getpid(), attend(), [], []
signal.signal(signal.SIGALRM, fork)
begin = time.monotonic()
while len(results) < 4 and time.monotonic() < begin + 60:
    signal.setitimer(signal.ITIMER_REAL, 0.06)
    try:
        out = attend()
        ended = False
    except quire.QuireError:
        ended = True
    if os.getpid() != parent:
        with table:
            pass
        del table, pool
        own = quire.BlockPool(8, num_kv_heads=2, head_dim=64)
        t = quire.BlockTable(own)
        t.append(rows[:9], rows[:9])
        quire.attend(q[:1], [t], num_threads=3)
        os._exit(10 if ended else 11)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert not ended and (out == expected).all()
    while children:
        results.append(os.waitstatus_to_exitcode(os.waitpid(children.pop(), 0)[1]))
assert set(results) <= {10, 11}, results
print(10 in results)
"""
    path = str(tmp_path / "pool") if in_file else ""
    command = [sys.executable, "-c", program, str(num_threads), path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr
