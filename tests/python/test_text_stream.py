"""Text as tokens come: what decode gives of all of them, whole characters alone, never changed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from text_cases import LLAMA, PLAIN, character_tokenizer, random_texts

from quire.text import Tokenizer, load_tokenizer

tokenizers: Any = pytest.importorskip("tokenizers")


def characters(*, prefix: bool = True) -> Tokenizer:
    stored, _ = character_tokenizer(prefix=prefix)
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(stored)))


MADE = {
    "bytes": lambda: load_tokenizer(LLAMA),
    "characters": characters,
    "characters, no blank before": lambda: characters(prefix=False),
}


def pieces(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    stream = tokenizer.stream(**options)
    return [*(stream.feed(token) for token in ids), stream.finish()]


@pytest.mark.parametrize("name", MADE)
def test_texts(name: str) -> None:
    tokenizer = MADE[name]()
    for text in [*PLAIN, *random_texts(200)]:
        for skip in (True, False):
            ids = tokenizer.encode(text)
            came = pieces(tokenizer, ids, skip_special_tokens=skip)
            assert "".join(came) == tokenizer.decode(ids, skip_special_tokens=skip)
            assert all("\ufffd" not in piece for piece in came) or "\ufffd" in text


def test_random_tokens_of_bytes() -> None:
    tokenizer = load_tokenizer(LLAMA)
    random = np.random.default_rng(1)
    broken = 0
    for _ in range(300):
        # single bytes for the most part: hardly any is UTF-8
        ids = random.choice([*range(1, 257), *range(1, 257), 0, 300, 3000], 20).tolist()
        came = pieces(tokenizer, ids)
        assert "".join(came) == tokenizer.decode(ids)
        broken += "\ufffd" in "".join(came)
    assert broken > 200


def test_random_tokens_of_characters() -> None:
    tokenizer = characters()
    random = np.random.default_rng(2)
    size = tokenizer.vocab_size
    compared = 0
    for _ in range(400):
        ids = random.integers(0, size, 12)
        # bytes above 0x7f alone are no UTF-8, and decode then replaces their neighbours as well
        ids = ids[(ids < 5 + 0x80) | (ids >= 5 + 256)].tolist()
        assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)
        compared += len(ids)
    assert compared > 1000
    assert pieces(tokenizer, [5 + 0xE2, 5 + 0x82, 5 + 0xAC, 5 + 0xE2]) == [
        "",
        "",
        "€",
        "",
        "\ufffd",
    ]


def test_a_character_comes_when_all_of_it_has_come() -> None:
    tokenizer = load_tokenizer(LLAMA)
    ids = tokenizer.encode("🙂é")
    assert len(ids) == 6
    assert pieces(tokenizer, ids) == ["", "", "", "🙂", "", "é", ""]
    assert pieces(tokenizer, ids[:3]) == ["", "", "", "\ufffd"]


def test_the_blank_before_the_first_word() -> None:
    tokenizer = characters()
    ids = tokenizer.encode("the cat", add_special_tokens=False)
    assert pieces(tokenizer, ids) == ["the", " cat", ""]
    assert pieces(tokenizer, ids, continues=True) == [" the", " cat", ""]


def test_added_tokens_are_text_as_they_are() -> None:
    tokenizer = load_tokenizer(LLAMA)
    assert pieces(tokenizer, [0], skip_special_tokens=False) == ["<|endoftext|>", ""]
    assert pieces(tokenizer, [0]) == ["", ""]


@pytest.mark.parametrize("token", [-1, 1 << 31, 1 << 70])
def test_what_is_no_token(token: int) -> None:
    tokenizer = load_tokenizer(LLAMA)
    with pytest.raises(ValueError, match=rf"stream: token: got {token}, expected a token id"):
        tokenizer.stream().feed(token)
    with pytest.raises(ValueError, match=rf"decode: token: got {token}, expected a token id"):
        tokenizer.decode([5, token])


def test_rows_of_logits_beyond_the_vocabulary_are_no_text() -> None:
    tokenizer = load_tokenizer(LLAMA)
    ids = [tokenizer.vocab_size, *tokenizer.encode("def"), (1 << 31) - 1]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == "def"


def test_an_unknown_decoder() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0, "[UNK]": 1}))
    backend.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(ValueError, match=r"decoder: got .*WordPiece.*expected ByteLevel"):
        Tokenizer(backend).stream()
