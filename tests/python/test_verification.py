"""quire.verify: passes on the real trace, and fails where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire
from quire import verification
from quire.trace import load_trace, shipped_trace


def test_the_shipped_trace() -> None:
    trace = shipped_trace()
    assert trace.q.shape == (200, 8, 64)
    assert trace.k.shape == trace.v.shape == (2048, 2, 64)
    report = quire.verify(12)
    assert report.passed
    assert report.rms.shape == (12,)
    assert 0 < report.max_abs < 1e-4
    assert set(report.results) == {"fused", "gather"}
    json.dumps(report.as_dict())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_synthetic_with_forks_and_truncations(dtype: str) -> None:
    report = quire.verify(
        30,
        synthetic=True,
        heads=(6, 3),
        head_dim=40,
        v_head_dim=24,
        context=50,
        batch=3,
        block_size=7,
        dtype=dtype,
        forks=True,
        truncations=True,
    )
    assert report.passed
    assert report.settings["copies_on_write"] > 0


def test_a_trace_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {
        name: random.standard_normal((90, heads, 16)).astype(np.float32)
        for name, heads in (("q", 4), ("k", 2), ("v", 2))
    }
    np.savez(tmp_path / "mine.npz", **arrays)  # type: ignore[arg-type]
    assert quire.verify(10, trace=tmp_path / "mine.npz").passed
    np.savez(tmp_path / "layers.npz", **{f"layer7_{n}": a for n, a in arrays.items()})  # type: ignore[arg-type]
    assert len(load_trace(tmp_path / "layers.npz", layer=7).k) == 90
    with pytest.raises(ValueError, match="load_trace: path: got a file with .* expected"):
        load_trace(tmp_path / "layers.npz", layer=8)
    with pytest.raises(ValueError, match="verify: steps: got 91, expected at most 90"):
        quire.verify(91, trace=tmp_path / "mine.npz")


def corrupt_block(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """From step 3 on, fused and gather read a pool in which one written block is changed."""
    calls = {"n": 0}
    honest = verification.attend

    def attend(q: Any, tables: Any, *, implementation: str, **options: Any) -> Any:
        calls["n"] += 1
        block = tables[0].blocks[5]
        cache = tables[0].pool.v_cache()
        kept = cache[block].copy()
        if calls["n"] > 9 and implementation != "dense":
            cache[block] = value
        out = honest(q, tables, implementation=implementation, **options)  # type: ignore[call-overload]
        cache[block] = kept
        return out

    monkeypatch.setattr(verification, "attend", attend)


@pytest.mark.parametrize("value", [300.0, np.nan])
def test_a_corrupted_block_fails(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    corrupt_block(monkeypatch, value)
    report = quire.verify(6)
    assert not report.passed
    assert (report.rms[:3] < 5e-3).all()
    assert report.results["fused"].worst_step >= 3
    assert report.contents_exact
    json.dumps(report.as_dict(), allow_nan=False)


def test_wrong_contents_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that goes wrong deceives all implementations alike, but not the plain copy."""
    honest = verification._Run.append

    def append(self: Any, step: int) -> None:
        honest(self, step)
        self.pool.k_cache()[self.tables[0].blocks[3], 0, 0, 0] = 1

    monkeypatch.setattr(verification._Run, "append", append)
    report = quire.verify(3)
    assert all(result.passed for result in report.results.values())
    assert not report.passed


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = quire.verify(4)
    figure = report.plot(tmp_path / "rms.png")
    assert (tmp_path / "rms.png").read_bytes().startswith(b"\x89PNG")
    assert figure.axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps, batch, context: got 0"),
        ({"synthetic": True, "heads": (5, 2)}, "got 5 query heads, expected a multiple of 2"),
        ({"synthetic": True, "heads": (0, 0)}, "heads, head_dim: got"),
        ({"synthetic": True, "trace": "x.npz"}, "trace: got a trace"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, ZeroDivisionError), match=message):
        quire.verify(**options)
