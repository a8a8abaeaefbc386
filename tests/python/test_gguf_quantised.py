"""Models of GGUF files whose weights are numbers of four and of eight bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gguf_writer import gguf_metadata, gguf_tensors, quantised, write_gguf
from model_folders import read_tensors

import quire

FOLDER = Path(__file__).parent.parent / "data" / "models" / "pystdlib-llama"


def test_quantised_weights_are_multiplied_as_they_are(tmp_path: Path) -> None:
    """The logits are those of the same numbers in float32, but for rows that are bfloat16.

    Those make 0.6 % of a deviation; weights that are rounded once more to int8 make 2.2 %.
    """
    config = json.loads((FOLDER / "config.json").read_text())
    tensors = gguf_tensors("llama", config, read_tensors(FOLDER / "model.safetensors"))
    metadata = gguf_metadata("llama", config)
    # queries, keys and values stand in one array: of both kinds, in layers of an odd number
    kinds = {
        name: "Q8_0"
        if "embd" in name or ("attn_v" in name and int(name.split(".")[1]) % 2)
        else "Q4_1"
        for name, array in tensors.items()
        if array.ndim == 2
    }
    plain = {
        name: quantised(array, kinds[name])[1] if name in kinds else array
        for name, array in tensors.items()
    }
    write_gguf(tmp_path / "quantised.gguf", metadata, tensors, kinds)
    write_gguf(tmp_path / "plain.gguf", metadata, plain)
    ids = np.load(FOLDER / "reference.npz")["p0_ids"]
    model = quire.load_model(tmp_path / "quantised.gguf")
    expected = quire.load_model(tmp_path / "plain.gguf").logits(ids)
    errors = (model.logits(ids) - expected) / expected.std()
    assert np.sqrt(np.square(errors).mean()) < 0.01
    became = {(entry["stored"], entry["packed"]) for entry in model.memory_report()}
    assert became == {
        ("Q8_0", "int8"),
        ("Q4_1", "int4"),
        ("F32", "float32"),
    }


def test_values_of_more_bits_do_not_widen_queries_and_keys(tmp_path: Path) -> None:
    """As in the usual mixtures of formats: each tensor takes what its own format needs."""
    config = json.loads((FOLDER / "config.json").read_text())
    tensors = gguf_tensors("llama", config, read_tensors(FOLDER / "model.safetensors"))
    kinds = {
        name: "Q4_1" for name, array in tensors.items() if array.ndim == 2 and "attn_v" not in name
    }
    plain = {
        name: quantised(array, kinds[name])[1] if name in kinds else array
        for name, array in tensors.items()
    }
    metadata = gguf_metadata("llama", config)
    write_gguf(tmp_path / "mixed.gguf", metadata, tensors, kinds)
    write_gguf(tmp_path / "plain.gguf", metadata, plain)
    model = quire.load_model(tmp_path / "mixed.gguf")
    numbers = {
        (entry["stored"], entry["packed"]): entry["numbers"] for entry in model.memory_report()
    }
    of_four_bits = sum(tensors[name].size for name in kinds)
    of_all = sum(array.size for array in tensors.values())
    assert numbers == {("Q4_1", "int4"): of_four_bits, ("F32", "float32"): of_all - of_four_bits}
    ids = np.load(FOLDER / "reference.npz")["p0_ids"]
    expected = quire.load_model(tmp_path / "plain.gguf").logits(ids)
    errors = (model.logits(ids) - expected) / expected.std()
    assert np.sqrt(np.square(errors).mean()) < 0.01
