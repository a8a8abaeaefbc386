"""paged_attention against float64 NumPy, over everything the contract promises."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import DTYPES, make_problem, reference

import quire
from quire.machine_peaks import environment

IMPLEMENTATIONS = ("fused", "gather", "dense")

BATCHES = (1, 3, 17)
LENGTHS = (1, 15, 16, 17, 54, 97, 512, 2048)
BLOCK_SIZES = (1, 5, 16, 32, 100)
HEADS = ((1, 1), (4, 4), (8, 2), (9, 3), (32, 8), (14, 2), (25, 1))
HEAD_DIMS = (1, 33, 64, 80, 96, 128, 192, 256, 576)
OPTIONS: dict[str, Any] = {
    "causal": False,
    "scale": 0.3,
    "sliding_window": 19,
    "softcap": 3.0,
    "alibi_slopes": "per head",
    "sinks": "per head",
}


def run(problem: Any, implementation: str, **options: Any) -> tuple[Any, Any]:
    """Into a float32 output, so that only the arithmetic is judged."""
    out = np.full((*problem.q.shape[:2], problem.v_cache.shape[3]), np.nan, np.float32)
    return quire.paged_attention(
        *problem.arguments,
        cu_seqlens_q=problem.cu_seqlens_q,
        out=out,
        return_lse=True,
        implementation=implementation,
        **options,
    )


def check(problem: Any, options: dict[str, Any], **run_options: Any) -> None:
    expected, expected_lse = reference(problem, **options)
    for implementation in IMPLEMENTATIONS:
        out, lse = run(problem, implementation, **options, **run_options)
        np.testing.assert_allclose(out, expected, atol=2e-5, rtol=2e-5, err_msg=implementation)
        np.testing.assert_allclose(lse, expected_lse, atol=2e-5, rtol=2e-5, err_msg=implementation)
        assert quire.last_implementation() == implementation


def per_head(options: dict[str, Any], num_heads: int) -> dict[str, Any]:
    values = np.linspace(-0.4, 1.1, num_heads).astype(np.float32)
    return {name: values if value == "per head" else value for name, value in options.items()}


# Every value of every dimension of the grid turns up: each is dealt round at its own pace, and what
# is left out is the product of them all.
GRID = [
    (
        BATCHES[i % 3],
        LENGTHS[i % 8],
        BLOCK_SIZES[i % 5],
        HEADS[i % 7],
        HEAD_DIMS[i % 9],
        i,
    )
    for i in range(63)
]


@pytest.mark.parametrize(("batch", "length", "block_size", "heads", "head_dim", "seed"), GRID)
def test_grid(
    batch: int, length: int, block_size: int, heads: tuple[int, int], head_dim: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    if batch * length * heads[0] * head_dim > 3e7:
        length = 97  # the reference is slow; long contexts meet the smaller shapes
    lengths = [length, *random.integers(0, length + 1, batch - 1).tolist()]
    q_lens = [min(n, int(random.integers(1, 4))) if n else 1 for n in lengths]
    problem = make_problem(
        lengths,
        q_lens,
        heads=heads,
        head_dim=head_dim,
        v_head_dim=max(1, head_dim // 2 + 3) if seed % 3 == 0 else None,
        block_size=block_size,
        layout="HND" if seed % 2 else "NHD",
        seed=seed,
    )
    expected, expected_lse = reference(problem)
    layout = "HND" if seed % 2 else "NHD"
    for implementation in ("fused", "gather"):
        out, lse = run(problem, implementation, layout=layout)
        np.testing.assert_allclose(out, expected, atol=2e-5, rtol=2e-5)
        np.testing.assert_allclose(lse, expected_lse, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "names",
    [(), *((name,) for name in OPTIONS), *itertools.combinations(OPTIONS, 2)],
    ids=lambda names: "+".join(names) or "none",
)
def test_options_alone_and_in_pairs(instruction_set: str, names: tuple[str, ...]) -> None:
    problem = make_problem([70, 1, 33], [5, 1, 33], heads=(6, 3), head_dim=40, block_size=5)
    check(problem, per_head({name: OPTIONS[name] for name in names}, 6))


@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, repeat=3)), ids="-".join)
def test_every_combination_of_dtypes(instruction_set: str, dtypes: tuple[str, str, str]) -> None:
    for head_dim, v_head_dim in ((64, 64), (33, 50)):
        problem = make_problem(
            [50, 130], [2, 1], head_dim=head_dim, v_head_dim=v_head_dim, dtypes=dtypes
        )
        check(problem, {})


@pytest.mark.parametrize("dtype", DTYPES)
def test_output_has_the_dtype_of_q(dtype: str) -> None:
    problem = make_problem([40], dtypes=(dtype, "float32", "float32"))
    out = quire.paged_attention(*problem.arguments)
    assert out.dtype == DTYPES[dtype]
    expected, _ = reference(problem)
    tolerance = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(out.astype(np.float64), expected, atol=tolerance)


def test_a_block_table_may_be_much_wider_than_what_is_used() -> None:
    """Its unused columns have no memory of their own that a result could lie in."""
    k, v = np.random.default_rng(5).standard_normal((2, 4, 16, 1, 256), np.float32)
    q = np.ones((1, 1024, 256), np.float32)  # results of 1 MiB
    tables = np.broadcast_to(np.array([[3]], np.int64), (1, 2**43))
    out = quire.paged_attention(q, k, v, tables, np.array([16]))
    np.testing.assert_array_equal(
        out, quire.paged_attention(q, k, v, np.array([[3]]), np.array([16]))
    )


def test_outputs_are_rounded_to_nearest_even() -> None:
    for dtype in ("float16", "bfloat16"):
        # keys and values in float32: no kernel rounds their weights to those of a bfloat16 result
        problem = make_problem([200], dtypes=(dtype, "float32", "float32"))
        exact = run(problem, "fused")[0]
        rounded = quire.paged_attention(*problem.arguments)
        assert rounded.tobytes() == exact.astype(DTYPES[dtype]).tobytes()


def test_huge_scores(instruction_set: str) -> None:
    """Scores of magnitude 5e5, exact in float32: the differences between them must survive."""
    problem = make_problem([300], heads=(4, 2), head_dim=64)
    random = np.random.default_rng(0)
    problem.q[...] = 512.0
    problem.q[..., 0] = 1.0
    keys = problem.keys[0]
    keys[...] = 16.0
    keys[..., 0] = random.integers(-9, 9, keys.shape[:2])
    for position in range(300):
        block = problem.block_tables[0, position // 16]
        problem.k_cache[block, position % 16] = keys[position]
    expected, lse = reference(problem, scale=1.0)
    assert lse.min() > 5e5
    for implementation in IMPLEMENTATIONS:
        out, _ = run(problem, implementation, scale=1.0)
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_one_key_wins_by_far(instruction_set: str) -> None:
    problem = make_problem([100, 100], magnitude=1e5)
    expected, _ = reference(problem)
    for implementation in IMPLEMENTATIONS:
        np.testing.assert_allclose(run(problem, implementation)[0], expected, atol=1e-5)


def test_rows_that_see_nothing(instruction_set: str) -> None:
    problem = make_problem([0, 20, 0], [2, 1, 1])
    for implementation in IMPLEMENTATIONS:
        out, lse = run(problem, implementation, sinks=np.ones(4, np.float32))
        assert not out[[0, 1, 3]].any()
        assert np.isneginf(lse[[0, 1, 3]]).all()
        assert np.isfinite(out).all()


def test_nothing_at_all() -> None:
    problem = make_problem([5, 5], [0, 0])
    assert run(problem, "fused")[0].shape == (0, 4, 64)
    empty = make_problem([], [])
    assert run(empty, "fused")[0].shape == (0, 4, 64)


def test_strided_queries_and_caches() -> None:
    plain = make_problem([77, 20], [3, 1], head_dim=48)
    expected, _ = reference(plain)
    wide_q = np.full((8, 8, 96), np.nan, np.float32)
    wide_q[::2, 1::2, 11:59] = plain.q
    wide_k = np.full((*plain.k_cache.shape[:2], 5, 96), np.nan, np.float32)
    wide_k[:, :, 1::2, 7:55] = plain.k_cache
    wide_v = np.full((2 * len(plain.v_cache), *plain.v_cache.shape[1:]), np.nan, np.float32)
    wide_v[::-2] = plain.v_cache
    tables = np.full((2, 20), 7, np.int64)
    tables[:, 1 : 2 * plain.block_tables.shape[1] : 2] = plain.block_tables
    wide_out = np.zeros((4, 8, 60), np.float32)
    for implementation in IMPLEMENTATIONS:
        out = quire.paged_attention(
            wide_q[::2, 1::2, 11:59],
            wide_k[:, :, 1::2, 7:55],
            wide_v[::-2],
            tables[:, 1 : 2 * plain.block_tables.shape[1] : 2],
            np.array([77, 0, 20, 0])[::2],
            cu_seqlens_q=plain.cu_seqlens_q,
            out=wide_out[:, 1::2, 3:51],
            implementation=implementation,
        )
        np.testing.assert_allclose(out, expected, atol=2e-5)
        assert np.shares_memory(out, wide_out)
        assert not wide_out[:, ::2].any()
        assert not wide_out[..., 51:].any()


@pytest.mark.parametrize("implementation", ["fused", "gather"])
def test_same_bits_in_any_batch_and_on_any_threads(
    instruction_set: str, implementation: str
) -> None:
    lengths, q_lens = [3000, 1, 512, 64, 2048, 17], [1, 1, 4, 64, 1, 2]
    problem = make_problem(lengths, q_lens, dtypes=("bfloat16",) * 3, head_dim=32)
    whole, lse = run(problem, implementation, num_threads=1)
    for threads in (2, 3, 7):
        again, lse_again = run(problem, implementation, num_threads=threads)
        assert again.tobytes() == whole.tobytes()
        assert lse_again.tobytes() == lse.tobytes()
    for chosen in ([0], [5, 2], [4, 3, 1]):
        rows = [np.arange(*problem.cu_seqlens_q[i : i + 2]) for i in chosen]
        out = quire.paged_attention(
            problem.q[np.concatenate(rows)],
            problem.k_cache,
            problem.v_cache,
            problem.block_tables[chosen],
            problem.seq_lens[chosen],
            cu_seqlens_q=np.cumsum([0, *map(len, rows)]),
            out=np.empty((sum(map(len, rows)), 4, 32), np.float32),
            implementation=implementation,
        )
        assert out.tobytes() == whole[np.concatenate(rows)].tobytes()


def test_implementation_by_argument_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem([9])
    monkeypatch.delenv("QUIRE_ATTENTION", raising=False)
    quire.paged_attention(*problem.arguments)
    assert quire.last_implementation() == "fused"
    monkeypatch.setenv("QUIRE_ATTENTION", "dense")
    quire.paged_attention(*problem.arguments)
    assert quire.last_implementation() == "dense"
    quire.paged_attention(*problem.arguments, implementation="gather")
    assert quire.last_implementation() == "gather"
    monkeypatch.setenv("QUIRE_ATTENTION", "fastest")
    with pytest.raises(ValueError, match='QUIRE_ATTENTION: got "fastest", expected fused'):
        quire.paged_attention(*problem.arguments)


def test_an_instruction_set_that_is_not_here() -> None:
    with environment(QUIRE_CPU="z80"):
        for _ in range(2):
            with pytest.raises(ValueError, match=r'QUIRE_CPU: got "z80", expected .*: .*scalar'):
                quire.paged_attention(*make_problem([9]).arguments)
    quire.paged_attention(*make_problem([9]).arguments)


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quire.paged_attention(*make_problem([9]).arguments)
    monkeypatch.setenv("QUIRE_CPU", "z80")
    quire.paged_attention(*make_problem([9]).arguments)


def test_last_implementation_belongs_to_the_thread() -> None:
    code = "import quire; assert quire.last_implementation() is None"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
