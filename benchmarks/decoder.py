"""Small decoders in NumPy whose attention runs on a cache of any dtype, a token at a time."""

from __future__ import annotations

import json
import math
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


def silu(x: Any) -> Any:
    """x * sigmoid(x)."""
    return x / (1 + np.exp(-x))


class Decoder:
    """What the models of this folder share.

    Of a folder with config.json and model.safetensors, as Transformers writes them. Keys are
    stored after their rotation.
    """

    norm_offset = 0.0  # what a norm's weights are less than what they multiply by

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = read_safetensors(folder / "model.safetensors")
        self.head_dim = self.config["head_dim"]
        self.num_layers = self.config["num_hidden_layers"]
        self.dtype = np.dtype(getattr(ml_dtypes, self.config["dtype"], self.config["dtype"]))

    def prompt(self, most: int = 1024) -> Any:
        """Token ids: all of reference.npz in the folder, one after the other, else random ones."""
        reference = self.folder / "reference.npz"
        if not reference.exists():
            return np.random.default_rng(0).integers(self.config["vocab_size"], size=most)
        with np.load(reference) as arrays:
            ids = [arrays[name] for name in arrays.files if arrays[name].dtype.kind == "i"]
        return np.concatenate(ids)[:most]

    def logits(self, tokens: Any, dtype: str, open_blocks: int | None = None) -> Any:
        """[tokens, vocabulary] in float32, keys and values in a cache of `dtype`.

        One token after the other, as when they are generated.
        """
        pool = quire.BlockPool(
            self.num_layers * -(-len(tokens) // 16),
            num_kv_heads=self.config["num_key_value_heads"],
            head_dim=self.head_dim, dtype=dtype, open_blocks=open_blocks,
        )  # fmt: skip
        states = [self.new_state(layer, pool) for layer in range(self.num_layers)]
        hidden = [self._step(token, states) for token in tokens]
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return self.norm(np.concatenate(hidden), "model.norm.weight") @ head.T

    def new_state(self, layer: int, pool: quire.BlockPool) -> Any:
        """What a layer keeps between tokens: its table, unless it is no layer of attention."""
        return quire.BlockTable(pool)

    def mix(self, x: Any, layer: int, state: Any) -> Any:
        """What a layer adds of a token [1, hidden], normalised, and of those before it."""
        raise NotImplementedError

    def _step(self, token: int, states: list[Any]) -> Any:
        hidden = self.weights["model.embed_tokens.weight"][[token]]
        for layer, state in enumerate(states):
            x = self.norm(hidden, f"model.layers.{layer}.input_layernorm.weight")
            hidden = hidden + self.mix(x, layer, state)
            x = self.norm(hidden, f"model.layers.{layer}.post_attention_layernorm.weight")
            hidden = hidden + self._mlp(x, layer)
        return hidden

    def _mlp(self, x: Any, layer: int) -> Any:
        gate = silu(self.project(x, layer, "mlp.gate_proj"))
        return self.project(gate * self.project(x, layer, "mlp.up_proj"), layer, "mlp.down_proj")

    def attend(self, q: Any, k: Any, v: Any, table: quire.BlockTable) -> Any:
        """Rotates q and k of a token [1, heads, head_dim], keeps k and v, and attends."""
        position = len(table)
        table.append(self._rotate(k, position), v)
        return quire.attend(self._rotate(q, position), [table])

    def project(self, x: Any, layer: int, name: str) -> Any:
        """By a matrix of the layer."""
        return x @ self.weights[f"model.layers.{layer}.{name}.weight"].T

    def norm(self, x: Any, name: str) -> Any:
        """RMSNorm."""
        mean = np.mean(np.square(x), axis=-1, keepdims=True)
        weight = self.weights[name] + self.norm_offset
        return x / np.sqrt(mean + self.config["rms_norm_eps"]) * weight

    def _rotate(self, x: Any, position: int) -> Any:
        """Rotary embedding of a token: of a head's first elements, whose halves are its planes."""
        rotary = self.config["rope_parameters"]
        size = int(self.head_dim * rotary.get("partial_rotary_factor", 1.0))
        half = size // 2
        # in the model's dtype, as Transformers keeps them: in float32 logits are off by 0.01
        frequencies = (rotary["rope_theta"] ** (-np.arange(half) / half)).astype(self.dtype)
        angles = np.float32(position) * frequencies.astype(np.float32)
        cos, sin = np.cos(angles), np.sin(angles)
        a, b, rest = x[..., :half], x[..., half:size], x[..., size:]
        rotated = [a * cos - b * sin, b * cos + a * sin, rest]
        return np.concatenate(rotated, axis=-1).astype(np.float32)


class Llama(Decoder):
    """Attention in every layer."""

    def mix(self, x: Any, layer: int, state: Any) -> Any:
        """Attention."""
        q, k, v = (
            self.project(x, layer, f"self_attn.{part}_proj").reshape(1, -1, self.head_dim)
            for part in "qkv"
        )
        return self.project(self.attend(q, k, v, state).reshape(1, -1), layer, "self_attn.o_proj")


class DeltaState:
    """What a layer of linear attention keeps: a matrix for each head, and what it convolves."""

    def __init__(self, heads: int, key_size: int, value_size: int, channels: int, taps: int):
        self.matrix = np.zeros((heads, key_size, value_size), np.float32)
        self.recent = np.zeros((taps, channels), np.float32)


class Qwen35(Decoder):
    """Qwen 3.5: gated attention in some layers, a gated delta rule in the others.

    Source of the delta rule: Yang, Kautz, Hatamizadeh, "Gated Delta Networks" (arXiv:2412.06464).
    """

    norm_offset = 1.0

    def new_state(self, layer: int, pool: quire.BlockPool) -> Any:
        """A table, or the state of linear attention."""
        config = self.config
        if config["layer_types"][layer] == "full_attention":
            return super().new_state(layer, pool)
        weight = self.weights[f"model.layers.{layer}.linear_attn.conv1d.weight"]
        return DeltaState(
            config["linear_num_value_heads"], config["linear_key_head_dim"],
            config["linear_value_head_dim"], len(weight), config["linear_conv_kernel_dim"],
        )  # fmt: skip

    def mix(self, x: Any, layer: int, state: Any) -> Any:
        """Gated attention, or the delta rule."""
        if isinstance(state, DeltaState):
            return self._delta(x, layer, state)
        q, gate = np.split(
            self.project(x, layer, "self_attn.q_proj").reshape(1, -1, 2 * self.head_dim), 2, axis=-1
        )
        k, v = (
            self.project(x, layer, f"self_attn.{part}_proj").reshape(1, -1, self.head_dim)
            for part in "kv"
        )
        prefix = f"model.layers.{layer}.self_attn"
        q, k = self.norm(q, f"{prefix}.q_norm.weight"), self.norm(k, f"{prefix}.k_norm.weight")
        out = self.attend(q, k, v, state) / (1 + np.exp(-gate))
        return self.project(out.reshape(1, -1), layer, "self_attn.o_proj")

    def _delta(self, x: Any, layer: int, state: DeltaState) -> Any:
        prefix = f"model.layers.{layer}.linear_attn"
        heads, key_size, value_size = state.matrix.shape
        key_heads = self.config["linear_num_key_heads"]
        state.recent[:-1] = state.recent[1:]
        state.recent[-1] = self.project(x, layer, "linear_attn.in_proj_qkv")
        mixed = silu(np.sum(state.recent * self.weights[f"{prefix}.conv1d.weight"][:, 0].T, axis=0))
        q, k, v = np.split(mixed, [key_heads * key_size, 2 * key_heads * key_size])
        q, k = (
            np.repeat(part / np.sqrt(np.sum(np.square(part), axis=-1, keepdims=True) + 1e-6),
                      heads // key_heads, axis=0)
            for part in (q.reshape(key_heads, key_size), k.reshape(key_heads, key_size))
        )  # fmt: skip
        beta = 1 / (1 + np.exp(-self.project(x, layer, "linear_attn.in_proj_b")[0]))
        step = (
            self.project(x, layer, "linear_attn.in_proj_a")[0] + self.weights[f"{prefix}.dt_bias"]
        )
        decay = np.exp(-np.exp(self.weights[f"{prefix}.A_log"]) * np.logaddexp(0, step))
        state.matrix *= decay[:, None, None]
        found = np.einsum("hkv,hk->hv", state.matrix, k)
        delta = (v.reshape(heads, value_size) - found) * beta[:, None]
        state.matrix += k[:, :, None] * delta[:, None, :]
        out = np.einsum("hkv,hk->hv", state.matrix, q) / math.sqrt(key_size)
        mean = np.mean(np.square(out), axis=-1, keepdims=True)
        out = out / np.sqrt(mean + self.config["rms_norm_eps"])
        out = out * self.weights[f"{prefix}.norm.weight"]
        gate = silu(self.project(x, layer, "linear_attn.in_proj_z").reshape(heads, value_size))
        return self.project((out * gate).reshape(1, -1), layer, "linear_attn.out_proj")


def load_decoder(folder: Path) -> Decoder:
    """The model of a folder."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return (Qwen35 if kind.startswith("qwen3_5") else Llama)(folder)
