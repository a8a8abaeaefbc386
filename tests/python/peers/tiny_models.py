"""Small models of transformers with random weights, for tests against their own eager attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("torch")  # who takes both from here need not ask again
pytest.importorskip("transformers")

import torch
import transformers

import quire.transformers


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests of these models, which are too small for two."""
    monkeypatch.setenv("QUIRE_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


VOCABULARY = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
# Weights large enough for attention to matter; the default of 0.02 leaves it nearly uniform.
SPREAD = {"initializer_range": 0.25}
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
WINDOW = 12  # less than a block, and less than the prompts of the tests


def _llama() -> Any:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(num_hidden_layers=2, **SIZES, **SPREAD)
    )


def _qwen2() -> Any:
    return transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(num_hidden_layers=2, **SIZES, **SPREAD)
    )


def _qwen2_windows() -> Any:
    """The second and third layer see a window."""
    return transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            num_hidden_layers=3,
            use_sliding_window=True,
            sliding_window=WINDOW,
            max_window_layers=1,
            **SIZES,
            **SPREAD,
        )
    )


def _qwen3() -> Any:
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(num_hidden_layers=2, head_dim=24, **SIZES, **SPREAD)
    )


def _gemma3() -> Any:
    """Three layers with a window, one without, and another scale than 1 / sqrt(head_dim)."""
    return transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            num_hidden_layers=4,
            head_dim=32,
            sliding_window=WINDOW,
            layer_types=[SLIDING, SLIDING, FULL, SLIDING],
            query_pre_attn_scalar=16,
            **SIZES,
            **SPREAD,
        )
    )


def _gemma2() -> Any:
    """Scores have a soft cap."""
    return transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(
            num_hidden_layers=2,
            head_dim=32,
            sliding_window=WINDOW,
            layer_types=[SLIDING, FULL],
            query_pre_attn_scalar=16,
            attn_logit_softcapping=4.0,
            **SIZES,
            **SPREAD,
        )
    )


def _gpt_oss() -> Any:
    """The softmax has a sink for each head."""
    model = transformers.GptOssForCausalLM(
        transformers.GptOssConfig(
            num_hidden_layers=2,
            head_dim=32,
            sliding_window=WINDOW,
            layer_types=[SLIDING, FULL],
            num_local_experts=4,
            num_experts_per_tok=2,
            **SIZES,
            **SPREAD,
        )
    )
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks, 1.0)
    return model


def _qwen3_5() -> Any:
    """Three linear-attention layers, the first two included, and two with keys and values."""
    return transformers.Qwen3_5ForCausalLM(
        transformers.Qwen3_5TextConfig(
            num_hidden_layers=5,
            layer_types=[LINEAR, LINEAR, FULL, LINEAR, FULL],
            head_dim=32,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            **SIZES,
            **SPREAD,
        )
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen2_windows": _qwen2_windows,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt_oss": _gpt_oss,
    "qwen3_5": _qwen3_5,
}
STATEFUL = {"qwen3_5"}


def tiny(family: str) -> Any:
    """A model of the family, the same at every call, with attention "quire"."""
    torch.manual_seed(3)
    model = FAMILIES[family]().eval()
    model.set_attn_implementation("quire")
    return model


def prompts(*lengths: int, seed: int = 0) -> dict[str, Any]:
    """input_ids and attention_mask of random prompts, padded on the left."""
    random = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(2, VOCABULARY, (len(lengths), longest), generator=random)
    mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


def generate(model: Any, cache: Any, inputs: dict[str, Any], **options: Any) -> Any:
    """generate with logits, greedy unless the options say otherwise."""
    options = {"do_sample": False, "max_new_tokens": 12, **options}
    return model.generate(
        **inputs,
        past_key_values=cache,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )


def forward(model: Any, cache: Any, ids: Any, mask: Any = None) -> Any:
    """Logits of one pass."""
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, past_key_values=cache).logits


def eagerly(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    """The same with the model's own eager attention and cache."""
    model.set_attn_implementation("eager")
    try:
        return generate(model, None, inputs, **options)
    finally:
        model.set_attn_implementation("quire")


def paged(model: Any, num_blocks: int = 64, **options: Any) -> Any:
    """A cache of small blocks, so that prompts of the tests have several."""
    return quire.transformers.cache(model, num_blocks=num_blocks, **{"block_size": 4, **options})


def free_blocks(cache: Any) -> list[int]:
    """Of each pool; fails where a pool contradicts itself."""
    for pool in cache.pools:
        pool.check()
    return [pool.num_free for pool in cache.pools]
