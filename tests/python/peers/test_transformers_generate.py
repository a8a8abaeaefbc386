"""generate with Quire's cache and attention gives the tokens of the model's own eager attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import (
    FAMILIES,
    STATEFUL,
    eagerly,
    free_blocks,
    generate,
    one_thread,  # noqa: F401, a fixture
    paged,
    prompts,
    tiny,
    torch,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what torch and transformers warn of is theirs
    pytest.mark.usefixtures("one_thread"),
]
# float32 on both sides: sums in another order, through all layers; logits are about 10 in size. The
# gated delta rule of qwen3_5 turns such differences into 3e-4, attention alone into 2e-5.
CLOSE = {family: 1e-3 if family in STATEFUL else 1e-4 for family in FAMILIES}


def assert_same(family: str, ours: Any, eager: Any) -> None:
    """The same tokens, and logits of every step close."""
    assert torch.equal(ours.sequences, eager.sequences)
    assert len(ours.logits) == len(eager.logits)
    for step, expected in zip(ours.logits, eager.logits, strict=True):
        np.testing.assert_allclose(step, expected, rtol=0, atol=CLOSE[family])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [(1,), (21,), (21, 13, 1, 20)], ids=str)
def test_greedy(family: str, lengths: tuple[int, ...]) -> None:
    model, inputs = tiny(family), prompts(*lengths)
    cache = paged(model)
    assert_same(family, generate(model, cache, inputs), eagerly(model, inputs))
    assert cache.get_seq_length() == max(lengths) + 11
    assert cache.batch_size in (-1, len(lengths))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_matters(family: str) -> None:
    """Other keys give other tokens: what the tests here compare depends on them."""
    model = tiny(family)
    model.set_attn_implementation("eager")
    inputs = prompts(21)
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, -3] = 2 + inputs["input_ids"][0, -3] % 90
    pair = [generate(model, None, one, max_new_tokens=1).logits[0] for one in (inputs, changed)]
    assert (pair[0] - pair[1]).abs().max() > 100 * CLOSE[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_beams(family: str) -> None:
    model, inputs = tiny(family), prompts(17, 9)
    options = {"num_beams": 3, "num_return_sequences": 2, "output_scores": True}
    cache = paged(model, num_blocks=128)
    ours, eager = generate(model, cache, inputs, **options), eagerly(model, inputs, **options)
    assert torch.equal(ours.sequences, eager.sequences)
    np.testing.assert_allclose(ours.sequences_scores, eager.sequences_scores, rtol=0, atol=1e-5)


def test_beams_share_blocks() -> None:
    """Once beams descend from one, the prompt's blocks are held by several tables."""
    model, inputs = tiny("llama"), prompts(33)
    cache = paged(model, num_blocks=128)
    generate(model, cache, inputs, num_beams=4)
    apart = 4 * -(-cache.get_seq_length() // 4)
    assert cache.pools[0].num_used < 0.7 * apart


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - STATEFUL))
@pytest.mark.parametrize("how", ["lookup", "assistant", "poor assistant"])
def test_assisted(family: str, how: str) -> None:
    """Drafts that are refused are cropped; also where the window has gone past its blocks."""
    model, inputs = tiny(family), prompts(29)
    inputs["input_ids"][0, 15:29] = inputs["input_ids"][0, 1:15]  # something to look up
    if how == "lookup":
        options: dict[str, Any] = {"prompt_lookup_num_tokens": 5}
    else:
        assistant = tiny(family)
        if how == "poor assistant":
            with torch.no_grad():
                assistant.lm_head.weight.mul_(torch.rand_like(assistant.lm_head.weight) + 0.5)
        options = {"assistant_model": assistant}
    cache = paged(model)
    ours = generate(model, cache, inputs, max_new_tokens=30, **options)
    assert_same(family, ours, eagerly(model, inputs, max_new_tokens=30))


@pytest.mark.parametrize("family", FAMILIES)
def test_chunked_prefill(family: str) -> None:
    model, inputs = tiny(family), prompts(21, 13, 2)
    ours = generate(model, paged(model), inputs, prefill_chunk_size=8)
    assert_same(family, ours, eagerly(model, inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_several_turns(family: str) -> None:
    """A second generate with the same cache goes on where the first ended."""
    model, inputs = tiny(family), prompts(11, 6)
    cache = paged(model)
    first = generate(model, cache, inputs, max_new_tokens=9).sequences
    more = torch.cat([first, prompts(5, 5, seed=1)["input_ids"]], dim=1)
    mask = torch.ones_like(more)
    mask[:, : inputs["attention_mask"].shape[1]] = inputs["attention_mask"]
    both = {"input_ids": more, "attention_mask": mask}
    assert_same(family, generate(model, cache, both), eagerly(model, both))


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled(family: str) -> None:
    """num_return_sequences, and the same random numbers."""
    model, inputs = tiny(family), prompts(14, 5)
    options = {"do_sample": True, "num_return_sequences": 3, "top_k": 20}
    torch.manual_seed(5)
    ours = generate(model, paged(model, num_blocks=128), inputs, **options)
    torch.manual_seed(5)
    assert_same(family, ours, eagerly(model, inputs, **options))


@pytest.mark.parametrize("family", FAMILIES)
def test_other_caches(family: str) -> None:
    """With a cache of transformers, or none, the function reads that cache's keys."""
    model, inputs = tiny(family), prompts(21, 13, 1)
    eager = eagerly(model, inputs)
    assert_same(family, generate(model, None, inputs), eager)
    without = generate(model, None, inputs, use_cache=False, max_new_tokens=2)
    np.testing.assert_allclose(without.logits[1], eager.logits[1], rtol=0, atol=CLOSE[family])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(family: str, dtype: str) -> None:
    """Logits of a prompt and one step as near to float32's as eager attention comes."""
    inputs = prompts(21, 9)
    exact = eagerly(tiny(family), inputs, max_new_tokens=1).logits[0]
    model = tiny(family).to(getattr(torch, dtype))
    cache = paged(model)
    assert str(cache.pools[0].dtype) == dtype
    ours = generate(model, cache, inputs, max_new_tokens=1).logits[0].float()
    eager = eagerly(model, inputs, max_new_tokens=1).logits[0].float()
    error, allowed = (ours - exact).norm(), (eager - exact).norm()
    assert error < 1.5 * allowed + 1e-6


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "int4"])
def test_quantised(dtype: str) -> None:
    """A quantised pool changes logits by little, and less than leaving out a token would."""
    model, inputs = tiny("llama"), prompts(41)
    exact = eagerly(model, inputs, max_new_tokens=1).logits[0]
    cache = paged(model, dtype=dtype)
    ours = generate(model, cache, inputs, max_new_tokens=2).logits
    assert 0 < (ours[0] - exact).norm() / exact.norm() < 0.1


def test_dropped_caches_give_back_their_blocks() -> None:
    model, inputs = tiny("gemma3"), prompts(21, 13)
    cache = paged(model)
    pools = cache.pools
    out = generate(model, cache, inputs)
    assert all(pool.num_used > 0 for pool in pools)
    cache.reset()
    assert free_blocks(cache) == [64, 64]
    generate(model, cache, prompts(9, 4, 2))  # another batch size
    del cache, out
    assert [pool.num_used for pool in pools] == [0, 0]
