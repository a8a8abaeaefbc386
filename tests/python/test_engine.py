"""Engines of the small real models: what they answer, and what they refuse."""

from __future__ import annotations

import signal
import threading
from typing import Any

import numpy as np
import pytest
from real_models import MODELS, Reference

import quire


def engine_of(model: quire.Model, **options: Any) -> quire.Engine:
    return quire.Engine(model, **{"dtype": "float32", "num_blocks": 64, **options})


@pytest.fixture(scope="module", params=MODELS)
def reference(request: pytest.FixtureRequest) -> Reference:
    return Reference(request.param)


@pytest.fixture(scope="module")
def llama() -> Reference:
    return Reference("pystdlib-llama")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch_tokens": 7},
        {"max_batch_tokens": 1},
        {"num_blocks": 14, "block_size": 16, "prefix_cache": False},
        {"num_blocks": 14, "block_size": 16},
        {"num_blocks": 120, "block_size": 3, "max_sequences": 3},
    ],
    ids=["together", "chunks", "token by token", "preempted", "preempted, cache", "three"],
)
def test_greedy_tokens_are_those_of_transformers(
    reference: Reference, options: dict[str, Any]
) -> None:
    engine = engine_of(reference.model, **options)
    for _ in range(2):  # then from the prefix cache
        requests = engine.generate(reference.prompts, max_tokens=64, ignore_eos=True)
        for request, expected in zip(requests, reference.greedy, strict=True):
            assert request.token_ids == expected
        engine.check()
    stats = engine.stats()
    assert stats.pool.used == stats.pool.cached
    assert (stats.preemptions > 0) == (stats.pool.num_blocks == 14)
    if stats.prefix_cache_reason == "on" and stats.pool.num_blocks == 64:
        expected_hits = [len(prompt) - 1 for prompt in reference.prompts]
        assert [request.num_cached_tokens for request in requests] == expected_hits
    if stats.prefix_cache_reason != "on":
        assert all(request.num_cached_tokens == 0 for request in requests)


def test_logprobs_are_log_softmax(llama: Reference) -> None:
    [request] = engine_of(llama.model).generate(
        llama.prompts[:1], max_tokens=3, logprobs=4, ignore_eos=True
    )
    known = llama.prompts[0] + request.token_ids
    logits = llama.model.logits(known).astype(np.float64)
    for i, told in enumerate(request.logprobs):
        row = logits[len(llama.prompts[0]) - 1 + i]
        expected = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert told.token_id == request.token_ids[i]
        assert told.logprob == pytest.approx(expected[told.token_id], abs=1e-4)
        assert len(told.top) == 4
        for token, logprob in told.top:
            assert logprob == pytest.approx(expected[token], abs=1e-4)
        assert told.top[0][0] == expected.argmax()


def test_sampling_depends_on_seed_alone(llama: Reference) -> None:
    options = {"max_tokens": 20, "temperature": 1.0, "ignore_eos": True}
    prompt = llama.prompts[0]
    alone = engine_of(llama.model).generate([prompt], seed=3, **options)[0].token_ids
    engine = engine_of(llama.model)
    others = [engine.submit(llama.prompts[1], seed=i, **options) for i in range(3)]
    among = engine.submit(prompt, seed=3, **options)
    other_seed = engine.submit(prompt, seed=4, **options)
    while engine.has_unfinished:
        engine.step()
    assert among.token_ids == alone
    assert other_seed.token_ids != alone
    assert len({tuple(request.token_ids) for request in others}) == 3


def test_cancel_frees_blocks_within_a_step(llama: Reference) -> None:
    engine = engine_of(llama.model, prefix_cache=False)
    request = engine.submit(llama.prompts[0], max_tokens=100, ignore_eos=True)
    assert engine.step() == [request]
    assert engine.stats().pool.used > 0
    request.cancel()
    assert request.finish_reason == "cancelled"
    assert engine.has_unfinished
    assert engine.step() == []
    assert engine.stats().pool.used == 0
    assert not engine.has_unfinished
    assert len(request.token_ids) == 1


def test_ids_of_any_kind(llama: Reference) -> None:
    engine = engine_of(llama.model)
    prompt = llama.prompts[0][:8]
    kinds = [prompt, tuple(prompt), np.array(prompt), np.array(prompt, np.int32), iter(prompt)]
    answers = [r.token_ids for r in engine.generate(kinds, max_tokens=4, ignore_eos=True)]
    assert answers == [answers[0]] * len(kinds)


