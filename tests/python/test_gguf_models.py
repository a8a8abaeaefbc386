"""GGUF files of models that say something odd of themselves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_writer import gguf_metadata, gguf_tensors, write_gguf
from model_folders import Tensors, read_tensors, write_tensors

import quire

FOLDER = Path(__file__).parent.parent / "data" / "models" / "pystdlib-llama"


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    config = json.loads((FOLDER / "config.json").read_text())
    return gguf_tensors("llama", config, read_tensors(FOLDER / "model.safetensors"))


@pytest.fixture
def metadata() -> dict[str, Any]:
    return gguf_metadata("llama", json.loads((FOLDER / "config.json").read_text()))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        # not as many as query heads, which is what stands for nothing
        ("llama.attention.head_count_kv", [2, 2, 2, 1, 2, 2], "a whole number >= 0"),
        ("llama.attention.head_count_kv", 2.0, "a whole number >= 0"),
        ("llama.attention.key_length", "64", "a whole number >= 0"),
        ("llama.attention.sliding_window", [4096, 0], "a whole number >= 0"),
        ("llama.attention.layer_norm_rms_epsilon", "1e-5", "a finite number"),
        ("llama.attention.layer_norm_rms_epsilon", math.nan, "a finite number"),
        ("llama.rope.freq_base", [10000, 10000], "a finite number"),
        ("llama.rope.dimension_count", 32, "64, the numbers of a head"),
        ("llama.block_count", "six", "a whole number >= 0"),
        ("general.architecture", 7, "a text"),
        ("tokenizer.ggml.tokens", 4096, "an array"),
    ],
)
def test_values_of_another_kind(
    tmp_path: Path, tensors: Tensors, metadata: dict[str, Any], key: str, value: Any, message: str
) -> None:
    write_gguf(tmp_path / "odd.gguf", {**metadata, key: value}, tensors)
    expected = f"^load_model: path: got .*odd.gguf with something else as {key}, expected {message}"
    with pytest.raises(ValueError, match=expected):
        quire.load_model(tmp_path / "odd.gguf")


@pytest.mark.parametrize("kind", ["spiral", 'none", "rope_theta": 3, "type": "none'])
def test_a_scaling_that_is_not_known(
    tmp_path: Path, tensors: Tensors, metadata: dict[str, Any], kind: str
) -> None:
    metadata["llama.rope.scaling.factor"] = 2.0
    metadata["llama.rope.scaling.type"] = kind
    write_gguf(tmp_path / "odd.gguf", metadata, tensors)
    with pytest.raises(
        ValueError, match=r"as llama\.rope\.scaling\.type, expected none, linear or y"
    ):
        quire.load_model(tmp_path / "odd.gguf")


def test_a_name_without_a_suffix_and_no_window(
    tmp_path: Path, tensors: Tensors, metadata: dict[str, Any]
) -> None:
    """The file says what it is, not its name; a window of 0 is none, and heads of 64 turn whole."""
    write_gguf(tmp_path / "plain.gguf", metadata, tensors)
    metadata["llama.attention.sliding_window"] = 0
    metadata["llama.rope.dimension_count"] = 64
    write_gguf(tmp_path / "model", metadata, tensors)
    plain = quire.load_model(tmp_path / "plain.gguf").logits([5, 6, 7])
    assert quire.load_model(tmp_path / "model").logits([5, 6, 7]).tobytes() == plain.tobytes()


def test_biases_that_no_metadata_tells_of(tmp_path: Path, metadata: dict[str, Any]) -> None:
    """They are added where there are some, as in the same model's folder, whose config says so."""
    config = json.loads((FOLDER / "config.json").read_text())
    folder = read_tensors(FOLDER / "model.safetensors")
    random = np.random.default_rng(5)
    for name, array in list(folder.items()):
        if "self_attn" in name:
            numbers = random.standard_normal(len(array)).astype(array.dtype)
            folder[name.replace("weight", "bias")] = numbers
    write_tensors(tmp_path / "model.safetensors", folder)
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": True}))
    write_gguf(tmp_path / "biased.gguf", metadata, gguf_tensors("llama", config, folder))
    expected = quire.load_model(tmp_path, weights="float32").logits([5, 6, 7])
    logits = quire.load_model(tmp_path / "biased.gguf").logits([5, 6, 7])
    assert np.abs(logits - expected).max() < 1e-4 * expected.std()

    tensors = gguf_tensors("llama", config, folder)
    del tensors["blk.3.attn_k.bias"]
    write_gguf(tmp_path / "torn.gguf", metadata, tensors)
    with pytest.raises(
        ValueError, match=r"without the tensor blk\.3\.attn_k\.bias, expected one of"
    ):
        quire.load_model(tmp_path / "torn.gguf")


def test_tokens_that_end_a_turn(tmp_path: Path, tensors: Tensors, metadata: dict[str, Any]) -> None:
    metadata["tokenizer.ggml.eot_token_id"] = 7
    metadata["tokenizer.ggml.eom_token_id"] = 0
    write_gguf(tmp_path / "chat.gguf", metadata, tensors)
    assert quire.load_model(tmp_path / "chat.gguf").stop_token_ids == [0, 7]
