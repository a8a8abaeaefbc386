"""Tokenizers of Hugging Face folders: the same tokens and text as transformers' AutoTokenizer."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from text_cases import CHATML, LLAMA, PLAIN, character_tokenizer, random_texts, stored_tokenizer

from quire.text import Tokenizer, load_tokenizer

pytest.importorskip("tokenizers")

ADDED = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
TYPE = {"__type": "AddedToken"}


def folder(place: Path, config: dict[str, Any], **files: Any) -> Path:
    """A copy of the small model's tokenizer, with a configuration and other files."""
    place.mkdir(exist_ok=True)
    shutil.copy(LLAMA / "tokenizer.json", place)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (place / f"{name}.json").write_text(json.dumps(content))
    return place


def auto_tokenizer(place: Path) -> Any:
    transformers: Any = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(place)


def check_that_they_agree(ours: Tokenizer, theirs: Any, texts: list[str]) -> None:
    for text in texts:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special), text
            assert ours.decode(ids, skip_special_tokens=special) == theirs.decode(
                ids, skip_special_tokens=special
            )


CONFIGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "bos": {"bos_token": "<|endoftext|>", "add_bos_token": True},
    "bos and eos": {
        "bos_token": {"content": "<s>", **ADDED, "lstrip": True, **TYPE},
        "eos_token": "<|endoftext|>",
        "extra_special_tokens": ["<x>", {"content": "<y>", **ADDED, "rstrip": True, **TYPE}],
    },
    "added tokens": {
        "added_tokens_decoder": {
            "0": {"content": "<|endoftext|>", "special": True, **ADDED},
            "4096": {"content": "<|im_start|>", "special": True, **ADDED},
            "4097": {"content": "<|im_end|>", "special": True, **ADDED},
            "4098": {"content": "capital", "special": False, **ADDED, "lstrip": True},
        },
        "eos_token": "<|im_end|>",
        "pad_token": None,
        "chat_template": CHATML,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_folders(name: str, tmp_path: Path) -> None:
    place = folder(tmp_path, CONFIGS[name])
    ours, theirs = load_tokenizer(place), auto_tokenizer(place)
    texts = ["<s> a <x> b <y>  c", "a  capital b", "<|im_start|> user"]
    check_that_they_agree(ours, theirs, [*texts, *PLAIN, *random_texts(100)])
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.vocab_size == len(theirs)


def test_the_small_models_own_tokenizer() -> None:
    theirs = pytest.importorskip("transformers").PreTrainedTokenizerFast(
        tokenizer_file=str(LLAMA / "tokenizer.json")
    )
    ours = load_tokenizer(LLAMA)
    check_that_they_agree(ours, theirs, [*PLAIN, *random_texts(300)])
    assert ours.vocab_size == 4096
    assert ours.bos_token_id is ours.eos_token_id is ours.chat_template is None
    assert repr(ours) == "Tokenizer(4096 tokens, without a chat template)"


def test_legacy_files(tmp_path: Path) -> None:
    place = folder(
        tmp_path,
        {"add_bos_token": True},
        special_tokens_map={
            "bos_token": {"content": "<bos>", **ADDED},
            "eos_token": "<|endoftext|>",
            "additional_special_tokens": ["<more>"],
        },
        added_tokens={"<bos>": 4096, "plain": 4097},
    )
    ours, theirs = load_tokenizer(place), auto_tokenizer(place)
    texts = ["<bos>a plain text<|endoftext|>", *PLAIN]
    check_that_they_agree(ours, theirs, texts)
    assert ours.bos_token_id == theirs.bos_token_id == 4096
    assert ours.encode("<more>") == [ours.vocab_size - 1]


@pytest.mark.parametrize("prefix", [True, False])
def test_characters_and_bytes(prefix: bool, tmp_path: Path) -> None:
    stored, _ = character_tokenizer(prefix=prefix)
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = load_tokenizer(tmp_path), auto_tokenizer(tmp_path)
    check_that_they_agree(ours, theirs, [*PLAIN, *random_texts(100)])
    assert ours.encode("the cat")[0] == ours.bos_token_id == 1


def test_truncation_and_padding_of_training_are_left(tmp_path: Path) -> None:
    stored = stored_tokenizer()
    stored["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    text = "def f(x):\n    return x + 1\n"
    assert load_tokenizer(tmp_path).encode(text) == load_tokenizer(LLAMA).encode(text)


def test_templates_in_files_and_by_name(tmp_path: Path) -> None:
    place = folder(
        tmp_path,
        {
            "chat_template": [
                {"name": "default", "template": "plain"},
                {"name": "tool_use", "template": "{{ tools | length }} tools"},
            ]
        },
    )
    messages = [{"role": "user", "content": "Hi"}]
    tokenizer = load_tokenizer(place)
    assert tokenizer.apply_chat_template(messages) == "plain"
    assert tokenizer.apply_chat_template(messages, tools=[{}, {}]) == "2 tools"
    (place / "chat_template.jinja").write_text("of the file")
    assert load_tokenizer(place).apply_chat_template(messages) == "of the file"


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"path: got .*nowhere, expected a folder or a GGUF"
    ):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"path: got .* without tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"load_tokenizer: .*tokenizer\.json: "):
        load_tokenizer(tmp_path)
    place = folder(tmp_path / "a", {})
    for wrong, message in (("[]", "got list, expected a JSON object"), ("{", "Expecting")):
        (place / "tokenizer_config.json").write_text(wrong)
        with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {message}"):
            load_tokenizer(place)
    place = folder(tmp_path / "b", {"bos_token": 7})
    with pytest.raises(ValueError, match="special token: got 7, expected text"):
        load_tokenizer(place)
    for entry in ("text", {"name": "default"}, {"name": "default", "template": 3}):
        place = folder(tmp_path / "c", {"chat_template": [entry]})
        with pytest.raises(ValueError, match=r"chat_template: got .* expected a name and a temp"):
            load_tokenizer(place)
    tokenizer = load_tokenizer(LLAMA)
    with pytest.raises(TypeError, match="encode: text: got bytes, expected a string"):
        tokenizer.encode(b"abc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encode: text: got a lone surrogate at 2"):
        tokenizer.encode("ab\ud800")
    for ids, found in (
        ("7", "str"),
        (None, "NoneType"),
        (7, "int"),
        ([1.5], "float at index 0"),
    ):
        with pytest.raises(TypeError, match=rf"^decode: token_ids: got {found}, expected "):
            tokenizer.decode(ids)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="load_tokenizer: path: got NoneType, expected a str or"):
        load_tokenizer(None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"needs tokenizers, expected: pip install 'quire-kv\[te"):
        load_tokenizer(LLAMA)
