"""The processor's floating-point mode of this thread, set as a host may have set it."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

LIBM = ctypes.CDLL("libm.so.6")
# fenv_t of glibc: where the register lies that rules vectors, and its bits for "rounded up" and
# "subnormal numbers are 0", in operands and results
PLACE, BITS = {"x86_64": (28, 0x4000 | 0x8040), "aarch64": (0, 0x400000 | 0x1000000)}[
    platform.machine()
]


def current_mode() -> int:
    """The bits of BITS that are set."""
    environment = ctypes.create_string_buffer(64)
    LIBM.fegetenv(environment)
    return int.from_bytes(environment.raw[PLACE : PLACE + 4], "little") & BITS


@contextmanager
def unusual_mode() -> Iterator[None]:
    """Numbers are rounded up and subnormal ones are 0; at the end they must still be."""
    usual = ctypes.create_string_buffer(64)
    LIBM.fegetenv(usual)
    changed = bytearray(usual.raw)
    register = int.from_bytes(changed[PLACE : PLACE + 4], "little") | BITS
    changed[PLACE : PLACE + 4] = register.to_bytes(4, "little")
    LIBM.fesetenv(bytes(changed))
    try:
        yield
        assert current_mode() == BITS
    finally:
        LIBM.fesetenv(usual)
