"""A tokenizer from the metadata of a GGUF file (docs/gguf.md of github.com/ggml-org/ggml).

Two kinds: "gpt2", BPE of bytes with a list of merges, and "llama", BPE of characters after
SentencePiece, where scores take the place of merges and characters without a token become bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from quire.text import pre_tokenizers
from quire.text.added_tokens import add_tokens, begin_and_end
from quire.text.text_libraries import text_library
from quire.text.tokenizer import Tokenizer

_KEY = "tokenizer.ggml."
_BLANK = "\u2581"  # what SentencePiece writes for a blank


class _Type(IntEnum):
    """What tokenizer.ggml.token_type says of a token."""

    NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file, as load_tokenizer says.

    Args:
        metadata: the file's values by their keys, arrays as lists.
    """
    kind = metadata.get(_KEY + "model")
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"load_tokenizer: {_KEY}model: got {kind!r}, expected 'gpt2' or 'llama'")
    tokens = _array(metadata, "tokens")
    _check_unicode(tokens)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice = next(i for i, token in enumerate(tokens) if vocabulary[token] != i)
        raise ValueError(
            f"load_tokenizer: {_KEY}tokens[{twice}]: got {tokens[twice]!r} again at "
            f"{vocabulary[tokens[twice]]}, expected each token once"
        )
    types = metadata.get(_KEY + "token_type") or [_Type.NORMAL] * len(tokens)
    _check_length("token_type", types, tokens)
    make = _byte_bpe if kind == "gpt2" else _character_bpe
    backend, adds_bos = make(metadata, vocabulary, types)
    add_tokens(
        backend,
        {
            token: {"special": kind == _Type.CONTROL, "normalized": False}
            for token, kind in zip(tokens, types, strict=True)
            if kind in (_Type.CONTROL, _Type.USER_DEFINED)
        },
    )
    special = _special_tokens(metadata, tokens)
    adds_bos = metadata.get(_KEY + "add_bos_token", adds_bos)
    adds_eos = metadata.get(_KEY + "add_eos_token", False)
    begin_and_end(
        backend,
        special.get("bos_token") if adds_bos else None,
        special.get("eos_token") if adds_eos else None,
    )
    templates = {"default": metadata.get("tokenizer.chat_template")}
    for name in metadata.get("tokenizer.chat_templates", ()):
        templates[name] = metadata.get(f"tokenizer.chat_template.{name}")
    return Tokenizer(
        backend,
        chat_templates={name: text for name, text in templates.items() if text is not None},
        special_tokens=special,
    )


def _byte_bpe(
    metadata: Mapping[str, Any], vocabulary: dict[str, int], types: list[int]
) -> tuple[Any, bool]:
    """The tokenizer, and whether a text begins with bos where the file does not say."""
    library = text_library("tokenizers", "load_tokenizer")
    name = metadata.get(_KEY + "pre", "default")
    pre_tokenizers.check_name(name)
    merges = [tuple(merge.split(" ")) for merge in _array(metadata, "merges")]
    for place, merge in enumerate(merges):
        if len(merge) != 2:
            raise ValueError(
                f"load_tokenizer: {_KEY}merges[{place}]: got {' '.join(merge)!r}, "
                "expected two tokens with a blank between"
            )
    whole_words = pre_tokenizers.takes_whole_words(name)
    try:
        model = library.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_words)
    except Exception as error:  # of a merge of what is no token; the library raises this very class
        raise ValueError(f"load_tokenizer: {_KEY}merges: {error}") from error
    backend = library.Tokenizer(model)
    pre_tokenizers.cut_words(backend, name)
    return backend, pre_tokenizers.begins_with_bos(name)


def _character_bpe(
    metadata: Mapping[str, Any], vocabulary: dict[str, int], types: list[int]
) -> tuple[Any, bool]:
    """The tokenizer, and whether a text begins with bos where the file does not say."""
    library = text_library("tokenizers", "load_tokenizer")
    scores = _array(metadata, "scores")
    _check_length("scores", scores, vocabulary)
    kinds = dict(zip(vocabulary, types, strict=True))
    unknown = [token for token, kind in kinds.items() if kind == _Type.UNKNOWN]
    backend = library.Tokenizer(
        library.models.BPE(
            vocab=vocabulary,
            merges=_merges_of(vocabulary, scores, types),
            unk_token=unknown[0] if unknown else None,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    decoders, normalizers = library.decoders, library.normalizers
    to_blanks = normalizers.Replace(" ", _BLANK)
    steps = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get(_KEY + "add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), to_blanks])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = to_blanks
    backend.decoder = decoders.Sequence(steps)
    return backend, True


def _merges_of(
    vocabulary: dict[str, int], scores: list[float], types: list[int]
) -> list[tuple[str, str]]:
    """Every pair of tokens whose text together is a token, those of the highest score first.

    SentencePiece merges the neighbours whose joint token has the highest score (github.com/google/
    sentencepiece, bpe_model.cc); of the pairs of one token, transformers puts lower ids first.
    """
    found = []
    for (token, _), score, kind in zip(vocabulary.items(), scores, types, strict=True):
        if kind != _Type.NORMAL:
            continue
        for cut in range(1, len(token)):
            left = vocabulary.get(token[:cut])
            right = vocabulary.get(token[cut:]) if left is not None else None
            if left is not None and right is not None:
                found.append((-score, left, right, token, cut))
    found.sort()
    return [(token[:cut], token[cut:]) for _, _, _, token, cut in found]


def _special_tokens(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, str]:
    special = {}
    keys = (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    for role, key in keys:
        place = metadata.get(f"{_KEY}{key}_token_id")
        if place is None:
            continue
        if not 0 <= place < len(tokens):
            raise ValueError(
                f"load_tokenizer: {_KEY}{key}_token_id: got {place}, expected below {len(tokens)}"
            )
        special[f"{role}_token"] = tokens[place]
    return special


def _array(metadata: Mapping[str, Any], name: str) -> list[Any]:
    found = metadata.get(_KEY + name)
    if found is None or isinstance(found, str) or not len(found):
        raise ValueError(f"load_tokenizer: {_KEY}{name}: got {found!r}, expected an array")
    return list(found)


def _check_unicode(tokens: list[str]) -> None:
    """What is no UTF-8 in the file has become lone surrogates, which no tokenizer takes."""
    for place, token in enumerate(tokens):
        if not token.isascii() and any("\ud800" <= character <= "\udfff" for character in token):
            raise ValueError(
                f"load_tokenizer: {_KEY}tokens[{place}]: got {token!r}, expected UTF-8"
            )


def _check_length(name: str, values: Any, tokens: Any) -> None:
    if len(values) != len(tokens):
        raise ValueError(
            f"load_tokenizer: {_KEY}{name}: got {len(values)} values, "
            f"expected {len(tokens)}, one for each token"
        )
