"""The command line: exit statuses, what goes where, and files that are no traces."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire
from quire import benchmark, cli, verification
from quire.bench_cases import AttentionCase, WriteCase
from quire.bench_report import BenchReport, CaseResult
from quire.commands import verify_command

SYNTHETIC = ["verify", "--steps", "3", "--synthetic", "--context", "20", "--head-dim", "8"]


def save(path: Path, prefix: str = "", tokens: int = 12, **change: Any) -> str:
    random = np.random.default_rng(0)
    shapes = {"q": (tokens, 4, 8), "k": (tokens, 2, 8), "v": (tokens, 2, 16)}
    arrays: dict[str, Any] = {
        name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()
    }
    named = {prefix + name: array for name, array in {**arrays, **change}.items()}
    np.savez(path, **{name: array for name, array in named.items() if array is not None})
    return str(path)


def test_verify_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--steps", "8"]) == 0
    out, err = capsys.readouterr()
    for word in ("fused", "gather", "dense", "median", "cache contents: exact", "passed"):
        assert word in out
    assert err.splitlines() == [f"step {step} of 8" for step in (2, 4, 6, 8)]


def test_verify_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--heads", "6,3", "--v-head-dim", "5", "--batch", "2", "--block-size", "3"]
    more = ["--dtype", "bfloat16", "--forks", "--truncations", "--sliding-window", "9"]
    assert cli.main([*SYNTHETIC, *arguments, *more, "--softcap", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["settings"]["heads"] == [6, 3]
    assert found["settings"]["head_dims"] == [8, 5]
    assert found["settings"]["sliding_window"] == 9
    assert set(found["implementations"]) == {"fused", "gather", "dense"}
    assert len(found["implementations"]["fused"]["rms"]) == 3


def test_a_corrupted_block_is_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attend = verification.attend

    def corrupting(q: Any, tables: Any, **options: Any) -> Any:
        tables[0].pool.v_cache()[tables[0].blocks[0]] = 50
        return attend(q, tables, **options)

    monkeypatch.setattr(verification, "attend", corrupting)
    assert cli.main(SYNTHETIC) == 1
    out = capsys.readouterr().out
    assert "cache contents: WRONG at step 0" in out
    assert "FAILED" in out
    assert cli.main([*SYNTHETIC, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_a_missed_step_is_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = verification.attend

    def shifted(q: Any, tables: Any, **options: Any) -> Any:
        out = attend(q, tables, **options)
        return out + 0.01 if options["implementation"] == "gather" else out

    monkeypatch.setattr(verification, "attend", shifted)
    assert cli.main(SYNTHETIC) == 1


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = save(tmp_path / "plain.npz")
    assert cli.main(["verify", "--steps", "5", "--trace", plain, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["context"] == 7
    layers = save(tmp_path / "layers.npz", "layer7_")
    assert cli.main(["verify", "--steps", "5", "--trace", layers]) == 0
    assert cli.main(["verify", "--steps", "5", "--trace", layers, "--layer", "7"]) == 0
    assert cli.main(["verify", "--steps", "5", "--trace", layers, "--layer", "2"]) == 2


def no_traces(folder: Path) -> dict[str, str]:
    """Files that are not traces, and a word of what should be said."""
    whole = Path(save(folder / "whole.npz")).read_bytes()
    np.save(folder / "array.npy", np.zeros(3))
    broken = bytearray(whole)
    broken[len(broken) // 3] ^= 0xFF
    for name, content in {
        "empty.npz": b"",
        "text.npz": b"not an archive",
        "cut.npz": whole[: len(whole) // 2],
        "broken.npz": bytes(broken),
    }.items():
        (folder / name).write_bytes(content)
    objects = np.array([{}], dtype=object)
    np.savez(folder / "objects.npz", q=objects, k=objects, v=objects)
    nan = np.full((12, 2, 8), np.nan, np.float32)
    return {
        str(folder / "absent.npz"): "No such file",
        str(folder): "Is a directory",
        str(folder / "array.npy"): "expected an npz file",
        str(folder / "empty.npz"): "expected an npz file",
        str(folder / "text.npz"): "expected an npz file",
        str(folder / "cut.npz"): "expected an npz file",
        str(folder / "broken.npz"): "broken.npz",
        str(folder / "objects.npz"): "objects.npz",
        save(folder / "no_v.npz", v=None): "expected also ['v']",
        save(folder / "nan.npz", k=nan): "got nan at [0, 0, 0]",
        save(folder / "ints.npz", k=np.ones((12, 2, 8), np.int32)): "got int32",
        save(folder / "short.npz", v=np.ones((3, 2, 8), np.float32)): "Trace: v: got shape",
    }


def test_files_that_are_no_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, word in no_traces(tmp_path).items():
        assert cli.main(["verify", "--steps", "2", "--trace", path]) == 2, path
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("quire verify: error: "), err
        assert err.count("\n") == 1, err
        assert word in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "--block-size", "0"],
        ["verify", "--steps", "0"],
        ["verify", "--dtype", "int8"],
        ["verify", "--threads", "0"],
        ["verify", "--heads", "4,4"],  # without --synthetic
        ["verify", "--context", "5"],
        ["verify", "--synthetic", "--heads", "3,2"],
        ["verify", "--synthetic", "--layer", "1"],
        ["verify", "--synthetic", "--trace", "file.npz"],
    ],
)
def test_wrong_values_are_exit_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("quire verify: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["verify", "--steps", "many"], 2),
        (["verify", "--synthetic", "--heads", "8"], 2),
        (["verify", "--help"], 0),
        (["bench", "--help"], 0),
        (["info", "--help"], 0),
    ],
)
def test_argparse(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == status
    out, err = capsys.readouterr()
    assert "usage: quire" in (err if status else out)


def test_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "rms.png"
    assert cli.main([*SYNTHETIC, "--plot", str(picture), "--json"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert json.loads(out)["passed"]
    assert f"wrote {picture}" in err
    axes = quire.verify(3).plot().axes[0]
    assert axes.get_yscale() == "log"
    assert any(np.allclose(line.get_ydata(), 5e-3) for line in axes.get_lines())


def test_plot_without_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["verify", "--plot", str(tmp_path / "x.png")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "pip install 'quire-kv[plot]'" in err
    assert "step" not in err  # told before the work


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify_command, "verify", interrupted)
    assert cli.main(SYNTHETIC) == 130
    assert "interrupted" in capsys.readouterr().err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in (quire.__version__, "instruction sets built", "in use", "threads", "scalar"):
        assert word in printed
    quire.show_config()
    assert capsys.readouterr().out == printed
    compiler = r"^quire [0-9.]+, compiled by (GCC|Clang|AppleClang|MSVC) [0-9]+(\.[0-9]+)+$"
    assert re.match(compiler, printed.splitlines()[0])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"quire {quire.__version__}\n"


def bench_report(seconds: float = 2e-4, memory: float = 1e-4) -> BenchReport:
    roofs = {"memory": memory, "float32 FMA": 5e-5}
    result = CaseResult("decode 512", 2, 1000, 2000.0, seconds, roofs, {"gather": 3e-4})
    return BenchReport("0", "avx2", [result])


def test_bench_measures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        AttentionCase((40, 3), beside_gather=True),
        AttentionCase((40,), 40, threads=2),
        AttentionCase((40,), num_heads=4, shape=benchmark.MLA),
        WriteCase("write_kv", 20),
        WriteCase("append", 20, shape=replace(benchmark.MLA, block_size=8)),
        WriteCase("append", 20, source="float32"),
    ]
    monkeypatch.setattr(benchmark, "cold_bytes", lambda: 1 << 23)  # runs, measures nothing
    monkeypatch.setattr(benchmark, "suite", lambda threads, quick: [(case,) for case in cases])
    assert cli.main(["bench", "--quick", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [case["label"] for case in found["cases"]] == [case.label for case in cases]
    assert all(case["seconds"] > 0 and case["of_ceiling"] > 0 for case in found["cases"])
    assert set(found["cases"][0]["others"]) == {"gather"}
    assert "values in keys" in found["cases"][2]["label"]
    assert found["cases"][2]["num_bytes"] == 40 * 576 * 2  # a value has no bytes of its own
    assert err.splitlines()[-1] == "step 6 of 6"


def test_bench_prints_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "bench", lambda **options: bench_report())
    assert cli.main(["bench"]) == 0
    [line] = [row for row in capsys.readouterr().out.splitlines() if row.startswith("decode 512")]
    assert " ".join(line.split()) == "decode 512 2 200 us 0.0 GB/s 50% memory gather 1.5x"


def test_bench_warns_of_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for memory, warned in ((1e-4, False), (4.6e-4, True)):
        report = bench_report(memory=memory)
        monkeypatch.setattr(benchmark, "bench", lambda report=report, **options: report)
        assert cli.main(["bench"]) == 0
        assert ("WARNING: 230% of memory" in capsys.readouterr().out) == warned


def test_bench_compares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "before.json"
    monkeypatch.setattr(benchmark, "bench", lambda **options: bench_report(seconds=3e-4))
    assert cli.main(["bench", "--json"]) == 0
    file.write_text(capsys.readouterr().out)
    monkeypatch.setattr(benchmark, "bench", lambda **options: bench_report())
    assert cli.main(["bench", "--compare", str(file)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert " ".join(last.split()[:9]) == "decode 512, 2 threads 300 us 200 us 1.50x"
    assert cli.main(["bench", "--compare", str(file), "--json"]) == 0
    ratios = json.loads(capsys.readouterr().out)["times_as_fast"]
    assert ratios == {"decode 512, 2 threads": pytest.approx(1.5)}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "quire bench 1", "cases": []}', None])
def test_bench_refuses_to_compare_with_something_else(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "before.json"
    if text is not None:
        file.write_text(text)
    assert cli.main(["bench", "--compare", str(file)]) == 2
    assert str(file) in capsys.readouterr().err


def test_bench_plots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "bench.png"
    monkeypatch.setattr(benchmark, "bench", lambda **options: bench_report())
    assert cli.main(["bench", "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


def test_as_a_module() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "quire", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert quire.__version__ in run("info").stdout
    failed = run("verify", "--trace", "absent.npz")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
