"""Texts and tokenizers that tests of quire.text share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

MODELS = Path(__file__).resolve().parents[1] / "data" / "models"
LLAMA = MODELS / "pystdlib-llama"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

PLAIN = [
    "",
    " ",
    "def f(x):\n    return x + 1\n",
    "The capital of France is Paris.",
    "  two  blanks\tand a tab \r\n\r\n",
    "I'll say it's 1234567.89, WE'LL see",
    "naïve café e\u0301 \u00c5ngstr\u00f6m \u212b",
    "日本語のテキスト 你好、世界",
    "🙂 👩‍👩‍👧 🇫🇷 🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "مرحبا بالعالم  हिन्दी ภาษาไทย",
    "\x00\x01\x7f\u200b\ufeff\ufffd",
    "<|endoftext|> <|im_start|>user<|im_end|>",
    "a<|endoftext|>b",
]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Characters of every plane and of ASCII, in runs of random lengths."""
    random = np.random.default_rng(seed)
    ranges = [(0, 128), (32, 127), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000)]
    ranges += [(0x10000, 0x110000), (0x4E00, 0x9FFF), (0x1F300, 0x1F700)]
    texts = []
    for _ in range(count):
        text = ""
        for _ in range(random.integers(1, 6)):
            low, high = ranges[random.integers(len(ranges))]
            text += "".join(map(chr, random.integers(low, high, random.integers(1, 9)).tolist()))
        texts.append(text)
    return texts


def byte_vocabulary(model: dict[str, Any]) -> dict[str, Any]:
    """The GGUF metadata of a BPE model of bytes, as a tokenizer.json has it."""
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": sorted(model["vocab"], key=model["vocab"].get),
        "tokenizer.ggml.merges": merges,
    }


def stored_tokenizer(folder: Path = LLAMA) -> dict[str, Any]:
    """What the folder's tokenizer.json says."""
    found: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return found


def character_tokenizer(*, prefix: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """A small tokenizer after SentencePiece, as tokenizer.json and as GGUF metadata.

    The scores fall from token to token, as they do where merges were learnt one after the other.
    """
    special = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<start_of_turn>", 3), ("\n\n", 4)]
    tokens = [*special, *((f"<0x{byte:02X}>", 6) for byte in range(256))]
    merged = [
        "▁t",
        "he",
        "▁the",
        "in",
        "er",
        "an",
        "▁a",
        "re",
        "on",
        "▁▁",
        "▁▁▁▁",
        "at",
        "ca",
        "cat",
    ]
    merged += ["▁cat", "▁th", "▁w", "or", "ld", "world", "wor", "▁world", "él", "lé", "aa", "aaa"]
    tokens += [(text, 1) for text in merged]
    tokens += [(c, 1) for c in "▁etainorshldcupmwfgybvkxjqzé'.,!ABCDEFGHIJKLM0123456789日本"]
    vocabulary = {text: i for i, (text, _) in enumerate(tokens)}
    scores = [-float(i) if kind == 1 else 0.0 for i, (_, kind) in enumerate(tokens)]
    merges = [
        (text[:cut], text[cut:])
        for text in merged
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    words = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    prepend = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != 4,
            }
            for i, (text, kind) in enumerate(special)
            if kind != 2
        ],
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, blanks]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [words, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text for text, _ in tokens],
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [kind for _, kind in tokens],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    return made, metadata
