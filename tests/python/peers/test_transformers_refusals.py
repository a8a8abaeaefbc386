"""What Quire's cache and attention for transformers refuse, and that nothing has changed then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import (
    WINDOW,
    forward,
    free_blocks,
    generate,
    one_thread,  # noqa: F401, a fixture
    paged,
    prompts,
    tiny,
    torch,
    transformers,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what torch and transformers warn of is theirs
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny("llama")


def test_another_attention(llama: Any) -> None:
    llama.set_attn_implementation("sdpa")
    try:
        with pytest.raises(ValueError, match=r"^cache: model: got attn_implementation 'sdpa'"):
            paged(llama)
    finally:
        llama.set_attn_implementation("quire")
    cache = paged(llama)
    llama.set_attn_implementation("eager")
    try:
        with pytest.raises(RuntimeError, match="has not read the keys of layer 0"):
            forward(llama, cache, prompts(9)["input_ids"])
    finally:
        llama.set_attn_implementation("quire")
    assert free_blocks(cache) == [64]


def test_models_that_are_not_supported() -> None:
    with pytest.raises(ValueError, match=r"^cache: prefix_cache: got True, expected False"):
        paged(tiny("qwen3_5"), prefix_cache=True)
    model = tiny("llama")
    model.config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(ValueError, match=r"^cache: model: got 'chunked_attention' as layer 1"):
        paged(model)
    model.config.layer_types = None
    model.config.num_kv_shared_layers = 1
    with pytest.raises(ValueError, match=r"^cache: model: got 1 layers that share keys"):
        paged(model)


def test_a_window_that_the_configuration_does_not_have() -> None:
    model = tiny("gemma3")
    cache = paged(model)
    model.model.layers[0].self_attn.sliding_window = WINDOW + 1
    with pytest.raises(ValueError, match="sliding_window: got 13, expected 12"):
        forward(model, cache, prompts(9)["input_ids"])
    assert free_blocks(cache) == [64, 64]


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ((2, 4), np.ones((2, 12), int), "attention_mask: got .*, expected"),
        ((2, 3), np.ones((2, 12), int), "attention_mask: got another padding"),
        ((2, 3), None, "attention_mask: got another padding"),
        ((3, 3), None, "batch: got 3 rows, expected 2"),
    ],
)
def test_masks_that_do_not_belong(llama: Any, ids: Any, mask: Any, message: str) -> None:
    """The message, and that the cache is as before."""
    cache = paged(llama)
    generate(llama, cache, prompts(9, 5), max_new_tokens=1)
    free = free_blocks(cache)
    mask = mask if mask is None else torch.from_numpy(mask)
    with pytest.raises(ValueError, match=message):
        forward(llama, cache, torch.ones(ids, dtype=torch.long), mask)
    assert free_blocks(cache) == free
    assert cache.get_seq_length() == 9


def test_padding_on_the_right() -> None:
    """Keys of padding are left out wherever it stands, but not in a model with windows."""
    ids = prompts(9, 9)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    model = tiny("llama")
    cache = paged(model)
    logits = forward(model, cache, ids, mask)
    alone = forward(model, paged(model), ids[1:, :5])
    np.testing.assert_allclose(logits[1, :5], alone[0], rtol=0, atol=1e-4)
    assert [len(cache.tables(row)[0]) for row in range(2)] == [9, 5]
    model = tiny("gemma3")
    for cache in (paged(model), None):
        with pytest.raises(ValueError, match="attention_mask: got padding after a token"):
            forward(model, cache, ids, mask)


def test_masks_of_other_kinds(llama: Any) -> None:
    ids = prompts(8)["input_ids"]
    with pytest.raises(ValueError, match=r"attention_mask: got .*, expected two axes"):
        forward(llama, paged(llama), ids, torch.ones(1, 1, 8, 8, dtype=torch.bool))
    with torch.no_grad(), pytest.raises(ValueError, match="mask: got one that is more than causal"):
        llama(input_ids=ids, position_ids=torch.arange(8)[None] % 4, use_cache=False)
    static = transformers.StaticCache(config=llama.config, max_cache_len=32)
    with pytest.raises(ValueError, match="a static cache is not supported"):
        forward(llama, static, ids)


def test_gradients(llama: Any) -> None:
    with pytest.raises(RuntimeError, match="query: got one that requires a gradient"):
        llama(input_ids=prompts(8)["input_ids"])


def test_crops_that_cannot_be() -> None:
    model = tiny("gemma3")
    cache = paged(model)
    generate(model, cache, prompts(37), max_new_tokens=9)
    state = free_blocks(cache), cache.get_seq_length()
    for count, message in [
        (3, "crop: tokens_to_remove: got 3, expected 0 or below"),
        (-46, "crop: tokens_to_remove: got -46, expected at least -45"),
        (-20, "crop: tokens_to_remove: got 20 tokens of row 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            cache.crop(count)
        assert (free_blocks(cache), cache.get_seq_length()) == state
    cache.crop(-1)
    model = tiny("qwen3_5")
    cache = paged(model)
    generate(model, cache, prompts(9), max_new_tokens=3)
    with pytest.raises(ValueError, match="expected 0 in a model whose linear-attention layers"):
        cache.crop(-1)


def test_prefixes_that_cannot_be(llama: Any) -> None:
    inputs = prompts(9, 5)
    with pytest.raises(ValueError, match=r"^start: cache: got one without prefix_cache"):
        paged(llama).start(**inputs)
    cache = paged(llama, prefix_cache=True)
    with pytest.raises(RuntimeError, match=r"expected start\(input_ids\) before a pass"):
        generate(llama, cache, inputs)
    with pytest.raises(ValueError, match=r"^start: attention_mask: got a row that does not end"):
        cache.start(inputs["input_ids"], inputs["attention_mask"].flip(1))
    with pytest.raises(ValueError, match=r"^start: input_ids: got \[9\]"):
        cache.start(inputs["input_ids"][0])
    cache.start(**inputs)
    with pytest.raises(ValueError, match="tokens: got 10, expected at most 9"):
        generate(llama, cache, prompts(10, 6))
    generate(llama, cache, inputs, max_new_tokens=3)
    with pytest.raises(ValueError, match=r"^remember: sequences: got \[2, 9\], expected \[2, 11"):
        cache.remember(inputs["input_ids"])
