"""Grids of int4 caches that no number can be read from: refused where a query sees them, with their
place, before anything is written; and never looked at elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from int4_call import Call
from int4_cases import IMPLEMENTATIONS, Shape, empty_caches

import quire

WRONG_GRIDS = [(0, 0.0), (0, -0.0), (0, -1.0), (0, np.nan), (0, np.inf), (0, -np.inf),
               (1, np.nan), (1, np.inf), (1, -np.inf)]  # fmt: skip


@pytest.mark.parametrize(("part", "wrong"), WRONG_GRIDS)
def test_a_wrong_grid_is_named_and_nothing_written(part: int, wrong: float) -> None:
    """Those that some query sees; of any other, or of open blocks, no grid is looked at."""
    kind = ("a step", "a middle")[part]
    expected = ("a positive finite number", "a finite number")[part]
    for implementation in IMPLEMENTATIONS:
        for block, offset, head, channel in ((2, 0, 0, 0), (2, 3, 1, 7), (0, 2, 0, 4)):
            for name, index, place in (
                ("k_scale", (block, head, channel), f"head {head}, channel {channel}"),
                ("v_scale", (block, offset, head), f"offset {offset}, head {head}"),
            ):
                call = Call()
                call.given[name][(*index, part)] = wrong
                thing = "block" if name == "k_scale" else "slot"
                message = (
                    f"{name}: got {kind} of (-?nan|-?inf|-?[01]) at block {block}, {place}, "
                    f"expected {expected} in each {thing} that is read"
                )
                with pytest.raises(ValueError, match=f"^paged_attention: {message}"):
                    call.attend(implementation=implementation)
                assert (call.out == 7).all()
        call = Call()
        call.given["v_scale"][0, 3, 0, part] = wrong  # past the sequence's end
        call.given["k_scale"][[1, 3], :, :, part] = wrong  # of blocks that it has not
        call.given["v_scale"][[1, 3], :, :, part] = wrong
        call.attend(implementation=implementation)
        call.given["k_scale"][2, :, :, part] = wrong  # out of the window
        call.given["v_scale"][2, :, :, part] = wrong
        call.given["v_scale"][0, :2, :, part] = wrong
        call.given["v_scale"][0, 3, 0, part] = 1
        call.tables = np.array([[2, 0, 5]])
        call.attend(implementation=implementation, sliding_window=4)
        call.tables = np.array([[-1, 0, 5]])
        call.attend(implementation=implementation, sliding_window=4)
        with pytest.raises(ValueError, match=rf"v_scale: got {kind} of .* at block 0, offset 0"):
            call.attend(implementation=implementation, sliding_window=6)


@pytest.mark.parametrize("tokens", [1, 5, 70])
@pytest.mark.parametrize("name", ["k_scale", "v_scale"])
def test_a_wrong_grid_is_found_in_every_head(name: str, tokens: int) -> None:
    """In sequences of many parts, whose grids are looked at part by part; and no other is refused.

    Also where heads go one by one: five tokens of 64 are more rows than go together.
    """
    heads, size, length, wrong = 8, 64, 3000, 100  # the column that is wrong
    shape = Shape(-(-length // 16), 2, 16, heads, size, size)
    caches = empty_caches(shape)
    for array in caches.arrays().values():
        array[...] = 1
    given = caches.given("NHD")
    both = given.pop("k_cache"), given.pop("v_cache")
    q = np.ones((tokens + 1, 8 * heads, size), np.float32)
    table = np.arange(shape.num_blocks)
    table[20] = shape.num_blocks + 1  # open
    tables, lengths = np.stack([table, table]), np.array([length, length])
    grids = given[name]
    out = np.full(q.shape, 7, np.float32)

    def attend(num_threads: int) -> None:
        quire.paged_attention(
            q, *both, tables, lengths, cu_seqlens_q=np.array([0, tokens, tokens + 1]), out=out,
            num_threads=num_threads, **given,
        )  # fmt: skip

    for head in range(heads):
        index = (wrong, head, 63) if name == "k_scale" else (wrong, 15, head)
        for part in (0, 1):
            grids[(*index, part)] = np.inf
            with pytest.raises(ValueError, match=rf"{name}: got a .* of inf at block {wrong}, "):
                attend(1 + head % 2)
            assert (out == 7).all()
            grids[(*index, part)] = 1
    grids[20] = np.nan  # the block that the open one stands for
    attend(1)
    assert not (out == 7).any()


def test_grids_at_their_ends_are_right() -> None:
    for step in (2**-24, 65504.0):
        for middle in (-65504.0, 65504.0, -0.0, 2**-24):
            call = Call()
            for name in ("k_scale", "v_scale"):
                call.given[name][...] = np.array([step, middle], np.float16)
            for implementation in IMPLEMENTATIONS:
                call.attend(implementation=implementation, scale=0.0)
                assert np.isfinite(call.out).all()
