"""Tokenizers of GGUF files: the same tokens as the tokenizer.json that the metadata is made of."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from text_cases import (
    CHATML,
    PLAIN,
    byte_vocabulary,
    character_tokenizer,
    random_texts,
    stored_tokenizer,
)

from quire.text import Tokenizer, load_tokenizer
from quire.text.gguf_tokenizer import gguf_tokenizer

tokenizers: Any = pytest.importorskip("tokenizers")

MORE = ["12345 1 22 333 ½ ٣٤", "C'EST don't L'été we'Re", "x\n\n  y\r\n z  ", "a+b==c|d ^e~ $f"]
TEXTS = [*PLAIN, *MORE, *random_texts(150)]

# What the models of these families have as "pre_tokenizer" and "normalizer" in their own files.
SPLIT_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def own_tokenizer(name: str) -> Any:
    """The small model's tokens, cut as the family's own tokenizer.json says."""
    backend = tokenizers.Tokenizer.from_str(json.dumps(stored_tokenizer()))
    before = tokenizers.pre_tokenizers
    rest = before.ByteLevel(add_prefix_space=False, use_regex=False)
    words = before.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "gpt-2":
        backend.pre_tokenizer = words
    elif name == "smollm":
        backend.pre_tokenizer = before.Sequence([before.Digits(individual_digits=True), words])
    else:
        expression = SPLIT_LLAMA_3
        if name == "qwen2":
            expression = expression.replace(r"\p{N}{1,3}", r"\p{N}")
            backend.normalizer = tokenizers.normalizers.NFC()
        else:
            backend.model.ignore_merges = True
        split = before.Split(tokenizers.Regex(expression), "isolated")
        backend.pre_tokenizer = before.Sequence([split, rest])
    return backend


def small(**change: Any) -> dict[str, Any]:
    """The metadata of the small model's tokenizer; a value of None is left out."""
    values = byte_vocabulary(stored_tokenizer()["model"])
    tokens = len(values["tokenizer.ggml.tokens"])
    values["tokenizer.ggml.token_type"] = [3] + [1] * (tokens - 1)
    values |= {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0}
    values |= {f"tokenizer.ggml.{name}": value for name, value in change.items()}
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_bytes(name: str) -> None:
    ours, theirs = gguf_tokenizer(small(pre=name, add_bos_token=False)), own_tokenizer(name)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids, text
        assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("prefix", [True, False])
def test_characters(prefix: bool) -> None:
    stored, metadata = character_tokenizer(prefix=prefix)
    ours = gguf_tokenizer(metadata)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(stored))
    words = ["the cat  ate a hen in the world", "aaaaaaa aaa aa", "<start_of_turn>the\n\ncat"]
    for text in [*TEXTS, *words]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids, text
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ours.encode("the cat\t🙂")) == "the cat\t🙂"
    assert (ours.bos_token_id, ours.eos_token_id) == (1, 2)


def characters_one_by_one(text: str, metadata: dict[str, Any]) -> list[str]:
    """SentencePiece's own way: again and again the neighbours whose joint token scores highest."""
    values = zip(
        metadata["tokenizer.ggml.tokens"],
        metadata["tokenizer.ggml.scores"],
        metadata["tokenizer.ggml.token_type"],
        strict=True,
    )
    scores = {token: score for token, score, kind in values if kind == 1}
    parts = list(text)
    while True:
        joint = [(left + right, -i) for i, (left, right) in enumerate(pairwise(parts))]
        known = [(scores[token], place) for token, place in joint if token in scores]
        if not known:
            return parts
        place = -max(known)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def test_scores_decide_what_is_merged() -> None:
    _, metadata = character_tokenizer(prefix=False)
    tokenizer = gguf_tokenizer(metadata)
    places = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    for text in ("the cat in the world", "aaa aaaa aaaaa", "reon thereat cater", "worldly words"):
        parts = characters_one_by_one(text.replace(" ", "▁"), metadata)
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == [places[part] for part in parts]
        assert len(ids) < len(text)


