"""The tokenizer of a loaded model, made when it is first asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from quire.text.load_tokenizer import load_tokenizer
from quire.text.tokenizer import Tokenizer

_MADE: WeakKeyDictionary[Any, Tokenizer | None] = WeakKeyDictionary()


def model_tokenizer(model: Any) -> Tokenizer | None:
    """The tokenizer in a model's files; None where there is none.

    Args:
        model: with a path, as load_model gives it.

    Raises:
        What load_tokenizer raises for a tokenizer that it cannot make.
    """
    if model not in _MADE:
        _MADE[model] = load_tokenizer(model.path) if _has_tokenizer(Path(model.path)) else None
    return _MADE[model]


def _has_tokenizer(path: Path) -> bool:
    if path.is_dir():
        return (path / "tokenizer.json").exists()
    from quire._core import gguf_metadata

    return "tokenizer.ggml.model" in gguf_metadata(path)
