"""Which keys a query sees: more queries than keys, causal by sequence, windows of two sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Problem, make_problem
from filled_pool import fill, new_pool, poison_free_blocks
from visibility_cases import IMPLEMENTATIONS, Case, check_arrays, check_tables

import quire
from quire import _core
from quire.machine_peaks import environment

INSTRUCTION_SETS = _core.build_info()["instruction_sets_available"]


@pytest.mark.parametrize("seed", range(100))
def test_any_call(seed: int) -> None:
    """Against float64, on an instruction set after the other."""
    with environment(QUIRE_CPU=INSTRUCTION_SETS[seed % len(INSTRUCTION_SETS)]):
        for implementation in IMPLEMENTATIONS:
            check_arrays(Case(seed), implementation)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "float8_e4m3fn", "int4"])
@pytest.mark.parametrize("seed", range(10))
def test_any_call_over_tables(seed: int, dtype: str) -> None:
    with environment(QUIRE_CPU=INSTRUCTION_SETS[seed % len(INSTRUCTION_SETS)]):
        for implementation in IMPLEMENTATIONS:
            check_tables(Case(1000 + seed), dtype, implementation)


def results(problem: Problem, **options: Any) -> list[bytes]:
    return [
        array.tobytes()
        for implementation in IMPLEMENTATIONS
        for array in quire.paged_attention(
            *problem.arguments,
            cu_seqlens_q=problem.cu_seqlens_q,
            return_lse=True,
            return_block_mass=True,
            implementation=implementation,
            **options,
        )
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"sliding_window": 20}, {"sliding_window": (19, -1)}),
        ({"sliding_window": 20}, {"sliding_window": (19, 0)}),
        ({"sliding_window": 20, "causal": False}, {"sliding_window": (19, -1), "causal": False}),
        ({"causal": False}, {"sliding_window": (-1, -1), "causal": False}),
        ({"causal": False}, {"sliding_window": (2**62, 2**62), "causal": False}),
        ({}, {"sliding_window": (-1, 5)}),
        ({}, {"causal": np.ones(3, bool)}),
        ({"causal": False}, {"causal": np.zeros(3, bool)}),
        ({"causal": False}, {"causal": np.ones(6, bool)[::2] & False}),
    ],
)
def test_what_is_the_same_has_the_same_bits(one: Any, other: Any) -> None:
    problem = make_problem([300, 40, 17], [5, 40, 1])
    assert results(problem, **one) == results(problem, **other)


def test_a_window_of_the_right_side_alone_is_causal_with_a_reach() -> None:
    """(-1, 0) is causal, where no key beside the window is seen."""
    problem = make_problem([300, 40, 17], [5, 40, 1])
    causal = results(problem)
    window = results(problem, causal=False, sliding_window=(-1, 0))
    for a, b in zip(causal, window, strict=True):
        np.testing.assert_allclose(
            np.frombuffer(a, np.float32), np.frombuffer(b, np.float32), atol=2e-6
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_without_a_key_and_those_after_them(implementation: str) -> None:
    """Causal, the first see nothing, and the last are what they are without those."""
    more = make_problem([5, 0, 33], [7, 2, 34])
    rows = [slice(2, 7), slice(10, 43)]
    empty = [0, 1, 7, 8, 9]
    out, lse = quire.paged_attention(
        *more.arguments,
        cu_seqlens_q=more.cu_seqlens_q,
        return_lse=True,
        implementation=implementation,
    )
    assert not out[empty].any()
    assert (lse[empty] == -np.inf).all()
    for mine, seq in zip(rows, (0, 2), strict=True):
        alone = quire.paged_attention(
            more.q[mine],
            more.k_cache,
            more.v_cache,
            more.block_tables[seq : seq + 1],
            more.seq_lens[seq : seq + 1],
            cu_seqlens_q=np.array([0, mine.stop - mine.start]),
            implementation=implementation,
        )
        np.testing.assert_allclose(out[mine], alone, rtol=1e-6, atol=1e-6)


def test_every_row_of_cross_attention_sees_all_keys() -> None:
    """However many there are, each is what it is alone."""
    problem = make_problem([3, 40], [9, 41])
    out = quire.paged_attention(*problem.arguments, cu_seqlens_q=problem.cu_seqlens_q, causal=False)
    for seq, (begin, end) in enumerate([(0, 9), (9, 50)]):
        for row in range(begin, end):
            alone = quire.paged_attention(
                problem.q[row : row + 1],
                problem.k_cache,
                problem.v_cache,
                problem.block_tables[seq : seq + 1],
                problem.seq_lens[seq : seq + 1],
            )
            np.testing.assert_allclose(out[row], alone[0], rtol=2e-6, atol=2e-6)


class OnlyDlpack:
    """An array of a library that shows its memory through DLPack alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_bools_of_other_libraries() -> None:
    problem = make_problem([30, 40], [5, 4])
    causal = np.array([True, False])
    wide = np.array([True, True, False, True])[::2]
    expected = results(problem, causal=causal)
    assert results(problem, causal=OnlyDlpack(causal)) == expected
    assert results(problem, causal=OnlyDlpack(wide)) == expected
    with pytest.raises(TypeError, match="causal: got dtype float32, expected bool"):
        results(problem, causal=OnlyDlpack(np.ones(2, np.float32)))
    with pytest.raises(ValueError, match="causal: got 2 axes, expected 1"):
        results(problem, causal=OnlyDlpack(np.ones((2, 1), bool)))


@pytest.mark.parametrize(
    "options",
    [
        {"causal": np.array([True, False])},
        {"causal": np.array([False, True]), "sliding_window": (9, 2)},
        {"causal": False, "sliding_window": (-1, 3), "num_sink_tokens": 2},
    ],
)
def test_steps_have_the_bits_of_attend(options: Any) -> None:
    """A layer with one window and causality after a layer with another."""
    random = np.random.default_rng(3)
    pool = new_pool(num_layers=3)
    tables = [quire.BlockTable(pool) for _ in range(2)]
    for table, length in zip(tables, (25, 9), strict=True):
        table.append(*random.standard_normal((2, 3, length, 2, 16), np.float32))
    q = random.standard_normal((7, 4, 16), np.float32)
    k, v = random.standard_normal((2, 7, 2, 16), np.float32)
    layers: list[Any] = [{}, options, {**options, "causal": np.array([False, False])}]
    with quire.Step(tables, [3, 4]) as step:
        outs = [step.attend(q, k, v, layer=i, **o) for i, o in enumerate(layers)]
    for layer, (out, own) in enumerate(zip(outs, layers, strict=True)):
        expected = quire.attend(q, tables, layer=layer, cu_seqlens_q=np.array([0, 3, 7]), **own)
        assert out.tobytes() == expected.tobytes()


def test_holes_left_of_a_window_of_two_sides() -> None:
    """A window that reaches what was dropped is refused, one that ends before is not."""
    random = np.random.default_rng(4)
    pool = new_pool()
    tables = [quire.BlockTable(pool) for _ in range(2)]
    for table in tables:
        fill(table, 40, random)
        table.drop_before(20)
    poison_free_blocks(pool)
    q = random.standard_normal((2, 4, 16), np.float32)
    assert np.isfinite(quire.attend(q, tables, sliding_window=(19, 3), causal=False)).all()
    with pytest.raises(IndexError, match="got -1 at sequence 0, column 4"):
        quire.attend(q, tables, sliding_window=(20, 3), causal=False)
