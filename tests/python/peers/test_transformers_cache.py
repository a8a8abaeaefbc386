"""Quire's cache for transformers: blocks, prefixes and rows."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import (
    WINDOW,
    eagerly,
    forward,
    free_blocks,
    generate,
    one_thread,  # noqa: F401, a fixture
    paged,
    prompts,
    tiny,
    torch,
)

import quire

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what torch and transformers warn of is theirs
    pytest.mark.usefixtures("one_thread"),
]


# Room


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_5"])
def test_prompts_that_do_not_fit(family: str) -> None:
    model = tiny(family)
    cache = paged(model, num_blocks=6)
    with pytest.raises(quire.OutOfBlocks):
        generate(model, cache, prompts(21, 13))
    assert free_blocks(cache) == [6] * len(cache.pools)
    assert cache.get_seq_length() == 0
    cache.reset()
    inputs = prompts(9)
    ours = generate(model, cache, inputs, max_new_tokens=4)
    assert torch.equal(ours.sequences, eagerly(model, inputs, max_new_tokens=4).sequences)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_tokens_that_do_not_fit(family: str) -> None:
    """The pass that fails leaves the tables as they were, and they go on once there is room."""
    model, inputs = tiny(family), prompts(15, 7)
    cache = paged(model, num_blocks=8)
    with pytest.raises(quire.OutOfBlocks):
        generate(model, cache, inputs, max_new_tokens=30)
    # 16 + 4 n tokens and 8 + 4 n in blocks of 4: both rows want a ninth at once
    lengths = [len(cache.tables(row)[0]) for row in range(2)]
    assert lengths == [20, 12]
    assert cache.get_seq_length() == 20
    assert free_blocks(cache) == [0]
    held = [cache.tables(row)[0].gather() for row in range(2)]
    cache.batch_select_indices(torch.tensor([0]))
    assert free_blocks(cache) == [3]
    np.testing.assert_array_equal(cache.tables(0)[0].gather()[0], held[0][0])
    eager = eagerly(model, {name: rows[:1] for name, rows in inputs.items()}, max_new_tokens=12)
    longer = {"input_ids": eager.sequences[:, :21], "attention_mask": torch.ones(1, 21)}
    ours = generate(model, cache, longer, max_new_tokens=6)
    assert torch.equal(ours.sequences, eager.sequences)


def test_no_room_in_one_of_two_pools() -> None:
    """Layers with windows come first in gemma3, those without find their pool full."""
    model = tiny("gemma3")
    cache = paged(model, num_blocks=16)
    full, windows = cache.pools
    taken = full.allocate(13)
    with pytest.raises(quire.OutOfBlocks):
        generate(model, cache, prompts(21))
    assert (full.num_used, windows.num_used) == (13, 0)
    full.release(taken)


def test_states_do_not_go_back() -> None:
    """In a hybrid model a pass that failed has changed the states of the layers before."""
    model = tiny("qwen3_5")
    cache = paged(model, num_blocks=3)
    with pytest.raises(quire.OutOfBlocks):
        generate(model, cache, prompts(9), max_new_tokens=9)
    ids = prompts(1)["input_ids"]
    with pytest.raises(RuntimeError, match="expected one that was reset"):
        forward(model, cache, ids)
    cache.reset()
    np.testing.assert_allclose(
        forward(model, cache, ids), forward(model, None, ids), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("then", ["go on", "crop", "select"])
def test_a_pass_that_ended_early_is_taken_back(then: str) -> None:
    """An error between the layers, which attention does not see."""
    model, inputs = tiny("llama"), prompts(9, 6)
    cache = paged(model)
    generate(model, cache, inputs, max_new_tokens=1)
    hook = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    whole = {name: torch.cat([rows, rows[:, -1:]], dim=1) for name, rows in inputs.items()}
    with pytest.raises(ZeroDivisionError):
        generate(model, cache, whole)
    hook.remove()
    assert cache.get_seq_length() == 9
    if then == "crop":
        cache.crop(-2)
        assert [len(cache.tables(row)[0]) for row in range(2)] == [7, 4]
    elif then == "select":
        cache.reorder_cache(torch.tensor([1, 1]))
        whole = {name: rows[[1, 1]] for name, rows in whole.items()}
    ours = generate(model, cache, whole)
    assert torch.equal(ours.sequences, eagerly(model, whole).sequences)


@pytest.mark.parametrize("family", ["gemma3", "qwen2_windows"])
def test_blocks_behind_a_window_go_back(family: str) -> None:
    model, inputs = tiny(family), prompts(37, 21)
    cache = paged(model)
    generate(model, cache, inputs, max_new_tokens=20)
    full, windows = cache.pools
    assert full.num_used == 14 + 10
    assert windows.num_used <= 2 * (WINDOW // 4 + 2)


# Prefixes


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_prefixes_are_shared(family: str) -> None:
    model, inputs = tiny(family), prompts(22, 15)
    cache = paged(model, prefix_cache=True)
    eager = eagerly(model, inputs)
    assert cache.start(**inputs) == [0, 0]
    assert torch.equal(generate(model, cache, inputs).sequences, eager.sequences)
    blocks = [cache.tables(row)[0].blocks for row in range(2)]
    # all but the last token of each; the shorter row begins 7 columns later, so both end alike
    assert cache.start(**inputs) == [21, 14]
    assert cache.get_seq_length() == 21
    for row, full_blocks in enumerate([5, 3]):
        np.testing.assert_array_equal(
            cache.tables(row)[0].blocks[:full_blocks], blocks[row][:full_blocks]
        )
    seen: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(
        lambda _, ids, __: seen.append(ids[0].shape[1])
    )
    again = generate(model, cache, inputs)
    hook.remove()
    assert seen == [1] * 12
    assert torch.equal(again.sequences, eager.sequences)
    cache.reset()
    for prefixes in cache.prefix_caches:
        prefixes.clear()
    assert free_blocks(cache) == [64] * len(cache.pools)


def test_rows_begin_where_all_have_something() -> None:
    """Of two rows one is known in part, the other not at all: both begin at the other's."""
    model = tiny("llama")
    cache = paged(model, prefix_cache=True)
    known, fresh = prompts(24), prompts(18, seed=8)
    cache.start(**known)
    generate(model, cache, known, max_new_tokens=2)
    both = prompts(24, 18)
    both["input_ids"][0] = known["input_ids"][0]
    both["input_ids"][1, 6:] = fresh["input_ids"][0]
    assert cache.start(**both) == [6, 0]
    ours = generate(model, cache, both)
    assert torch.equal(ours.sequences, eagerly(model, both).sequences)


