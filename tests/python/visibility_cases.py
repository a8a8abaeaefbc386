"""Random calls for the tests of which keys a query sees, against float64 on those alone."""

from __future__ import annotations

from typing import Any

import dense_oracle
import numpy as np
from conftest import Problem, make_problem

import quire

IMPLEMENTATIONS = ("fused", "gather", "dense")
# 0, 1, around blocks of 16 and tiles of 32 to 128, and several parts
LENGTHS = (0, 1, 2, 15, 16, 17, 33, 64, 97, 129, 300, 400)


class Case:
    """One call by chance, with poison in all that no row sees."""

    def __init__(self, seed: int, has_trees: bool = False) -> None:
        self.random = random = np.random.default_rng(seed)
        batch = int(random.choice([1, 2, 3]))
        self.lengths = [int(n) for n in random.choice(LENGTHS, batch)]
        self.q_lens = [self.any_queries(n) for n in self.lengths]
        self.heads = self.one_of([(1, 1), (3, 3), (8, 2), (8, 1), (13, 1)])
        self.block_size = self.one_of([1, 5, 16, 32])
        self.dtypes = self.one_of(
            [
                ("float32",) * 3,
                ("float32",) * 3,
                ("bfloat16",) * 3,
                ("float16", "bfloat16", "float32"),
            ]
        )
        num_heads = self.heads[0]
        self.causal: Any = self.one_of([True, False, "each", "each"])
        if self.causal == "each":
            self.causal = random.random(batch) < 0.5
        self.options = {
            "sliding_window": self.any_window(),
            "num_sink_tokens": self.one_of([0, 0, 1, 7, 40]),
            "softcap": self.one_of([None, None, 3.0]),
            "scale": self.one_of([None, None, 0.0, -0.3]),
            "alibi_slopes": self.one_of([None, random.normal(0, 0.02, num_heads)]),
            "sinks": self.one_of([None, random.normal(0, 2, num_heads)]),
        }
        for name in ("alibi_slopes", "sinks"):
            if self.options[name] is not None:
                self.options[name] = self.options[name].astype(np.float32)
        self.has_positions = self.one_of([False, False, True])
        gaps = 1 + random.integers(0, 4, (batch, max(1, *self.lengths))) // 3 * 5
        self.positions = np.cumsum(gaps, axis=1) - (0 if random.random() < 0.5 else gaps[:, :1])

        # of as many rows as columns, dense or not; some rows see none, some columns nobody
        self.trees = [
            random.random((n, n)) < random.choice([0.1, 0.5, 0.9]) if has_trees else None
            for n in self.q_lens
        ]

    def one_of(self, choices: list[Any]) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def any_queries(self, keys: int) -> int:
        return int(self.one_of([0, 1, 2, 17, keys, keys + 1, keys + 1, keys + 20, 70]))

    def any_window(self) -> Any:
        side = [-1, 0, 1, 6, 31, 64, 1000]
        return self.one_of([None, 1, 20, 500, *[(self.one_of(side), self.one_of(side))] * 5])

    def key_positions(self, seq: int) -> Any:
        """[keys] of sequence `seq`."""
        length = self.lengths[seq]
        return self.positions[seq, :length] if self.has_positions else np.arange(length)

    def query_positions(self, seq: int) -> Any:
        """[queries]: those of their keys; before the first key one after the other."""
        keys = self.key_positions(seq)
        own = np.arange(len(keys) - self.q_lens[seq], len(keys))
        if len(keys) == 0:
            return own
        return np.where(own < 0, keys[0] + own, keys[np.maximum(own, 0)])

    def causal_of(self, seq: int) -> bool:
        return bool(self.causal if isinstance(self.causal, bool) else self.causal[seq])

    def masks(self, seq: int) -> dict[str, Any]:
        """What decides which keys the queries of a sequence see, as dense_oracle takes it."""
        names = ("sliding_window", "num_sink_tokens")
        masks = {name: self.options[name] for name in names}
        return {"causal": self.causal_of(seq), "tree": self.trees[seq], **masks}

    def seen(self, seq: int, **masks: Any) -> Any:
        """[keys]: whether some query of a sequence sees each of its keys."""
        return dense_oracle.visible(
            self.query_positions(seq), self.key_positions(seq), **{**self.masks(seq), **masks}
        ).any(axis=0)

    def needed(self, seq: int) -> Any:
        """[keys]: whether the block of each must be there; a tree needs all that it spans."""
        if self.trees[seq] is None:
            return self.seen(seq)
        return self.seen(seq, tree=np.ones_like(self.trees[seq]))

    def oracle(self, q: Any, k: Any, v: Any, seq: int) -> Any:
        """(out, lse, probabilities) of one sequence."""
        return dense_oracle.attention(
            q,
            k,
            v,
            self.query_positions(seq),
            self.key_positions(seq),
            **{**self.options, **self.masks(seq)},
        )

    def call_options(self) -> dict[str, Any]:
        options = {**self.options, "causal": self.causal}
        if self.trees and self.trees[0] is not None:
            options["tree_mask"] = np.concatenate([tree.ravel() for tree in self.trees])
        if self.has_positions:
            options["key_positions"] = self.positions
        return options


