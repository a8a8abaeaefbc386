"""How many random cases a test of Hypothesis tries: under a sanitizer a third, as of parametrised
tests (conftest.py). QUIRE_ALL_CASES=1 asks for all of them everywhere."""

from __future__ import annotations

import os

TRIES_ALL_CASES = "QUIRE_SANITIZED" not in os.environ or "QUIRE_ALL_CASES" in os.environ


def examples(count: int) -> int:
    return count if TRIES_ALL_CASES else -(-count // 3)
