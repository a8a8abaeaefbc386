"""The command line: output and exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_verification import corrupt_block

from quire.cli import main


def test_verify(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--steps", "8"]) == 0
    shown = capsys.readouterr()
    assert "every step passes" in shown.out
    assert "fused" in shown.out
    assert "gather" in shown.out
    assert "cache contents: exact" in shown.out
    assert "step 8 of 8" in shown.err


def test_verify_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "verify --steps 5 --synthetic --heads 4,2 --context 30 --forks --truncations --json"
    assert main(arguments.split()) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert len(report["implementations"]["fused"]["rms"]) == 5
    assert report["settings"]["heads"] == [4, 2]


def test_verify_fails_with_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt_block(monkeypatch, 300.0)
    assert main(["verify", "--steps", "6"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_verify_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["verify", "--steps", "3", "--plot", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "--trace", "no-such-file.npz"],
        ["verify", "--heads", "8"],
        ["verify", "--steps", "0"],
        ["verify", "--dtype", "int8"],
        ["verify", "--layer", "9"],
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("quire verify: error: ")
    assert error.count("\n") == 1


def test_a_file_that_is_no_npz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.npz").write_bytes(b"nonsense")
    assert main(["verify", "--trace", str(tmp_path / "x.npz")]) == 2
    assert "error" in capsys.readouterr().err


def test_info_and_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "instruction sets built:" in shown
    assert "scalar" in shown
    assert main(["bench", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["fused"] > 0 and row["of_ceiling"] > 0 for row in rows)


@pytest.mark.parametrize("command", [[], ["verify"], ["bench"], ["info"]])
def test_help(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quire", *command, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "usage: quire" in done.stdout
