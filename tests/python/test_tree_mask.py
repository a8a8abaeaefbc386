"""tree_mask: which of a sequence's last tokens each of its queries sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import make_problem
from filled_pool import new_pool
from visibility_cases import IMPLEMENTATIONS, Case, check_arrays, check_tables

import quire
from quire import _core
from quire.machine_peaks import environment

INSTRUCTION_SETS = _core.build_info()["instruction_sets_available"]
DTYPES = ["float32", "bfloat16", "int8", "float8_e4m3fn", "int4"]


@pytest.mark.parametrize("seed", range(80))
def test_any_tree(seed: int) -> None:
    """Masks of any density beside all other options, against float64."""
    with environment(QUIRE_CPU=INSTRUCTION_SETS[seed % len(INSTRUCTION_SETS)]):
        for implementation in IMPLEMENTATIONS:
            check_arrays(Case(seed, has_trees=True), implementation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(10))
def test_any_tree_over_tables(seed: int, dtype: str) -> None:
    with environment(QUIRE_CPU=INSTRUCTION_SETS[seed % len(INSTRUCTION_SETS)]):
        for implementation in IMPLEMENTATIONS:
            check_tables(Case(1000 + seed, has_trees=True), dtype, implementation)


def ancestors(parents: list[int]) -> Any:
    """[n, n]: whether column is on the way from the root to row, itself included."""
    mask = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [0, 1, 31, 250])
def test_a_node_is_what_it_is_as_the_end_of_its_branch(
    dtype: str, length: int, implementation: str
) -> None:
    """Two trees with forks in one call, each node against a sequence of its ancestors alone."""
    random = np.random.default_rng(length)
    options = {"open_blocks": 40} if dtype == "int4" else {}
    pool = new_pool(400, block_size=16, dtype=dtype, **options)
    forests = [[-1, 0, 0, 1, 1, 2, 5, 3, 3, -1, 9], [-1, 0, 1, 1]]
    prefixes = [random.standard_normal((2, length, 2, 16), np.float32) for _ in forests]
    nodes = [random.standard_normal((2, len(parents), 2, 16), np.float32) for parents in forests]

    def table_of(*pieces: Any) -> quire.BlockTable:
        table = quire.BlockTable(pool)
        table.append(*np.concatenate(pieces, axis=1))
        return table

    q = random.standard_normal((15, 4, 16), np.float32)
    masks = [ancestors(parents) for parents in forests]
    out, lse = quire.attend(
        q,
        [table_of(*pieces) for pieces in zip(prefixes, nodes, strict=True)],
        cu_seqlens_q=np.array([0, 11, 15]),
        tree_mask=np.concatenate([mask.ravel() for mask in masks]),
        return_lse=True,
        implementation=implementation,
    )
    row = 0
    for prefix, own, mask in zip(prefixes, nodes, masks, strict=True):
        for path in mask:
            branch = table_of(prefix, own[:, path])
            expected = quire.attend(
                q[row : row + 1], [branch], return_lse=True, implementation="dense"
            )
            bound = 2e-5 if dtype == "float32" else 1e-2
            np.testing.assert_allclose(out[row], expected[0][0], rtol=bound, atol=bound)
            np.testing.assert_allclose(lse[row], expected[1][0], rtol=bound, atol=bound)
            row += 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_chain_is_causal_and_all_is_not(implementation: str) -> None:
    problem = make_problem([300, 40, 17, 3], [5, 40, 1, 6])
    lengths = np.diff(problem.cu_seqlens_q)

    def call(**options: Any) -> Any:
        return quire.paged_attention(
            *problem.arguments,
            cu_seqlens_q=problem.cu_seqlens_q,
            implementation=implementation,
            **options,
        )

    chains = np.concatenate([np.tri(n, dtype=bool).ravel() for n in lengths])
    np.testing.assert_allclose(call(tree_mask=chains), call(), rtol=2e-6, atol=2e-6)
    everything = np.ones(len(chains), bool)
    np.testing.assert_allclose(call(tree_mask=everything), call(causal=False), rtol=2e-6, atol=2e-6)
    # causal, of either kind, is not looked at
    assert call(tree_mask=chains, causal=False).tobytes() == call(tree_mask=chains).tobytes()


def test_a_tree_has_the_same_bits_in_any_batch_and_on_any_threads() -> None:
    problem = make_problem([700, 90, 520], [9, 30, 9], heads=(8, 2))
    random = np.random.default_rng(1)
    trees = [random.random(n * n) < 0.5 for n in (9, 30, 9)]

    def call(seqs: list[int], threads: int) -> Any:
        begin = problem.cu_seqlens_q
        rows = np.concatenate([np.arange(begin[i], begin[i + 1]) for i in seqs])
        return quire.paged_attention(
            problem.q[rows],
            problem.k_cache,
            problem.v_cache,
            problem.block_tables[seqs],
            problem.seq_lens[seqs],
            cu_seqlens_q=np.cumsum([0, *np.diff(begin)[seqs]]),
            tree_mask=np.concatenate([trees[i] for i in seqs]),
            num_threads=threads,
        )

    together = call([0, 1, 2], 2)
    assert together.tobytes() == call([0, 1, 2], 1).tobytes()
    alone = np.concatenate([call([i], 1) for i in range(3)])
    assert together.tobytes() == alone.tobytes()


# of 150 tokens there are several units, and what trees show decides how far each goes
@pytest.mark.parametrize("n", [6, 150])
def test_layers_of_a_step_may_have_trees_of_their_own(n: int) -> None:
    random = np.random.default_rng(2)
    pool = new_pool(num_layers=4)
    table = quire.BlockTable(pool)
    table.append(*random.standard_normal((2, 4, 21, 2, 16), np.float32))
    q = random.standard_normal((n, 4, 16), np.float32)
    k, v = random.standard_normal((2, n, 2, 16), np.float32)
    trees = [np.tri(n, dtype=bool), np.ones((n, n), bool), random.random((n, n)) < 0.5]
    layers: list[Any] = [{}] + [{"tree_mask": tree.ravel()} for tree in trees]
    with quire.Step([table], n) as step:
        outs = [step.attend(q, k, v, layer=i, **options) for i, options in enumerate(layers)]
        with pytest.raises(ValueError, match="tree_mask: got 35 bools, expected "):
            step.attend(q, k, v, layer=1, tree_mask=np.ones(35, bool))
    cu = np.array([0, n])
    for layer, (out, options) in enumerate(zip(outs, layers, strict=True)):
        expected = quire.attend(q, [table], layer=layer, cu_seqlens_q=cu, **options)
        assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones(24, bool), ValueError, "tree_mask: got 24 bools, expected 25, the squares"),
        (np.ones((5, 5), bool), ValueError, "tree_mask: got 2 axes, expected 1"),
        (np.ones(25), TypeError, "tree_mask: got dtype float64, expected bool"),
        (True, TypeError, "tree_mask: got bool, expected an array of bool"),
    ],
)
def test_what_is_no_tree(mask: Any, error: type[Exception], message: str) -> None:
    problem = make_problem([20], [5])
    out = np.full(problem.q.shape, 7, np.float32)
    with pytest.raises(error, match=message):
        quire.paged_attention(
            *problem.arguments, cu_seqlens_q=problem.cu_seqlens_q, tree_mask=mask, out=out
        )
    assert (out == 7).all()
