"""Engines with strings: prompts that are text, answers as text, and what ends them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
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


@pytest.mark.parametrize(
    ("stop", "error", "message"),
    [
        ("", ValueError, "an empty string at index 0, expected text"),
        (["a", ""], ValueError, "an empty string at index 1, expected text"),
        ([1.5], TypeError, "float at index 0, expected an int"),
        (["a", None], TypeError, "NoneType at index 0"),
        (None, TypeError, "NoneType, expected a str, a token id, or a list"),
        (1.5, TypeError, "float, expected a str, a token id, or a list"),
        (b"ab", TypeError, "bytes, expected a str, a token id, or a list"),
        (-1, IndexError, "-1 at index 0, expected 0 to 4095"),
    ],
)
def test_bad_stops_are_refused(
    engine: quire.Engine, stop: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"^Engine\.submit: stop: got {message}"):
        engine.submit(PROMPT, stop=stop)
    assert not engine.has_unfinished


def test_a_token_of_numpy_stops_as_an_int_does(engine: quire.Engine, plain: quire.Request) -> None:
    ends = [
        engine.generate([PROMPT], max_tokens=40, ignore_eos=True, stop=stop)[0].token_ids
        for stop in (plain.token_ids[5], np.int64(plain.token_ids[5]))
    ]
    assert ends[0] == ends[1]
    assert len(ends[0]) <= 6


def test_what_is_no_prompt(engine: quire.Engine) -> None:
    bad: Any = b"ab"  # whose items are ints
    with pytest.raises(TypeError, match=r"^Engine\.submit: prompt: got bytes, expected a str or "):
        engine.submit(bad)
    with pytest.raises(ValueError, match=r"^Engine\.submit: prompt: got 8193 tokens, expected at "):
        engine.submit([1] * 8193)
    for bad in (None, 5):
        with pytest.raises(TypeError, match=r"^Engine\.generate: prompts: got .*, expected sev"):
            engine.generate(bad)
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
    plain = TokenBytes({"type": "Sequence", "decoders": []})  # tokens are the bytes of their text

    def text(stop: list[str]) -> AnswerText:
        return AnswerText(TextStream(plain, words.__getitem__, continues=True), stop, [3])

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
