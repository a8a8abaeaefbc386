"""A Llama-like model in NumPy, whose attention runs on a cache of any dtype."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import quire

STORED = {"BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


def read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of a file, as float32."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        flat = np.frombuffer(data[begin:end], STORED[entry["dtype"]])
        tensors[name] = flat.astype(np.float32).reshape(entry["shape"])
    return tensors


class Llama:
    """Of a folder with config.json and model.safetensors, as Transformers writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = read_safetensors(folder / "model.safetensors")
        self.head_dim = self.config["head_dim"]

    def prompt(self, most: int = 1024) -> Any:
        """Token ids: all of reference.npz in the folder, one after the other, else random ones."""
        reference = self.folder / "reference.npz"
        if not reference.exists():
            return np.random.default_rng(0).integers(self.config["vocab_size"], size=most)
        with np.load(reference) as arrays:
            ids = [arrays[name] for name in arrays.files if arrays[name].dtype.kind == "i"]
        return np.concatenate(ids)[:most]

    def logits(self, tokens: Any, dtype: str) -> Any:
        """[tokens, vocabulary] in float32, keys and values in a cache of `dtype`."""
        hidden = self.weights["model.embed_tokens.weight"][tokens]
        pool = quire.BlockPool(
            -(-len(tokens) // 16), num_kv_heads=self.config["num_key_value_heads"],
            head_dim=self.head_dim, dtype=dtype,
        )  # fmt: skip
        for layer in range(self.config["num_hidden_layers"]):
            hidden = hidden + self._attention(hidden, layer, pool)
            hidden = hidden + self._mlp(hidden, layer)
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return self._norm(hidden, "model.norm.weight") @ head.T

    def _attention(self, hidden: Any, layer: int, pool: quire.BlockPool) -> Any:
        x = self._norm(hidden, f"model.layers.{layer}.input_layernorm.weight")
        q, k, v = (
            self._project(x, layer, f"self_attn.{part}_proj").reshape(len(x), -1, self.head_dim)
            for part in "qkv"
        )
        with quire.BlockTable(pool) as table:
            table.append(self._rotate(k), v)
            out = quire.attend(
                self._rotate(q), [table], cu_seqlens_q=np.array([0, len(x)], np.int32)
            )
        return self._project(out.reshape(len(x), -1), layer, "self_attn.o_proj")

    def _mlp(self, hidden: Any, layer: int) -> Any:
        x = self._norm(hidden, f"model.layers.{layer}.post_attention_layernorm.weight")
        gate = self._project(x, layer, "mlp.gate_proj")
        gate = gate / (1 + np.exp(-gate))
        return self._project(gate * self._project(x, layer, "mlp.up_proj"), layer, "mlp.down_proj")

    def _project(self, x: Any, layer: int, name: str) -> Any:
        return x @ self.weights[f"model.layers.{layer}.{name}.weight"].T

    def _norm(self, x: Any, name: str) -> Any:
        mean = np.mean(np.square(x), axis=-1, keepdims=True)
        return x / np.sqrt(mean + self.config["rms_norm_eps"]) * self.weights[name]

    def _rotate(self, x: Any) -> Any:
        """Rotary embedding; the halves of a head are the two axes of its planes."""
        half = self.head_dim // 2
        theta = self.config["rope_parameters"]["rope_theta"]
        angles = np.outer(np.arange(len(x)), theta ** (-np.arange(half) / half))
        cos, sin = (f(angles)[:, None].astype(np.float32) for f in (np.cos, np.sin))
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(np.float32)
