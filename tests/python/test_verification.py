"""quire.verify: passes on what is right, and fails on each kind of wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import quire
from quire import verification
from quire.plain_attention import plain_attention
from quire.scattered_cache import CachedSequence, ScatteredCache
from quire.trace import Synthetic, Trace, shipped_trace

SMALL = Synthetic(heads=(4, 2), head_dim=16, context=40)
BAD_STEP = 3

Attend = Callable[..., Any]


def break_fused(monkeypatch: pytest.MonkeyPatch, broken: Attend) -> None:
    """Let `broken(out, tables)` change what fused gives at the step BAD_STEP."""
    calls = {"fused": 0}
    attend = verification.attend

    def patched(q: Any, tables: Any, **options: Any) -> Any:
        out = attend(q, tables, **options)
        if options["implementation"] == "fused":
            calls["fused"] += 1
            if calls["fused"] == BAD_STEP + 1:
                out = broken(out, tables)
        return out

    monkeypatch.setattr(verification, "attend", patched)


def test_the_shipped_trace_passes() -> None:
    report = quire.verify(20)
    assert report.passed
    assert report.rms.shape == (20,)
    assert (report.rms < 1e-5).all()
    assert 0 < report.max_abs < 1e-4
    assert report.contents_exact
    assert list(report.results) == ["fused", "gather", "dense"]
    assert [result.against for result in report.results.values()] == ["dense", "dense", "numpy"]
    assert all((result.seconds > 0).all() for result in report.results.values())
    assert report.settings["context"] == 2028
    assert report.source.endswith("layer 4")
    assert quire.verify(5, layer=1).passed


def test_the_shipped_trace_is_what_its_readme_says() -> None:
    for layer in (1, 4):
        trace = shipped_trace(layer=layer)
        assert trace.q.shape == (200, 8, 64)
        assert trace.k.shape == trace.v.shape == (2048, 2, 64)
        assert trace.q.dtype == trace.k.dtype == trace.v.dtype == np.float16
    with pytest.raises(ValueError, match="layer2_q"):
        shipped_trace(layer=2)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("block_size", [1, 5, 16, 100])
def test_forks_and_truncations(dtype: str, block_size: int) -> None:
    report = quire.verify(
        24,
        trace=Synthetic(heads=(6, 3), head_dim=33, v_head_dim=20, context=70),
        batch=3,
        dtype=dtype,
        block_size=block_size,
        forks=True,
        truncations=True,
        seed=block_size,
    )
    assert report.passed, str(report)
    assert report.settings["dtype"] == dtype
    if block_size > 1:  # a block of one token is never shared and partly filled
        assert report.settings["copies_on_write"] > 0


@pytest.mark.parametrize("masks", [{"sliding_window": 7}, {"softcap": 2.0}])
def test_masks(masks: dict[str, Any]) -> None:
    assert quire.verify(10, trace=SMALL, batch=2, **masks).passed


def test_from_the_first_token() -> None:
    assert quire.verify(20, trace=Synthetic(context=0, head_dim=8), batch=2).passed


def test_the_seed_decides() -> None:
    def rms(seed: int) -> list[float]:
        report = quire.verify(6, trace=SMALL, seed=seed, forks=True, truncations=True)
        return report.rms.tolist()

    assert rms(1) == rms(1)
    assert rms(1) != rms(2)


def test_blocks_are_scattered_in_poison() -> None:
    cache = ScatteredCache([SMALL.trace(4, (0,))], block_size=4, dtype="float32", seed=0)
    (table,) = cache.tables
    assert (np.abs(np.diff(table.blocks)) > 1).any()
    written = np.isfinite(cache.pool.k_cache()[..., 0, 0]).sum()
    assert written == len(table) == 40
    assert np.isfinite(cache.pool.v_cache()[..., 0, 0]).sum() == 40


def test_sequences_of_a_batch_differ() -> None:
    batch = 4
    traces = verification._sequences(SMALL, None, 5, batch, 0)
    assert len({len(trace.k) for trace in traces}) == batch
    assert len({trace.k[-1].tobytes() for trace in traces}) == batch


def test_plain_attention_of_two_tokens() -> None:
    q = np.array([[2.0], [0.0]])  # two query heads over one KV head, head size 1
    k = np.array([[[0.0], [1.0]]])
    v = np.array([[[10.0], [20.0]]])
    weight = np.exp(2) / (1 + np.exp(2))
    none = {"sliding_window": None, "softcap": None}
    assert np.allclose(plain_attention(q, k, v, **none), [[10 + 10 * weight], [15]])
    window = plain_attention(q, k, v, sliding_window=1, softcap=None)
    assert np.allclose(window, [[20], [20]])
    capped = np.exp(np.tanh(2)) / (1 + np.exp(np.tanh(2)))
    assert np.allclose(
        plain_attention(q, k, v, sliding_window=None, softcap=1.0)[0], 10 + 10 * capped
    )


def test_a_wrong_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    break_fused(monkeypatch, lambda out, tables: out + np.float32(6e-3))
    report = quire.verify(6, trace=SMALL)
    assert not report.passed
    assert report.results["fused"].worst_step == BAD_STEP
    assert (report.rms >= 5e-3).sum() == 1
    assert report.results["gather"].passed
    assert report.contents_exact
    assert "FAILED: RMS of fused" in str(report)


def test_a_block_missed_at_one_step_fails_a_stricter_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_a_block(out: Any, tables: Any) -> Any:
        pool = tables[0].pool
        blocks, lengths = quire.pack_tables(tables)
        fewer, shorter = np.delete(blocks, 40, axis=1), lengths - pool.block_size
        q = shipped_trace().q[-6 + BAD_STEP][None].astype(np.float32)
        return quire.paged_attention(q, pool.k_cache(), pool.v_cache(), fewer, shorter)

    break_fused(monkeypatch, without_a_block)
    report = quire.verify(6, bar=1e-5)
    assert not report.passed
    assert report.results["fused"].worst_step == BAD_STEP
    assert (report.rms < 1e-5).sum() == 5
    assert report.as_dict()["bar"] == 1e-5


def test_one_wrong_sequence_is_not_averaged_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(out: Any, tables: Any) -> Any:
        out[5] += 6e-3
        return out

    break_fused(monkeypatch, broken)
    assert not quire.verify(5, trace=SMALL, batch=8).passed


@pytest.mark.parametrize("trace", [None, SMALL])
def test_mixed_up_sequences_fail(monkeypatch: pytest.MonkeyPatch, trace: Any) -> None:
    """Of the real trace too, whose attention is local: far context alone tells nothing apart."""
    break_fused(monkeypatch, lambda out, tables: np.roll(out, 1, axis=0))
    assert not quire.verify(5, trace=trace, batch=3).passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_fail(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    def broken(out: Any, tables: Any) -> Any:
        out[0, 0, 0] = value
        return out

    break_fused(monkeypatch, broken)
    report = quire.verify(6, trace=SMALL)
    assert not report.passed
    assert report.results["fused"].worst_step == BAD_STEP
    text = json.dumps(report.as_dict(), allow_nan=False)
    assert json.loads(text)["implementations"]["fused"]["rms"][BAD_STEP] is None
    assert "FAILED" in str(report)


def test_reading_an_unwritten_slot_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = verification.attend

    def one_too_far(q: Any, tables: Any, **options: Any) -> Any:
        out = attend(q, tables, **options)
        if options["implementation"] == "fused" and len(tables[0]) % tables[0].pool.block_size:
            pool = tables[0].pool
            blocks, lengths = quire.pack_tables(tables)
            out = quire.paged_attention(q, pool.k_cache(), pool.v_cache(), blocks, lengths + 1)
        return out

    monkeypatch.setattr(verification, "attend", one_too_far)
    report = quire.verify(6, trace=SMALL)
    assert not report.passed
    assert np.isnan(report.rms).any()


def test_a_corrupted_block_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused, gather and dense agree on the wrong block; NumPy and the contents show it."""

    def corrupt(out: Any, tables: Any) -> Any:
        tables[0].pool.v_cache()[tables[0].blocks[1]] = 100
        return out

    break_fused(monkeypatch, corrupt)
    report = quire.verify(6, trace=SMALL)
    assert not report.passed
    assert report.exact.tolist() == [True] * BAD_STEP + [False] * (6 - BAD_STEP)
    assert not report.results["dense"].passed
    assert f"WRONG at step {BAD_STEP}" in str(report)


