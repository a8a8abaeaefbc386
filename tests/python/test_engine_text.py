"""Engines with strings: prompts that are text, answers as text, and what ends them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from real_models import FOLDER

import quire
from quire.request import AnswerText
from quire.text import TextStream
from quire.text.text_stream import TokenBytes

PROMPT = "def add(a, b):\n    return"


@pytest.fixture(scope="module")
def engine() -> quire.Engine:
    pytest.importorskip("tokenizers")
    return quire.Engine(quire.load_model(FOLDER / "pystdlib-llama"), num_blocks=64)


@pytest.fixture(scope="module")
def plain(engine: quire.Engine) -> quire.Request:
    return engine.generate([PROMPT], max_tokens=40, ignore_eos=True)[0]


def test_text_is_what_its_tokens_are(engine: quire.Engine, plain: quire.Request) -> None:
    tokenizer = engine.model.tokenizer
    assert tokenizer is not None
    assert plain.prompt_ids == tokenizer.encode(PROMPT)
    assert plain.text == tokenizer.decode(plain.token_ids)
    assert len(plain.text) > 20


def test_text_grows_with_its_tokens(engine: quire.Engine, plain: quire.Request) -> None:
    request = engine.submit(PROMPT, max_tokens=40, ignore_eos=True)
    texts = [request.text]
    while request.finish_reason is None:
        assert engine.step() == [request]
        texts.append(request.text)
    assert texts[0] == ""
    assert texts[-1] == plain.text
    assert all(later.startswith(text) for text, later in pairwise(texts))
    assert len(set(texts)) > 10


def test_a_stop_string_ends_a_text_wherever_tokens_are_cut(
    engine: quire.Engine, plain: quire.Request
) -> None:
    """Every short piece of the answer as a stop string: most reach over the borders of tokens."""
    text = plain.text
    stops = [text[i : i + 4] for i in range(0, len(text) - 4, 5)]
    requests = [
        engine.submit(PROMPT, max_tokens=40, ignore_eos=True, stop=[stop, "never there"])
        for stop in stops
    ]
    while engine.has_unfinished:
        engine.step()
    tokenizer = engine.model.tokenizer
    assert tokenizer is not None
    for stop, request in zip(stops, requests, strict=True):
        assert request.finish_reason == "stop"
        assert request.text == text[: text.index(stop)]
        tokens = request.token_ids
        assert tokens == plain.token_ids[: len(tokens)]
        assert stop in tokenizer.decode(tokens)  # up to the token that completes it, no further
        assert stop not in tokenizer.decode(tokens[:-1])
    assert engine.stats().running == 0


def test_one_stop_string_needs_no_list(engine: quire.Engine, plain: quire.Request) -> None:
    stop = plain.text[5:8]
    [request] = engine.generate([PROMPT], max_tokens=40, ignore_eos=True, stop=stop)
    assert request.text == plain.text[: plain.text.index(stop)]


def test_text_that_could_become_a_stop_string_is_not_lost(
    engine: quire.Engine, plain: quire.Request
) -> None:
    [request] = engine.generate(
        [PROMPT], max_tokens=40, ignore_eos=True, stop=[plain.text[-3:] + "and more"]
    )
    assert request.finish_reason == "length"
    assert request.text == plain.text


def test_a_stop_token_is_no_text(engine: quire.Engine, plain: quire.Request) -> None:
    token = plain.token_ids[6]
    first = plain.token_ids.index(token)
    [request] = engine.generate([PROMPT], max_tokens=40, ignore_eos=True, stop=[token])
    tokenizer = engine.model.tokenizer
    assert tokenizer is not None
    assert request.token_ids == plain.token_ids[: first + 1]
    assert request.text == tokenizer.decode(plain.token_ids[:first])


def test_bad_stops_are_refused(engine: quire.Engine) -> None:
    with pytest.raises(ValueError, match="got an empty string"):
        engine.submit(PROMPT, stop=[""])
    with pytest.raises(TypeError, match=r"Engine\.submit: stop: got float"):
        engine.submit(PROMPT, stop=[1.5])  # type: ignore[list-item]
    assert not engine.has_unfinished


def test_a_model_without_a_tokenizer_answers_token_ids(tmp_path: Any) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(FOLDER / "pystdlib-llama" / name)
    engine = quire.Engine(quire.load_model(tmp_path), num_blocks=16)
    [request] = engine.generate([[1, 2, 3]], max_tokens=2, ignore_eos=True)
    assert len(request.token_ids) == 2
    for call in (
        lambda: engine.submit("text"),
        lambda: engine.submit([1], stop="x"),
        lambda: request.text,
    ):
        with pytest.raises(ValueError, match="got a model without a tokenizer"):
            call()


def test_tokens_after_a_stop_string_are_not_taken() -> None:
    words = ["ab", "c", "de", "<end>", "f"]

    def text(stop: list[str]) -> AnswerText:
        return AnswerText(
            TextStream(TokenBytes(None), words.__getitem__, continues=True), stop, [3]
        )

    def parts() -> Iterator[list[int]]:
        yield from ([0], [1, 2], [3])

    whole = text([])
    for tokens in parts():
        whole.take(tokens)
    assert (str(whole), whole.num_tokens, whole.stopped) == ("abcde", 4, False)
    cut = text(["bcd"])
    for tokens in parts():
        cut.take(tokens)
    assert (str(cut), cut.num_tokens, cut.stopped) == ("a", 3, True)
