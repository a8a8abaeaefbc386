"""Programs of C++ as tests see them: compiled, run, and what they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("QUIRE_BUILD_DIR", ROOT / "build" / "release"))
CMAKE = shutil.which("cmake")


def run(*command: str | Path) -> str:
    """What the command prints; fails with all of it where the command does."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cmake(*arguments: str | Path) -> str:
    assert CMAKE is not None
    return run(CMAKE, *arguments)


def compiler() -> str | None:
    """That of the build, or the system's; None without either."""
    cache = BUILD / "CMakeCache.txt"
    if cache.exists():
        (path,) = re.findall(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache.read_text(), re.MULTILINE)
        return str(path)
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def check_that_it_compiles(source: Path, include: Path) -> None:
    """Without a warning, against the headers in `include`; nothing is linked."""
    command = compiler()
    assert command is not None
    flags = ("-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{include}")
    run(command, *flags, source)
