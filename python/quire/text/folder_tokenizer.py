"""A tokenizer from a Hugging Face folder, of the layout that transformers reads and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quire.text.added_tokens import add_tokens
from quire.text.text_libraries import text_library
from quire.text.tokenizer import Tokenizer

_ROLES = [f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]

_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


def folder_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, as load_tokenizer says."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"load_tokenizer: path: got {folder} without tokenizer.json, expected one with it"
        )
    library = text_library("tokenizers", "load_tokenizer")
    try:
        backend = library.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises this very class
        raise ValueError(f"load_tokenizer: {file}: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    config = _json_of(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # an older folder, which says it in a file beside
        config |= _json_of(folder / "special_tokens_map.json")
    roles = {role: config[role] for role in _ROLES if config.get(role) is not None}
    special = {role: _content(token) for role, token in roles.items()}
    add_tokens(backend, _added(folder, config, list(roles.values())))
    # What is put around a text stands in tokenizer.json, and what the configuration says of it
    # (add_bos_token) is for tokenizers without that file: transformers leaves it as well.
    return Tokenizer(backend, chat_templates=_templates(folder, config), special_tokens=special)


def _added(folder: Path, config: dict[str, Any], special: list[Any]) -> dict[str, dict[str, Any]]:
    """What each added token is, by its text, beyond what tokenizer.json has."""
    tokens: dict[str, dict[str, Any]] = {}
    numbered = config.get("added_tokens_decoder", {})
    for _, fields in sorted(numbered.items(), key=lambda entry: int(entry[0])):
        tokens[_content(fields)] = {"special": False, **_flags(fields)}
    special_texts = {_content(token) for token in special}
    for text in _json_of(folder / "added_tokens.json"):
        tokens.setdefault(text, {"special": text in special_texts})
    more = config.get("extra_special_tokens", config.get("additional_special_tokens")) or []
    for token in special:
        tokens.setdefault(_content(token), {**_flags(token), "special": True})
    for token in more.values() if isinstance(more, dict) else more:
        # written as text it is special, as an object it is what that says
        tokens.setdefault(_content(token), {"special": isinstance(token, str), **_flags(token)})
    return tokens


def _templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Chat templates by name; files before what the configuration says."""
    stored = config.get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(stored, str):
        templates["default"] = stored
    elif isinstance(stored, list):
        templates = {entry["name"]: entry["template"] for entry in stored}
    elif isinstance(stored, dict):
        templates = dict(stored)
    if (alone := folder / "chat_template.jinja").is_file():
        templates["default"] = alone.read_text(encoding="utf-8")
    for named in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[named.stem] = named.read_text(encoding="utf-8")
    return templates


def _json_of(file: Path) -> dict[str, Any]:
    """What the file says; nothing where there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"load_tokenizer: {file}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"load_tokenizer: {file}: got {type(found).__name__}, expected a JSON object"
        )
    return found


def _flags(token: Any) -> dict[str, bool]:
    """What else is said of a token that is written as an object."""
    given = token if isinstance(token, dict) else {}
    return {name: bool(given[name]) for name in _FLAGS if name in given}


def _content(token: Any) -> str:
    """The text of a token, which is written as text or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise ValueError(f"load_tokenizer: special token: got {token!r}, expected text")
    return text
