"""How far a command has come, on standard error, which people see and pipes do not take."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_BAR = 40
# What takes less is not worth a line that comes and goes.
_PATIENCE_SECONDS = 0.5


def show_progress(done: int, total: int) -> None:
    """A bar on a terminal; elsewhere a line at each quarter."""
    if sys.stderr.isatty():
        _draw(done, total, "")
        if done == total:
            print(file=sys.stderr)
    elif 4 * done // total > 4 * (done - 1) // total:
        print(f"step {done} of {total}", file=sys.stderr)


class ProgressLine:
    """A bar on a terminal that vanishes when the work is done; elsewhere nothing.

    Args:
        what: is done, as "prompt". unit: what is counted, as "tokens".
    """

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._begin = time.monotonic()
        self._shown = False

    def show(self, done: int, total: int) -> None:
        """So much is done now."""
        waited = time.monotonic() - self._begin > _PATIENCE_SECONDS
        if sys.stderr.isatty() and (self._shown or (waited and done < total)):
            self._shown = True
            _draw(done, total, f" {self._unit} of the {self._what}")

    def clear(self) -> None:
        """Takes the bar away, before other text is written."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Seconds that tick on a terminal, for work that does not say how far it is."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    ticking = threading.Thread(target=_tick, args=(what, done), daemon=True)
    ticking.start()
    try:
        yield
    finally:
        done.set()
        ticking.join()


def _tick(what: str, done: threading.Event) -> None:
    begin = time.monotonic()
    shown = False
    while not done.wait(_PATIENCE_SECONDS):
        shown = True
        seconds = time.monotonic() - begin
        print(f"\r{what}, {seconds:.0f} s", end="", file=sys.stderr, flush=True)
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _draw(done: int, total: int, label: str) -> None:
    filled = _BAR * done // total
    bar = "#" * filled + "." * (_BAR - filled)
    print(f"\r[{bar}] {done}/{total}{label}", end="", file=sys.stderr, flush=True)