def hide_unseen(problem: Problem, seq: int, case: Case) -> None:
    """NaN in the keys of a sequence that no row sees; some blocks of such keys become holes."""
    needed = case.needed(seq)
    for key in np.flatnonzero(~case.seen(seq)):
        column, offset = divmod(int(key), case.block_size)
        block = problem.block_tables[seq, column]
        problem.k_cache[block, offset] = problem.v_cache[block, offset] = np.nan
    for column in range(-(-len(needed) // case.block_size)):
        of_block = needed[column * case.block_size : (column + 1) * case.block_size]
        if not of_block.any() and case.random.random() < 0.5:
            problem.block_tables[seq, column] = -1


def check_arrays(case: Case, implementation: str) -> None:
    """paged_attention: out, lse and block mass, NaN or holes where no row sees a key."""
    problem = make_problem(
        case.lengths,
        case.q_lens,
        heads=case.heads,
        head_dim=16,
        v_head_dim=case.one_of([16, 24]),
        block_size=case.block_size,
        dtypes=case.dtypes,
        seed=int(case.random.integers(1000)),
    )
    cu = problem.cu_seqlens_q
    expected = [
        case.oracle(problem.q[cu[i] : cu[i + 1]], problem.keys[i], problem.values[i], i)
        for i in range(len(case.lengths))
    ]
    for seq in range(len(case.lengths)):
        hide_unseen(problem, seq, case)
    out = np.full((*problem.q.shape[:2], problem.v_cache.shape[3]), np.nan, np.float32)
    _, lse, mass = quire.paged_attention(
        *problem.arguments,
        cu_seqlens_q=cu,
        out=out,
        return_lse=True,
        return_block_mass=True,
        implementation=implementation,
        **case.call_options(),
    )
    for seq, (expected_out, expected_lse, probabilities) in enumerate(expected):
        mine = slice(cu[seq], cu[seq + 1])
        bound = 2e-5 if implementation != "fused" or "bfloat16" not in case.dtypes[0] else 2e-2
        np.testing.assert_allclose(out[mine], expected_out, rtol=bound, atol=bound)
        np.testing.assert_allclose(lse[mine], expected_lse, rtol=2e-5, atol=2e-5)
        columns = np.arange(case.lengths[seq]) // case.block_size
        for column in range(problem.block_tables.shape[1]):
            of_block = probabilities[..., columns == column].sum(axis=2)
            np.testing.assert_allclose(mass[mine, :, column], of_block, rtol=1e-4, atol=2e-5)


def check_tables(case: Case, dtype: str, implementation: str) -> None:
    """attend over a pool of any dtype, against what its tables gather."""
    head_dim = 16
    pool = quire.BlockPool(
        200,
        block_size=16,
        num_kv_heads=case.heads[1],
        head_dim=head_dim,
        dtype=dtype,
        **({"open_blocks": 2} if dtype == "int4" else {}),
    )
    case.has_positions = False
    tables = [quire.BlockTable(pool) for _ in case.lengths]
    for table, length in zip(tables, case.lengths, strict=True):
        rows = case.random.standard_normal((2, length, case.heads[1], head_dim))
        table.append(*rows.astype(np.float32))
    cu = np.concatenate([[0], np.cumsum(case.q_lens)])
    q = case.random.standard_normal((cu[-1], case.heads[0], head_dim)).astype(np.float32)
    out, lse = quire.attend(
        q,
        tables,
        cu_seqlens_q=cu,
        return_lse=True,
        implementation=implementation,
        **case.call_options(),
    )
    for seq, table in enumerate(tables):
        mine = slice(cu[seq], cu[seq + 1])
        k, v = (rows.astype(np.float64) for rows in table.gather())
        expected, expected_lse, _ = case.oracle(q[mine], k, v, seq)
        np.testing.assert_allclose(out[mine], expected, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(lse[mine], expected_lse, rtol=1e-3, atol=2e-3)
