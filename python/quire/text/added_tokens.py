"""Tokens that are found in a text before it is cut into words, and those around a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.text.text_libraries import text_library


def add_tokens(backend: Any, tokens: Mapping[str, Mapping[str, Any]]) -> None:
    """Has a tokenizers.Tokenizer find these tokens as they are written; those it has stay.

    Args:
        tokens: by text, which "special", "lstrip", "rstrip", "single_word" and "normalized" they
            are; a special token is looked for in the text before it is normalised.
    """
    library = text_library("tokenizers", "load_tokenizer")
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_tokens(
        [
            library.AddedToken(text, **{"normalized": not fields.get("special", False), **fields})
            for text, fields in tokens.items()
            if text not in known
        ]
    )


def begin_and_end(backend: Any, begin: str | None, end: str | None) -> None:
    """Has encode put these tokens around a text, and no others."""
    processors = text_library("tokenizers.processors", "load_tokenizer")
    around = [token for token in (begin, end) if token is not None]
    for token in around:
        if backend.token_to_id(token) is None:
            raise ValueError(
                f"load_tokenizer: special token: got {token!r}, expected one of the vocabulary"
            )
    single = [*([begin] if begin else []), "$A", *([end] if end else [])]
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[*single, *(f"{piece}:1" for piece in single[:-1] if piece != "$A"), "$B:1"],
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(around)],
    )
