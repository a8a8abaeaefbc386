"""What scripts/common.sh says and does of a machine that lacks something: the system's commands are
replaced by ones that only write down that they were called."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMON = ROOT / "scripts" / "common.sh"


class Machine:
    """A folder of commands, before those of this machine in PATH."""

    def __init__(self, folder: Path, user: int) -> None:
        self.folder, self.log = folder, folder / "apt-get.log"
        self.have("id", f"echo {user}")
        self.have("dpkg-query", '[ "$3" = g++ ] && echo "install ok installed"')
        self.have("apt-get", f'echo "$@" >> {self.log}; echo "apt: $1" >&2')

    def have(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.folder / name).chmod(0o755)

    def run(self, command: str, path: str | None = None) -> tuple[int, str]:
        """The exit code of a command of common.sh, and all that it says."""
        path = f"{self.folder}:{os.environ['PATH']}" if path is None else path
        done = subprocess.run(
            ["/bin/bash", "-c", f"source {COMMON}; {command}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": path},
            check=False,
        )
        return done.returncode, done.stdout

    def installed(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


NEEDED = 'apt_install g++ "there already" googletest "the framework" libeigen3-dev "matrices"'


def test_root_is_told_what_is_installed_and_why_beforehand(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=0)
    code, said = machine.run(NEEDED)
    assert code == 0
    assert said.splitlines() == [
        "needed from Debian: googletest, the framework",
        "needed from Debian: libeigen3-dev, matrices",
        "installing, as root: apt-get install googletest libeigen3-dev",
        "apt: update",
        "apt: install",
    ]
    assert machine.installed().splitlines()[1].endswith(" googletest libeigen3-dev")


def test_others_are_told_what_to_ask_root_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=1000)
    code, said = machine.run(NEEDED)
    assert code == 1
    assert "needed from Debian: googletest, the framework" in said
    assert said.endswith(
        "only root on Debian can install this: apt-get install googletest libeigen3-dev\n"
    )
    assert machine.installed() == ""


def test_what_is_there_is_not_mentioned(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=0)
    assert machine.run('apt_install g++ "there already"') == (0, "")
    assert machine.installed() == ""


def test_a_machine_without_tools_is_told_all_that_it_lacks(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=0)
    machine.have("dirname", '/usr/bin/dirname "$@"')
    code, said = machine.run("require_tools", path=str(tmp_path))
    assert code == 1
    assert [line.split(":")[0] for line in said.splitlines()] == ["missing"] * 2
    assert "(Debian: python3)" in said
    assert "(Debian: g++)" in said
    machine.have("python3", '[ "$1" = -c ]')
    machine.have("c++", "")
    code, said = machine.run("require_tools", path=str(tmp_path))
    assert code == 1
    assert said.startswith("missing: pip of ")
    assert said.endswith("(Debian: python3-pip)\n")


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_build_shows_its_steps_and_the_rest_only_where_it_fails(
    tmp_path: Path, succeeds: bool
) -> None:
    machine = Machine(tmp_path, user=0)
    build = tmp_path / "build"
    lines = ["configuring", "  [1/2] Building a.o", "[2/2] Linking a"]
    says = "".join(f"echo '{line}'\n" for line in lines)
    build.write_text(says + ("echo noise >&2\n" + str(succeeds).lower()))
    code, said = machine.run(f"with_progress {tmp_path}/logs/build.log bash {build}")
    steps = "[1/2] Building a.o\n[2/2] Linking a\n"
    everything = "".join(f"{line}\n" for line in [*lines, "noise"])
    assert (tmp_path / "logs" / "build.log").read_text() == everything
    assert (code, said) == ((0, steps) if succeeds else (1, steps + everything))


def test_the_readme_lists_every_package_that_a_script_may_install() -> None:
    text = "".join(path.read_text() for path in sorted((ROOT / "scripts").iterdir()))
    calls = re.findall(r"^.*\bapt_install ((?:\\\n|.)+)", text, re.MULTILINE)
    packages = {name for call in calls for name in re.findall(r'([a-z0-9.+-]+) "[^"]+"', call)}
    assert {"python3-dev", "googletest", "qemu-user"} <= packages
    table = re.findall(r"^\| (`.+?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert packages == set(re.findall(r"`([^`]+)`", " ".join(table)))
