"""Each architecture against transformers, on small models with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf_writer import gguf_metadata, gguf_tensors, write_gguf
from model_folders import read_tensors

import quire
from quire import ops

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SCALED = {"rope_theta": 500000.0, "factor": 4.0, "original_max_position_embeddings": 32}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA_NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
}
NEAR_AND_FAR = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
}

# What a model is, and values of its configuration beside SIZES.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama with one KV head and biases": (
        "Llama",
        {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
    ),
    "llama 3": (
        "Llama",
        {
            "rope_parameters": {
                **SCALED,
                "rope_type": "llama3",
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            }
        },
    ),
    "llama, yarn": ("Llama", {"rope_parameters": {**SCALED, "rope_type": "yarn"}}),
    "llama, tied, gelu": ("Llama", {"tie_word_embeddings": True, "hidden_act": "gelu"}),
    "mistral": ("Mistral", {"sliding_window": 19}),
    "mistral without a window": ("Mistral", {"sliding_window": None}),
    "qwen 2": ("Qwen2", {}),
    "qwen 2 with windows": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 17, "max_window_layers": 1},
    ),
    "qwen 3": ("Qwen3", {}),
    "qwen 3 with biases": ("Qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen 3 moe": ("Qwen3Moe", {**EXPERTS, "norm_topk_prob": True}),
    "qwen 3 moe, some layers": ("Qwen3Moe", {**EXPERTS, "decoder_sparse_step": 2}),
    "qwen 3.5": ("Qwen3_5Text", {**DELTA_NET, "num_hidden_layers": 5}),
    "qwen 3.5, all of attention": (
        "Qwen3_5Text",
        {**DELTA_NET, "layer_types": ["full_attention"] * 3},
    ),
    "gemma 3": ("Gemma3Text", {"sliding_window": 11, "query_pre_attn_scalar": 24}),
    "gemma 3, scaled": (
        "Gemma3Text",
        {
            "sliding_window": 11,
            "rope_parameters": NEAR_AND_FAR,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}


def random_model(kind: str, options: dict[str, Any], folder: Path) -> Any:
    """A model saved in float32, as transformers computes it in float64, but for angles.

    No weight is what it is made with, as 0 or 1.
    """
    torch.manual_seed(7)
    config_class = getattr(transformers, f"{kind}Config")
    if not hasattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM"):
        pytest.skip(f"this transformers has no {kind}")
    config = config_class(**{**SIZES, **options}, attn_implementation="eager")
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.5 if weight.ndim == 1 else 1.5 / weight.shape[-1] ** 0.5
            if "embed" in name or "lm_head" in name:
                spread = 1.0
            weight.copy_(torch.randn_like(weight) * spread)
            if "norm" in name and kind in ("Llama", "Mistral", "Qwen2", "Qwen3", "Qwen3Moe"):
                weight.add_(1)
    model.eval().save_pretrained(folder)
    return model if "Moe" in kind else model.double()  # its grouped products have no float64


def logits_of(model: Any, ids: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(ids)[None]).logits[0].numpy())


@pytest.mark.parametrize("case", CASES)
def test_against_transformers(tmp_path: Path, case: str) -> None:
    model = random_model(*CASES[case], tmp_path)
    ids = np.random.default_rng(3).integers(0, SIZES["vocab_size"], 150)
    expected = logits_of(model, ids)
    ours = quire.load_model(tmp_path)
    logits = ours.logits(ids)
    spread = expected.std()
    assert np.abs(logits - expected).max() < 1e-4 * spread, spread
    # windows are crossed by chunks as well
    cut = ours.logits(ids, max_batch_tokens=13)
    assert np.abs(cut - expected).max() < 1e-4 * spread


@pytest.mark.parametrize("case", ["llama", "qwen 3 moe", "qwen 3.5", "gemma 3"])
def test_bfloat16_is_near(tmp_path: Path, case: str) -> None:
    model = random_model(*CASES[case], tmp_path)
    ids = np.random.default_rng(3).integers(0, SIZES["vocab_size"], 60)
    expected = logits_of(model, ids)
    logits = quire.load_model(tmp_path, weights="bfloat16").logits(ids)
    errors = (logits - expected) / expected.std()
    # a token whose experts are nearly equal may take others
    assert np.sqrt(np.median(np.square(errors).mean(axis=-1))) < 0.05


@pytest.mark.parametrize(
    ("case", "values", "message"),
    [
        ("gemma 3", {"query_pre_attn_scalar": 0}, "got 0 as query_pre_attn_scalar in .*, expected"),
        (
            "qwen 3 moe",
            {"num_experts_per_tok": 6},
            "got 6 as num_experts_per_tok in .*, expected 1",
        ),
        (
            "qwen 3.5",
            {"layer_types": ["linear_attention"] * 5},
            "got no full_attention as layer_types in ",
        ),
    ],
)
def test_a_wrong_configuration(
    tmp_path: Path, case: str, values: dict[str, Any], message: str
) -> None:
    random_model(*CASES[case], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(ValueError, match=f"^load_model: path: {message}"):
        quire.load_model(tmp_path)


GGUF_CASES = {
    "llama": ("llama", "Llama", {}),
    "llama 3": ("llama", *CASES["llama 3"]),
    "qwen 2": ("qwen2", "Qwen2", {}),
    "qwen 3": ("qwen3", "Qwen3", {"tie_word_embeddings": True}),
    "gemma 3": ("gemma3", "Gemma3Text", {"sliding_window": 11, "query_pre_attn_scalar": 16}),
}


@pytest.mark.parametrize("case", GGUF_CASES)
def test_gguf_files(tmp_path: Path, case: str) -> None:
    """The same numbers under other names, in another order: the same logits."""
    name, kind, options = GGUF_CASES[case]
    random_model(kind, options, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    tensors = gguf_tensors(name, config, read_tensors(tmp_path / "model.safetensors"))
    metadata = gguf_metadata(name, config)
    rope = config["rope_parameters"]
    metadata[f"{name}.rope.freq_base"] = float(rope.get("rope_theta", 1e6))
    if "factor" in rope:
        theta = rope["rope_theta"] ** (-np.arange(0, 16, 2) / 16)
        scaled = ops.rope_frequencies(
            rotary_dim=16,
            **{key: value for key, value in rope.items() if key != "attention_factor"},
        )[0]
        tensors["rope_freqs.weight"] = (theta / scaled).astype(np.float32)
    write_gguf(tmp_path / "model.gguf", metadata, tensors)
    ids = np.random.default_rng(3).integers(0, SIZES["vocab_size"], 100)
    expected = quire.load_model(tmp_path).logits(ids)
    model = quire.load_model(tmp_path / "model.gguf")
    assert np.abs(model.logits(ids) - expected).max() < 1e-4 * expected.std()
    assert model.stop_token_ids == [2]