@pytest.mark.parametrize("value", [300.0, np.nan])
def test_a_block_that_only_dense_reads_right_fails(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """The contents are whole again after each call: here RMS alone has to show it."""
    attend = verification.attend
    calls = {"n": 0}

    def corrupted(q: Any, tables: Any, **options: Any) -> Any:
        calls["n"] += 1
        cache, block = tables[0].pool.v_cache(), tables[0].blocks[5]
        kept = cache[block].copy()
        if calls["n"] > 3 * BAD_STEP and options["implementation"] != "dense":
            cache[block] = value
        out = attend(q, tables, **options)
        cache[block] = kept
        return out

    monkeypatch.setattr(verification, "attend", corrupted)
    report = quire.verify(6)
    assert report.contents_exact
    for name in ("fused", "gather"):
        assert not report.results[name].passed
        assert (report.results[name].rms[:BAD_STEP] < 5e-3).all()
    assert report.results["dense"].passed
    json.dumps(report.as_dict(), allow_nan=False)


def test_one_flipped_bit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little for any RMS to show."""

    def flip(out: Any, tables: Any) -> Any:
        row = tables[0].pool.k_cache()[tables[0].blocks[0], 0, 0]
        row.view(np.uint16)[0] ^= 1
        return out

    break_fused(monkeypatch, flip)
    report = quire.verify(6, trace=SMALL)
    assert all(result.passed for result in report.results.values())
    assert not report.contents_exact
    assert not report.passed


def test_a_lost_append_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    append = CachedSequence.append_until

    def repeating(self: CachedSequence, num_tokens: int) -> None:
        append(self, num_tokens)
        if num_tokens == SMALL.context + BAD_STEP + 1:  # the token before, once more
            self.table.truncate(num_tokens - 1)
            before = slice(num_tokens - 2, num_tokens - 1)
            self.table.append(self.trace.k[before], self.trace.v[before])

    monkeypatch.setattr(CachedSequence, "append_until", repeating)
    report = quire.verify(6, trace=SMALL)
    assert not report.passed
    assert int(np.argmin(report.exact)) == BAD_STEP


def test_a_fork_that_writes_into_shared_blocks_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def into_shared(self: ScatteredCache, table: quire.BlockTable) -> None:
        self.pool.k_cache()[table.blocks[-1]] = 1e4

    monkeypatch.setattr(ScatteredCache, "_append_garbage", into_shared)
    assert not any(quire.verify(12, trace=SMALL, forks=True, seed=s).passed for s in range(3))


def test_another_implementation_than_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "last_implementation", lambda: "gather")
    with pytest.raises(RuntimeError, match="gather ran where fused was asked for"):
        quire.verify(1, trace=SMALL)


def arrays(tokens: int = 10, dtype: Any = np.float32) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "q": random.standard_normal((tokens, 4, 8)).astype(dtype),
        "k": random.standard_normal((tokens, 2, 8)).astype(dtype),
        "v": random.standard_normal((tokens, 2, 8)).astype(dtype),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_trace_of_ones_own(dtype: Any) -> None:
    report = quire.verify(4, trace=Trace("mine", **arrays(dtype=dtype)), dtype="float32")
    assert report.passed
    assert report.settings["context"] == 6


def test_wrong_arguments() -> None:
    own = Trace("mine", **arrays())
    for options, kind, message in (
        ({"steps": 0}, ValueError, "verify: steps: got 0, expected at least 1"),
        ({"steps": 2.5}, TypeError, "verify: steps: got float"),
        ({"steps": 201}, ValueError, "verify: steps: got 201, expected 1 to 200"),
        ({"batch": 0}, ValueError, "verify: batch: got 0"),
        ({"block_size": 0}, ValueError, "verify: block_size: got 0"),
        ({"bar": 0}, ValueError, "verify: bar: got 0"),
        ({"bar": float("nan")}, ValueError, "verify: bar: got nan"),
        ({"seed": -1}, ValueError, "verify: seed: got -1"),
        ({"dtype": "int8"}, TypeError, "expected float32, float16 or bfloat16"),
        ({"num_threads": 0}, ValueError, "num_threads: got 0"),
        ({"sliding_window": 0}, ValueError, "sliding_window: got 0"),
        ({"layer": 3}, ValueError, "layer3_q"),
        ({"trace": own, "layer": 1, "steps": 2}, ValueError, "verify: layer: got 1"),
        ({"trace": "there is no such file"}, OSError, "there is no such file"),
    ):
        with pytest.raises(kind, match=message):
            quire.verify(**{"steps": 1, **options})  # type: ignore[arg-type]


def test_wrong_traces() -> None:
    good = arrays()
    for change, kind, message in (
        ({"q": good["q"].astype(np.float64)}, TypeError, "Trace: q: got float64"),
        ({"k": good["k"].astype(np.int32)}, TypeError, "Trace: k: got int32"),
        ({"k": good["k"][0]}, ValueError, r"Trace: k: got shape \(2, 8\)"),
        ({"v": good["v"][:0]}, ValueError, r"Trace: v: got shape \(0, 2, 8\)"),
        ({"v": good["v"][:9]}, ValueError, r"Trace: v: got shape \(9, 2, 8\)"),
        ({"q": good["q"][:, :3]}, ValueError, r"Trace: q: got shape \(10, 3, 8\)"),
        ({"q": good["q"][..., :7]}, ValueError, r"Trace: q: got shape \(10, 4, 7\)"),
        ({"q": np.repeat(good["q"], 2, axis=0)}, ValueError, "at most 10 tokens"),
    ):
        with pytest.raises(kind, match=message):
            Trace("wrong", **{**good, **change})
    good["v"][3, 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"Trace: v: got nan at \[3, 1, 2\], expected finite"):
        Trace("wrong", **good)
    large = arrays()
    large["k"][0] = 1e6
    with pytest.raises(ValueError, match=r"dtype: got float16, expected one that can hold 1e\+06"):
        quire.verify(2, trace=Trace("large", **large))
    for sizes in ({"heads": (3, 2)}, {"heads": (0, 0)}, {"head_dim": 0}, {"context": -1}):
        with pytest.raises(ValueError, match=f"Synthetic: {next(iter(sizes))}"):
            Synthetic(**sizes)  # type: ignore[arg-type]


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    quire.verify(3, trace=SMALL, progress=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 3), (2, 3), (3, 3)]