def test_stop_tokens_end_an_answer(llama: Reference) -> None:
    engine = engine_of(llama.model)
    expected = llama.greedy[0]
    first = expected.index(expected[5])
    options = {"max_tokens": 64, "ignore_eos": True, "stop": [expected[5]]}
    request = engine.generate(llama.prompts[:1], **options)[0]
    assert request.token_ids == expected[: first + 1]
    assert request.finish_reason == "stop"


def test_what_is_refused_leaves_nothing(llama: Reference) -> None:
    engine = engine_of(llama.model)
    with pytest.raises(ValueError, match='Engine: draft: got "eagle", expected one of "none"'):
        quire.Engine(llama.model, draft="eagle")
    with pytest.raises(TypeError, match=r"Engine: model: got int, expected a Model"):
        quire.Engine(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prompts: got the string"):
        engine.generate("one text")
    with pytest.raises(TypeError, match=r"Engine.submit: prompt: got float"):
        engine.submit([1, 2.5])
    with pytest.raises(ValueError, match=r"Engine.submit: temperature: got -1"):
        engine.submit([1], temperature=-1)
    with pytest.raises(quire.OutOfBlocks, match=r"take \d+ blocks of 16 tokens, expected at most"):
        engine.submit([1] * 900, max_tokens=200)
    with pytest.raises(ValueError, match="positions"):
        engine.submit([1], max_tokens=10**9)
    with pytest.raises(IndexError, match="prompt: got 10000000 at index 1"):
        engine.generate([[1, 2], [3, 10_000_000]])  # the first one was queued
    engine.step()
    stats = engine.stats()
    assert (stats.waiting, stats.running, stats.pool.used) == (0, 0, 0)


def test_threads_submit_while_one_steps(llama: Reference) -> None:
    engine = engine_of(llama.model)
    expected = [answer[:6] for answer in llama.greedy]
    wrong: list[int] = []
    left = threading.Semaphore(0)

    def ask(i: int) -> None:
        request = engine.submit(llama.prompts[i % 4], max_tokens=6, ignore_eos=True)
        while request.finish_reason is None:
            left.acquire(timeout=0.002)
        if request.token_ids != expected[i % 4]:
            wrong.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        engine.step()
    assert wrong == []
    assert engine.stats().finished == 12


def test_stats_say_what_was_done(llama: Reference) -> None:
    engine = quire.Engine(llama.model, max_sequences=2)
    engine.generate(llama.prompts[:1], max_tokens=5, ignore_eos=True)
    stats = engine.stats()
    assert stats.prompt_tokens == len(llama.prompts[0])
    assert (stats.generated_tokens, stats.steps, stats.finished) == (5, 5, 1)
    assert stats.step_seconds > stats.forward_seconds > 0
    assert "room for 2 sequences" in stats.num_blocks_reason
    assert "1 finished" in repr(stats)
    assert "1 finished" in repr(engine)


class Stopped(Exception):
    """What a handler raises."""


def test_an_interrupted_step_changes_nothing(reference: Reference) -> None:
    """Signals come at any time; those that meet a step end it, and the next one goes on."""

    def stop(*_: object) -> None:
        raise Stopped

    long_prompt = (reference.prompts[1] * 200)[:4000]
    engine = engine_of(reference.model, num_blocks=600, max_batch_tokens=4096, num_threads=1)
    [expected] = engine.generate([long_prompt], max_tokens=2, ignore_eos=True)
    former = signal.signal(signal.SIGALRM, stop)
    try:
        for attempt in range(30):
            request = engine.submit(
                long_prompt, max_tokens=2, ignore_eos=True, namespace=f"cold {attempt}"
            )
            signal.setitimer(signal.ITIMER_REAL, 0.07)  # calls look for signals every 50 ms
            try:
                while request.finish_reason is None:
                    engine.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stopped:
                engine.check()
                while request.finish_reason is None:
                    engine.step()
            assert request.token_ids == expected.token_ids
            if engine.stats().failed_steps > 0:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert engine.stats().failed_steps > 0
    stats = engine.stats()
    assert stats.pool.used == stats.pool.cached
