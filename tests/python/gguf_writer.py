"""GGUF files of models that transformers saved, as llama.cpp's converter has them.

The format is that of docs/gguf.md in github.com/ggml-org/ggml; what the converter does to weights,
of convert_hf_to_gguf.py in github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from model_folders import Tensors

TYPES = {"uint32": 4, "float32": 6, "text": 8, "array": 9}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def value_of(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", TYPES["text"]) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", TYPES["float32"], value)
    if isinstance(value, list):
        kind = "text" if isinstance(value[0], str) else "uint32"
        head = struct.pack("<IIQ", TYPES["array"], TYPES[kind], len(value))
        return head + b"".join(value_of(item)[4:] for item in value)
    return struct.pack("<II", TYPES["uint32"], value)


def quantised(array: npt.NDArray[Any], kind: str) -> tuple[bytes, npt.NDArray[np.float32]]:
    """The blocks of 32 of Q8_0 or Q4_1, and the numbers that they stand for."""
    blocks = array.reshape(-1, 32).astype(np.float32)
    least = np.zeros((len(blocks), 1), np.float16)
    if kind == "Q8_0":
        scale = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16)
    else:
        least = blocks.min(axis=1, keepdims=True).astype(np.float16)
        scale = ((blocks.max(axis=1, keepdims=True) - least) / 15).astype(np.float16)
    bounds = (-128, 127) if kind == "Q8_0" else (0, 15)
    codes = np.clip(np.rint((blocks - least) / scale.astype(np.float32)), *bounds).astype(np.int8)
    numbers = scale.astype(np.float32) * codes + least.astype(np.float32)
    parts = [scale.view(np.uint8)]
    if kind == "Q8_0":
        parts += [codes.view(np.uint8)]
    else:
        parts += [least.view(np.uint8), codes[:, :16] | codes[:, 16:] << 4]
    stored = np.concatenate([part.view(np.uint8) for part in parts], axis=1)
    return stored.tobytes(), numbers.reshape(array.shape)


def write_gguf(
    path: Path, metadata: dict[str, Any], tensors: Tensors, kinds: dict[str, str] | None = None
) -> None:
    """Tensors of float32, but for those whose kind is named: Q8_0 or Q4_1."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += text(key) + value_of(value)
    data = b""
    for name, array in tensors.items():
        data += bytes(-len(data) % 32)
        head += text(name) + struct.pack("<I", array.ndim)
        head += struct.pack(f"<{array.ndim}Q", *reversed(array.shape))
        kind = (kinds or {}).get(name, "F32")
        head += struct.pack("<IQ", {"F32": 0, "Q4_1": 3, "Q8_0": 8}[kind], len(data))
        data += array.astype(np.float32).tobytes() if kind == "F32" else quantised(array, kind)[0]
    path.write_bytes(head + bytes(-len(head) % 32) + data)


def interleaved(weight: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of each head so that the two of a pair of the rotation are neighbours."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(name: str, config: dict[str, Any], tensors: Tensors) -> Tensors:
    """Tensors of a folder under their names in a file of this architecture."""
    names = {**NAMES, **(GEMMA_NAMES if name == "gemma3" else {})}
    found = {}
    for full, tensor in tensors.items():
        array = tensor.astype(np.float32)
        stem, kind = full.rsplit(".", 1)
        if stem in ENDS:
            new = ENDS[stem]
        else:
            layer, middle = stem.removeprefix("model.layers.").split(".", 1)
            new = f"blk.{layer}.{names[middle]}"
            if name == "llama" and middle.endswith(("q_proj", "k_proj")):
                query = middle.endswith("q_proj")
                heads = config["num_attention_heads" if query else "num_key_value_heads"]
                array = interleaved(array, heads)
        if name == "gemma3" and "norm" in new:
            array = array + 1
        found[f"{new}.{kind}"] = array
    return found


def gguf_metadata(name: str, config: dict[str, Any]) -> dict[str, Any]:
    values = {
        "general.architecture": name,
        "tokenizer.ggml.tokens": [f"token {i}" for i in range(config["vocab_size"])],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.attention.head_count": config["num_attention_heads"],
        f"{name}.attention.head_count_kv": config["num_key_value_heads"],
        f"{name}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
    }
    if "head_dim" in config:
        values[f"{name}.attention.key_length"] = config["head_dim"]
    if name == "gemma3":
        values[f"{name}.attention.sliding_window"] = config["sliding_window"]
    return values