def test_special_tokens_and_the_template() -> None:
    template = {"tokenizer.chat_template": CHATML}
    more = {
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "{{ tools | length }}",
    }
    tokenizer = gguf_tokenizer(
        {**small(add_bos_token=True, add_eos_token=True), **template, **more}
    )
    assert tokenizer.encode("def") == [0, 522, 0]
    assert tokenizer.encode("def", add_special_tokens=False) == [522]
    assert tokenizer.encode("<|endoftext|>", add_special_tokens=False) == [0]
    assert tokenizer.special_tokens == {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    assert tokenizer.chat_template == CHATML
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, tools=[{}]) == "1"


@pytest.mark.parametrize(("pre", "begins"), [("llama-bpe", True), ("smollm", False)])
def test_whether_bos_begins_a_text_unless_the_file_says(pre: str, begins: bool) -> None:
    assert gguf_tokenizer(small(pre=pre)).encode("def") == ([0, 522] if begins else [522])
    assert gguf_tokenizer(small(pre=pre, add_bos_token=not begins)).encode("def") == (
        [522] if begins else [0, 522]
    )


def test_the_default_way_of_cutting() -> None:
    assert isinstance(gguf_tokenizer(small()), Tokenizer)
    default = gguf_tokenizer(small(pre="default"))
    # punctuation is cut off what follows, and digits go in threes
    for text, cut in (("x.y", ["x", ".", "y"]), ("1234567", ["123", "456", "7"])):
        expected = [token for part in cut for token in default.encode(part)]
        assert default.encode(text) == gguf_tokenizer(small()).encode(text) == expected


def gguf_bytes(metadata: dict[str, Any]) -> bytes:
    """A GGUF file of these values and no tensors."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def typed(value: Any) -> tuple[int, bytes]:
        if isinstance(value, str):
            return 8, text(value)
        if isinstance(value, bool):
            return 7, struct.pack("<B", value)
        if isinstance(value, int):
            return 4, struct.pack("<I", value)
        if isinstance(value, float):
            return 6, struct.pack("<f", value)
        entries = [typed(entry) for entry in value]
        head = struct.pack("<IQ", entries[0][0], len(entries))
        return 9, head + b"".join(entry for _, entry in entries)

    written = b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata))
    for key, value in metadata.items():
        kind, stored = typed(value)
        written += text(key) + struct.pack("<I", kind) + stored
    return written


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_files(kind: str, tmp_path: Path) -> None:
    metadata = small(pre="smollm") if kind == "gpt2" else character_tokenizer()[1]
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(metadata))
    read, made = load_tokenizer(tmp_path / "model.gguf"), gguf_tokenizer(metadata)
    for text in TEXTS:
        assert read.encode(text) == made.encode(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, r"tokenizer\.ggml\.model: got 'bert', expected 'gpt2' or 'llama'"),
        ({"model": None}, r"tokenizer\.ggml\.model: got None, expected"),
        ({"pre": "tekken"}, r"tokenizer\.ggml\.pre: got 'tekken', expected one of default"),
        ({"tokens": None}, r"tokenizer\.ggml\.tokens: got None, expected an array"),
        ({"tokens": ["a", "b", "a"]}, r"ggml\.tokens\[0\]: got 'a' again at 2, expected each"),
        ({"tokens": ["a", "b\udcff"]}, r"tokens\[1\]: got 'b\\udcff', expected UTF-8"),
        ({"merges": None}, r"tokenizer\.ggml\.merges: got None, expected an array"),
        ({"merges": ["a b", "ab"]}, r"merges\[1\]: got 'ab', expected two tokens with a blank"),
        ({"merges": ["a b", "日 本"]}, r"tokenizer\.ggml\.merges: .*日"),
        ({"token_type": [1]}, r"token_type: got 1 values, expected 4096, one for each token"),
        ({"bos_token_id": 4096}, r"bos_token_id: got 4096, expected below 4096"),
        ({"model": "llama", "scores": [0.5]}, r"scores: got 1 values, expected 4096"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="load_tokenizer: .*" + message):
        gguf_tokenizer(small(**change))
