"""Perplexity by windows, against sums over each token's own window."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeModel
from text_cases import MODELS

from quire import load_model
from quire.perplexity import Perplexity, perplexity


def nats_one_by_one(ids: list[int], context: int, stride: int) -> tuple[float, int]:
    """The mean over tokens, each from the first window that reaches it; and the windows."""
    model = FakeModel(None, vocab_size=50)
    begins = [0]
    while begins[-1] + context < len(ids):
        begins.append(begins[-1] + stride)
    total = 0.0
    for place in range(1, len(ids)):
        begin = next(begin for begin in begins if place < begin + context)
        row = model.logits(ids[begin:place])[-1].astype(np.float64)
        total -= row[ids[place]] - math.log(np.exp(row).sum())
    return total / (len(ids) - 1), len(begins)


@pytest.mark.parametrize("length", [2, 3, 16, 17, 100, 257])
@pytest.mark.parametrize(("context", "stride"), [(2, 1), (16, 5), (16, 15), (100, 1), (256, 128)])
def test_windows(length: int, context: int, stride: int) -> None:
    ids = np.random.default_rng(length).integers(0, 50, length).tolist()
    model = FakeModel(None, vocab_size=50)
    told: list[tuple[int, int]] = []
    found = perplexity(
        model, ids, context=context, stride=stride, progress=lambda *done: told.append(done)
    )
    nats, windows = nats_one_by_one(ids, context, stride)
    assert found.num_windows == windows == len(model.windows) == len(told)
    assert found.num_tokens == length - 1
    assert math.isclose(found.nats, nats, rel_tol=1e-12)
    assert math.isclose(found.perplexity, math.exp(nats), rel_tol=1e-12)
    assert told[-1] == (length, length)
    assert all(len(window) <= context for window in model.windows)


@pytest.mark.parametrize("name", ["pystdlib-llama", "pystdlib-qwen3_5"])
def test_real_models(name: str) -> None:
    """One window is all of the text, as transformers computed it in float32."""
    reference = np.load(MODELS / name / "reference.npz")
    model = load_model(MODELS / name, weights="float32")
    nats = reference["long_nll"].astype(np.float64)
    ids = reference["long_ids"]
    found = perplexity(model, ids, context=len(ids), stride=1)
    assert found.num_windows == 1
    assert abs(found.nats - nats.mean()) < 2e-5
    # the first tokens are the first window's, whatever comes after them
    first = perplexity(model, ids[:401], context=401, stride=400)
    assert abs(first.nats - nats[:400].mean()) < 2e-5


def test_a_model_that_knows_nothing_is_as_unsure_as_there_are_tokens() -> None:
    class Unsure(FakeModel):
        def logits(self, token_ids: Any, *, num_threads: int | None = None) -> Any:
            return np.full((len(token_ids), 50), 3e4, np.float32)

    found = perplexity(Unsure(None), [1, 2, 3], context=3, stride=2)
    assert math.isclose(found.perplexity, 50, rel_tol=1e-12)
    assert json.loads(json.dumps(found.as_dict()))["num_windows"] == 1


def test_it_says_all_of_it() -> None:
    found = Perplexity(num_tokens=1499, nats=1.5, context=512, stride=256, num_windows=5)
    assert str(found) == (
        "perplexity 4.4817, 1.500000 nats a token over 1499 tokens; 5 windows of 512, stride 256"
    )
    assert Perplexity(1, 1e4, 2, 1, 1).perplexity == math.inf


@pytest.mark.parametrize(
    ("ids", "context", "stride", "message"),
    [
        ([1], 8, 4, "token_ids: got 1 tokens, expected at least 2"),
        ([1, 2], 1, 1, "context: got 1, expected 2 to 4096"),
        ([1, 2], 4097, 1, "context: got 4097, expected 2 to 4096"),
        ([1, 2], 8, 0, "stride: got 0, expected 1 to 7"),
        ([1, 2], 8, 8, "stride: got 8, expected 1 to 7"),
    ],
)
def test_what_is_refused(ids: list[int], context: int, stride: int, message: str) -> None:
    model = FakeModel(None)
    with pytest.raises(ValueError, match=f"perplexity: {message}"):
        perplexity(model, ids, context=context, stride=stride)
    assert model.windows == []
