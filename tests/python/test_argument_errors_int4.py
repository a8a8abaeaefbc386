"""Wrong arguments of int4 caches: refused with their place, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int4_call import ARRAYS, BLOCK_SIZE, HEADS, SIZE, V_SIZE, Call
from int4_cases import FLOATS, IMPLEMENTATIONS, Shape, empty_caches
from sampled_examples import examples

import quire


def replaced(name: str, value: Any) -> Callable[[Call], None]:
    def change(call: Call) -> None:
        assert name in call.given
        call.given[name] = value

    return change


def cast(name: str, dtype: Any) -> Callable[[Call], None]:
    def change(call: Call) -> None:
        call.given[name] = call.given[name].astype(dtype)

    return change


def cut(name: str, index: Any) -> Callable[[Call], None]:
    def change(call: Call) -> None:
        call.given[name] = call.given[name][index]

    return change


def with_last_stride(name: str) -> Callable[[Call], None]:
    """The last axis of twice its stride."""

    def change(call: Call) -> None:
        array = call.given[name]
        call.given[name] = np.repeat(array, 2, axis=-1)[..., ::2]

    return change


def apart_by_head(call: Call) -> None:
    """Grids of keys whose channels lie apart."""
    grids = call.given["k_scale"]
    call.given["k_scale"] = np.ascontiguousarray(grids.swapaxes(1, 2)).swapaxes(1, 2)


def off_alignment(name: str) -> Callable[[Call], None]:
    def change(call: Call) -> None:
        array = call.given[name]
        memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
        call.given[name] = memory.view(array.dtype).reshape(array.shape)

    return change


# For both functions.
CASES: list[tuple[Callable[[Call], None], type[Exception], str]] = [
    (cast("v_cache", np.int8), TypeError, r"v_cache: got int8, expected int4 \(uint8\), as k_ca"),
    (cast("v_cache", np.float32), TypeError, r"v_cache: got float32, expected int4 \(uint8\)"),
    (cast("k_cache", np.float16), TypeError, r"v_cache: got int4, expected no int4 \(uint8\), as"),
    (cut("k_cache", (..., slice(3))), ValueError, r"k_cache: got shape .* 3\], .*, 4\] .*D / 2\]"),
    (cut("k_cache", (..., 0)), ValueError, r"k_cache: got shape \[4, 4, 2\], expected"),
    (cut("v_cache", slice(3)), ValueError, r"v_cache: got shape \[3, .*Dv / 2\], as k_cache"),
    (with_last_stride("k_cache"), ValueError, "k_cache: got a last axis of stride 2 bytes"),
    (replaced("k_scale", None), ValueError, "k_scale: got None, expected the grids of a k_cache"),
    (replaced("v_scale", None), ValueError, "v_scale: got None, expected the grids of a v_cache"),
    (replaced("k_scale", 1.0), ValueError, r"k_scale: got a number, expected float16 \[num_block"),
    (replaced("v_scale", 0.5), ValueError, r"v_scale: got a number, expected float16 \[num_block"),
    (replaced("v_scale", "1"), TypeError, "v_scale: got str"),
    (cast("k_scale", np.float32), TypeError, r"k_scale: got float32, expected float16 \[num_bloc"),
    (cast("v_scale", FLOATS["bfloat16"]), TypeError, "v_scale: got bfloat16, expected float16"),
    (cast("k_scale", np.float64), TypeError,
     r"k_scale: got dtype float64, expected float16 \[..., 2\], the grids of a cache of int4$"),
    (cast("v_scale", np.uint8), TypeError, r"v_scale: got dtype uint8, expected float16 \[..., 2"),
    (cut("k_scale", (..., 0)), ValueError, r"k_scale: got shape \[4, 2, 8\], expected \[4, 2, 8,"),
    (cut("k_scale", (slice(None), 0)), ValueError, r"k_scale: got shape \[4, 8, 2\]"),
    (cut("v_scale", slice(3)), ValueError, r"v_scale: got shape \[3, 4, 2, 2\], expected \[4, 4,"),
    (replaced("v_scale", np.ones(HEADS, np.float16)), ValueError, r"v_scale: got shape \[2\], exp"),
    (with_last_stride("k_scale"), ValueError, "k_scale: got strides of 4 bytes on axis 3, exp"),
    (with_last_stride("v_scale"), ValueError, "v_scale: got strides of 4 bytes on axis 3, exp"),
    (apart_by_head, ValueError, "k_scale: got strides of 8 bytes on axis 2, expected 4"),
    (off_alignment("k_scale"), ValueError, "k_scale: got elements off their alignment"),
    (off_alignment("v_scale"), ValueError, "v_scale: got elements off their alignment"),
    (replaced("k_open", None), ValueError, "k_open: got None, expected open blocks as v_open has"),
    (replaced("v_open", None), ValueError, "v_open: got None, expected open blocks as k_open has"),
    (cast("k_open", np.uint8), TypeError, "k_open: got dtype uint8, expected float32, float16 or"),
    (cast("v_open", np.int8), TypeError, "v_open: got dtype int8"),
    (cast("v_open", np.float64), TypeError, "v_open: got dtype float64"),
    (cut("k_open", (..., slice(4))), ValueError, r"k_open: got shape \[2, 4, 2, 4\], expected"),
    (cut("k_open", (slice(None), slice(3))), ValueError, r"k_open: got shape \[2, 3, 2, 8\]"),
    (cut("k_open", (slice(None), slice(None), slice(1))), ValueError, "k_open: got shape"),
    (cut("k_open", 0), ValueError, r"k_open: got shape \[4, 2, 8\], expected \[2, 4, 2, 8\]"),
    (cut("v_open", slice(1)), ValueError, r"v_open: got shape \[1, 4, 2, 6\], expected \[2, 4,"),
    (cut("v_open", (..., slice(5))), ValueError, r"v_open: got shape \[2, 4, 2, 5\]"),
    (with_last_stride("v_open"), ValueError, "v_open: got a last axis of stride 8 bytes"),
    (off_alignment("k_open"), ValueError, "k_open: got elements off their alignment"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), CASES, ids=[c[2][:36] for c in CASES])
@pytest.mark.parametrize("function", ["paged_attention", "write_kv"])
def test_wrong_arrays(
    function: str, change: Callable[[Call], None], error: type[Exception], message: str
) -> None:
    call = Call()
    change(call)
    before = call.bytes()
    with pytest.raises(error, match=f"^{function}: {message}"):
        call.attend() if function == "paged_attention" else call.write()
    assert call.bytes() == before


def test_open_blocks_without_number() -> None:
    call = Call()
    call.given["k_open"], call.given["v_open"] = call.given["k_open"][0], call.given["v_open"][0]
    message = r"k_open: got shape \[4, 2, 8\], expected \[num_open, 4, 2, 8\] \(\[num_open, "
    with pytest.raises(ValueError, match=f"^paged_attention: {message}"):
        call.attend()


def test_the_calls_are_right_as_they_are() -> None:
    for layout in ("NHD", "HND"):
        call = Call(layout)
        call.write()
        for implementation in IMPLEMENTATIONS:
            call.attend(implementation=implementation)
            assert not (call.out == 7).any()


@pytest.mark.parametrize("odd", ["k", "v"])
def test_odd_head_sizes(odd: str) -> None:
    call = Call()
    call.q, call.k = call.q[..., :7], call.k[..., :7] if odd == "k" else call.k
    message = "a last axis of 7, expected an even one for caches of int4"
    with pytest.raises(ValueError, match=f"paged_attention: q: got {message}"):
        call.attend()
    if odd == "v":
        call.v = np.ones((7, HEADS, 7), np.float32)
    with pytest.raises(ValueError, match=f"write_kv: {odd}: got {message}"):
        call.write()


@pytest.mark.parametrize("plain", ["k_cache", "v_cache"])
def test_open_blocks_stand_beside_quantised_caches_alone(plain: str) -> None:
    blocks = np.zeros((2, 4, 1, 8), np.float32)
    rows = np.ones((1, 1, 8), np.float32)
    caches = {name: np.zeros((2, 4, 1, 8), np.int8) for name in ("k_cache", "v_cache")}
    caches[plain] = caches[plain].astype(np.float32)
    options = {f"{name[0]}_scale": 1.0 for name in caches if name != plain}
    for name in ("k_open", "v_open"):
        message = f"{name}: got open blocks beside a {plain} of float32, expected None"
        given = (caches["k_cache"], caches["v_cache"])
        with pytest.raises(ValueError, match=message):
            quire.write_kv(rows, rows, *given, np.array([0]), **options, **{name: blocks})
        with pytest.raises(ValueError, match=message):
            quire.paged_attention(
                rows, *given, np.array([[0]]), np.array([1]), **options, **{name: blocks}
            )
    assert not caches["k_cache"].any()


@pytest.mark.parametrize("block", [-2, -1, 6, 2**40])
def test_block_ids(block: int) -> None:
    call = Call()
    call.tables[0, 1] = block
    place = f"got {block} at sequence 0, column 1, expected 0 to 5, of which the last 2 blocks are"
    for implementation in IMPLEMENTATIONS:
        with pytest.raises(IndexError, match=f"block_tables: {place} open"):
            call.attend(implementation=implementation)
    assert (call.out == 7).all()
    call = Call()
    call.given |= {"k_open": None, "v_open": None}
    with pytest.raises(IndexError, match=r"column 1, expected 0 to 3$"):
        call.attend()


@pytest.mark.parametrize("slot", [-2, 24, 2**40])
def test_slots(slot: int) -> None:
    call = Call()
    call.slots[5] = slot
    before = call.bytes()
    message = f"got {slot} at row 5, expected 0 to 23, of which the last 2 blocks are open, or -1"
    with pytest.raises(IndexError, match=f"write_kv: slot_mapping: {message} to skip the row"):
        call.write()
    call.slots[5] = -1
    call.given |= {"k_open": None, "v_open": None}
    with pytest.raises(IndexError, match="got 16 at row 4, expected 0 to 15, or -1"):
        call.write()
    call.given |= {name: array for name, array in Call().given.items() if name.endswith("open")}
    assert call.bytes() == before


@pytest.mark.parametrize(
    ("slots", "block", "row"),
    [
        ([7, 6, 5, 16, 17, -1, 18], 1, 0),  # too few rows
        ([7, 6, 5, 5, 16, -1, 18], 1, 0),  # as many, of which two go to one slot
        ([16, 4, 5, 6, 7, 12, 17], 3, 5),
        ([16, 0, 4, 5, 6, 7, 15], 0, 1),
        ([0, 4, 1, 5, 2, 6, 7], 0, 0),
    ],
)
def test_a_sealed_block_is_written_whole(slots: list[int], block: int, row: int) -> None:
    call = Call()
    call.slots = np.array(slots)
    before = call.bytes()
    message = (
        f"got rows for some slots of block {block}, the first at row {row}, expected rows for all "
        "4 or none"
    )
    with pytest.raises(ValueError, match=f"write_kv: slot_mapping: {message}"):
        call.write()
    assert call.bytes() == before


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 65505.0, -65520.0, 3e38])
@pytest.mark.parametrize("row", [1, 6])  # of a sealed block, of an open one
@pytest.mark.parametrize("side", ["k", "v"])
def test_rows_that_have_no_place_on_a_grid(side: str, row: int, wrong: float) -> None:
    for dtype in FLOATS.values():
        call = Call()
        rows = getattr(call, side).astype(dtype)
        setattr(call, side, rows)
        with np.errstate(over="ignore"):
            rows[row, 1, 3] = wrong
        if not np.isfinite(wrong) or abs(float(rows[row, 1, 3])) > 65504:
            before = call.bytes()
            message = (
                f"write_kv: {side}: got .* at row {row}, head 1, element 3, which goes to slot "
                f"{call.slots[row]}, expected finite numbers of at most 65504 in magnitude for a "
                "cache of int4"
            )
            with pytest.raises(ValueError, match=message):
                call.write()
            assert call.bytes() == before
        rows[row, 1, 3] = 65504.0 if dtype != FLOATS["bfloat16"] else -65280.0
        rows[5] = np.nan  # is skipped
        call.write()


@pytest.mark.parametrize("name", ARRAYS)
def test_memory_of_its_own(name: str) -> None:
    call = Call()
    array = call.given[name]
    frozen = array.copy()
    frozen.flags.writeable = False
    call.given[name] = frozen
    with pytest.raises(ValueError, match=f"write_kv: {name}: got a read-only array"):
        call.write()
    call.attend()  # which only reads it
    call.given[name] = array
    memory = array.view(np.uint8).reshape(-1)
    if memory.size >= call.out.nbytes:
        before = call.bytes()[:-1]
        call.out = memory[: call.out.nbytes].view(np.float32).reshape(call.out.shape)
        with pytest.raises(ValueError, match=f"out: got memory that overlaps {name}'s"):
            call.attend()
        assert call.bytes()[:-1] == before
    call = Call()
    memory = call.given[name].view(np.uint8).reshape(-1)
    call.slots = memory[:56].view(np.int64)
    with pytest.raises(ValueError, match=f"write_kv: slot_mapping: got memory .* {name}'s"):
        call.write()
    for side in ("k", "v"):
        call = Call()
        memory = call.given[name].view(np.uint8).reshape(-1)
        rows = memory[: HEADS * 2 * 4].view(np.float32).reshape(1, HEADS, 2)
        given = {"k": np.ones((1, HEADS, SIZE), np.float32), "v": np.ones((1, HEADS, V_SIZE))}
        given["v"] = given["v"].astype(np.float32)
        strides = (0, 0, 4)
        size = given[side].shape[2]
        given[side] = np.lib.stride_tricks.as_strided(rows, (1, HEADS, size), strides)
        call.k, call.v, call.slots = given["k"], given["v"], np.array([-1])
        with pytest.raises(
            ValueError, match=f"write_kv: {side}: got memory that overlaps {name}'s"
        ):
            call.write()


@pytest.mark.parametrize(("one", "other"), [("k_cache", "v_cache"), ("k_open", "v_open")])
def test_one_memory_for_two(one: str, other: str) -> None:
    shape = Shape(4, 2, BLOCK_SIZE, HEADS, SIZE, SIZE)
    call = Call()
    call.given |= empty_caches(shape).given("NHD")
    call.v = call.k
    call.given[other] = call.given[one]
    with pytest.raises(ValueError, match=f"write_kv: {other}: got the memory of {one}, expected"):
        call.write()
    call.given["k_scale"][...] = call.given["v_scale"][...] = 1
    call.out = np.zeros((2, 4, SIZE), np.float32)
    call.attend()  # what is only read may be shared


WORDS = [None, 0, 1.5, -1, "NHD", True, float("nan"), [1], b"x", object()]


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_random_arguments_raise_or_work(data: st.DataObject) -> None:
    """Nothing but the promised errors, whatever comes; and where it raises nothing has changed."""

    def pick(values: Any) -> Any:
        return data.draw(st.sampled_from(list(values)))

    call = Call(pick(["NHD", "HND"]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    for _ in range(data.draw(st.integers(1, 3))):
        name = pick([*ARRAYS, "layout", "tables", "lengths", "slots", "k", "v", "q"])
        value = call.given[name] if name in call.given else getattr(call, name)
        if isinstance(value, np.ndarray):
            kind = pick(["cast", "cut", "swap", "fill", "back", "word", "axis", "wide", "other"])
            if kind == "cast":
                value = value.astype(pick([*FLOATS.values(), np.uint8, np.int8, np.int64]))
            elif kind == "cut":
                axis = data.draw(st.integers(0, max(0, value.ndim - 1)))
                index = [slice(None)] * value.ndim
                index[axis : axis + 1] = [slice(data.draw(st.integers(0, 3)))]
                value = value[tuple(index)] if value.ndim else value
            elif kind == "swap" and value.ndim > 1:
                value = value.swapaxes(*random.permutation(value.ndim)[:2])
            elif kind == "fill":
                value = value.copy()
                number = pick([0, 1, 3, 5, 6, 23, 24, -1, -2, 250])
                value.reshape(-1)[: random.integers(0, value.size + 1)] = np.array(number).astype(
                    value.dtype
                )
            elif kind == "back":
                value = value[::-1] if value.ndim else value
            elif kind == "word":
                value = pick(WORDS)
            elif kind == "axis":
                value = value[None]
            elif kind == "wide":
                value = np.broadcast_to(value, (3, *value.shape)) if value.ndim < 5 else value
            elif kind == "other":
                value = call.given[pick(ARRAYS)]
        else:
            value = pick(["HND", "NHD", *WORDS])
        if name in call.given:
            call.given[name] = value
        else:
            setattr(call, name, value)
    for run in (lambda: call.attend(implementation="dense"), call.write, call.attend):
        before = call.bytes()
        raised = ""
        try:
            run()
        except (ValueError, TypeError, IndexError) as error:
            raised = str(error)
        if raised:
            assert call.bytes() == before
            assert raised.split(":")[0] in ("paged_attention", "write_kv")