def test_beams_share_what_start_found() -> None:
    model, inputs = tiny("llama"), prompts(33, 20)
    cache = paged(model, num_blocks=128, prefix_cache=True)
    eager = eagerly(model, inputs, num_beams=3)
    for found in ([0, 0], [32, 19]):
        assert cache.start(**inputs) == found
        ours = generate(model, cache, inputs, num_beams=3)
        assert torch.equal(ours.sequences, eager.sequences)
    with pytest.raises(ValueError, match=r"^remember: cache: got one of beams"):
        cache.remember(ours.sequences)


def test_a_conversation() -> None:
    """remember makes what was generated matchable, padding of the prompt left out."""
    model, inputs = tiny("llama"), prompts(15, 8)
    cache = paged(model, prefix_cache=True)
    cache.start(**inputs)
    first = generate(model, cache, inputs, max_new_tokens=9).sequences
    cache.remember(first)
    turn = {"input_ids": first[1:, 7:], "attention_mask": torch.ones(1, 17, dtype=torch.long)}
    assert cache.start(**turn) == [16]
    ours = generate(model, cache, turn)
    assert torch.equal(ours.sequences, eagerly(model, turn).sequences)


def test_namespaces() -> None:
    model, inputs = tiny("llama"), prompts(21)
    cache = paged(model, prefix_cache=True)
    cache.start(**inputs, namespace="one")
    generate(model, cache, inputs, max_new_tokens=1)
    assert cache.start(**inputs, namespace="two") == [0]
    assert cache.start(**inputs, namespace="one") == [20]


# Rows


def test_rows_are_selected_and_repeated() -> None:
    model, inputs = tiny("llama"), prompts(12, 7, 10)
    cache = paged(model)
    generate(model, cache, inputs, max_new_tokens=1)
    before = [cache.tables(row)[0].gather(1)[0] for row in range(3)]
    used = cache.pools[0].num_used
    cache.batch_repeat_interleave(2)
    assert cache.pools[0].num_used == used
    cache.reorder_cache(torch.tensor([5, 0, 2, 2]))
    for row, was in enumerate([2, 0, 1, 1]):
        np.testing.assert_array_equal(cache.tables(row)[0].gather(1)[0], before[was])
    rows = [2, 0, 1, 1]
    more = {"input_ids": torch.tensor([[4], [5], [6], [7]]), "attention_mask": torch.ones(4, 1)}
    whole = {name: torch.cat([inputs[name][rows], more[name].long()], 1) for name in inputs}
    ours = generate(model, cache, whole)
    assert torch.equal(ours.sequences, eagerly(model, whole).sequences)
    free_blocks(cache)


def test_crop_leaves_no_trace() -> None:
    model, inputs = tiny("llama"), prompts(12, 7)
    cache = paged(model)
    first = generate(model, cache, inputs, max_new_tokens=8)
    free = free_blocks(cache)
    whole = {
        "input_ids": first.sequences,
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(2, 8).long()], 1),
    }
    further = generate(model, cache, whole)
    cache.crop(-(cache.get_seq_length() - 19))
    assert free_blocks(cache) == free
    assert [len(cache.tables(row)[0]) for row in range(2)] == [19, 14]
    again = generate(model, cache, whole)
    assert torch.equal(again.sequences, further.sequences)
    for step, expected in zip(again.logits, further.logits, strict=True):
        assert torch.equal(step, expected)


def test_what_is_recorded_can_be_cropped() -> None:
    """After activate_past_recording nothing behind a window goes until the next crop."""
    model, inputs = tiny("gemma3"), prompts(37)
    cache = paged(model)
    generate(model, cache, inputs, max_new_tokens=1)
    cache.activate_past_recording()
    ids = prompts(24, seed=4)["input_ids"]
    first = [forward(model, cache, ids[:, i : i + 1]) for i in range(24)]
    cache.crop(-20)
    assert cache.pools[1].num_used <= WINDOW // 4 + 2
    for i in range(4, 24):
        assert torch.equal(forward(model, cache, ids[:, i : i + 1]), first[i])
