"""How a text is cut into words before BPE, by the names that GGUF files give the ways.

A name stands for the "pre_tokenizer" of the tokenizer.json that a family of models has; the names
are those of llama.cpp (docs/gguf.md of github.com/ggml-org/ggml, "tokenizer.ggml.pre").
"""

from __future__ import annotations

from typing import Any

from quire.text.text_libraries import text_library

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _BLANKS
)
_LLAMA_3 = [_WORDS % 3]
_QWEN_2 = [_WORDS.replace("{1,%d}", "")]
_QWEN_3_5 = [
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    + _BLANKS
]
_GPT_2 = [r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"]
_DIGITS = [r"\p{N}", *_GPT_2]
_DEFAULT = [r"[\p{P}\$\+<=>\^~\|]+", *_GPT_2, r"\p{N}+", r"[0-9][0-9][0-9]"]

# Each expression cuts further what those before it left.
_EXPRESSIONS = {
    "default": _DEFAULT,
    **dict.fromkeys(("gpt-2", "gpt2", "olmo", "mpt", "jais", "trillion"), _GPT_2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS),
    **dict.fromkeys(("exaone", "minerva-7b"), _DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3"), _LLAMA_3),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan"), _QWEN_2),
    "qwen35": _QWEN_3_5,
}
# Words that are tokens are not built from merges, in the families of these names.
_WHOLE_WORDS = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3"})
# Text is put into Unicode's composed form first.
_COMPOSED = frozenset({"qwen2", "deepseek-r1-qwen", "qwen35"})


def check_name(name: str) -> None:
    """Raises ValueError for a way of cutting that is not known."""
    if name not in _EXPRESSIONS:
        raise ValueError(
            f"load_tokenizer: tokenizer.ggml.pre: got {name!r}, expected one of "
            f"{', '.join(_EXPRESSIONS)}"
        )


def cut_words(backend: Any, name: str) -> None:
    """Has a tokenizers.Tokenizer cut words the way of this name, and write bytes as ByteLevel."""
    library = text_library("tokenizers", "load_tokenizer")
    before = library.pre_tokenizers
    steps = [before.Split(library.Regex(words), "isolated") for words in _EXPRESSIONS[name]]
    bytes_of_words = before.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = before.Sequence([*steps, bytes_of_words])
    backend.decoder = library.decoders.ByteLevel()
    if name in _COMPOSED:
        backend.normalizer = library.normalizers.NFC()


def takes_whole_words(name: str) -> bool:
    """Whether a word that is a token is taken as it is, without merging its characters."""
    return name in _WHOLE_WORDS


def begins_with_bos(name: str) -> bool:
    """Whether a text begins with the bos token where the file does not say."""
    return name in _WHOLE_WORDS
