"""Sliding windows over tables with holes, and the first tokens that they see beside."""

from __future__ import annotations

from typing import Any

import dense_oracle
import numpy as np
import pytest
from filled_pool import fill, new_pool, poison_free_blocks, pool_of_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampled_examples import examples

import quire

IMPLEMENTATIONS = ("fused", "gather", "dense")
EPSILON = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.5e-2}


@st.composite
def window_cases(draw: st.DrawFn) -> dict[str, Any]:
    block_size = draw(st.sampled_from([1, 3, 4, 16]))
    lengths = draw(st.lists(st.integers(1, 90), min_size=1, max_size=3))
    many = draw(st.booleans())
    return {
        "lengths": lengths,
        "q_lens": [draw(st.integers(0, min(n, 20 if many else 2))) for n in lengths],
        "block_size": block_size,
        "heads": draw(st.sampled_from([(1, 1), (2, 3), (1, 8), (2, 16)])),
        "head_dims": draw(st.sampled_from([(16, 16), (5, 9), (64, 64), (40, 24)])),
        "dtype": draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        "window": draw(st.sampled_from([1, 2, 7, 16, 33, 1000])),
        "num_sink_tokens": draw(st.sampled_from([0, 1, 4, 5, 17, 100])),
        "causal": draw(st.booleans()),
        "softcap": draw(st.sampled_from([None, 3.0])),
        "alibi": draw(st.booleans()),
        "sinks": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.usefixtures("instruction_set")
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(case=window_cases())
def test_dropped_tokens_are_never_missed(case: dict[str, Any]) -> None:
    """The same bits as before dropping, close to the oracle, with NaN in all that was dropped."""
    check_dropped_tokens(case)


def check_dropped_tokens(case: dict[str, Any]) -> None:
    random = np.random.default_rng(case["seed"])
    (num_kv_heads, group), (head_dim, v_head_dim) = case["heads"], case["head_dims"]
    pool = pool_of_case(case, sum(-(-n // case["block_size"]) for n in case["lengths"]) + 3)
    tables = [quire.BlockTable(pool) for _ in case["lengths"]]
    rows = [fill(table, n, random) for table, n in zip(tables, case["lengths"], strict=True)]
    cu = np.concatenate([[0], np.cumsum(case["q_lens"])])
    num_heads = num_kv_heads * group
    q = random.standard_normal((cu[-1], num_heads, head_dim)).astype(pool.dtype)
    masks: dict[str, Any] = {
        "causal": case["causal"],
        "sliding_window": case["window"],
        "num_sink_tokens": case["num_sink_tokens"],
        "softcap": case["softcap"],
        "alibi_slopes": random.normal(0, 0.1, num_heads).astype(np.float32)
        if case["alibi"]
        else None,
        "sinks": random.normal(0, 2, num_heads).astype(np.float32) if case["sinks"] else None,
    }

    def attend(implementation: str) -> Any:
        options: Any = {**masks, "implementation": implementation}
        out = np.full((len(q), num_heads, v_head_dim), np.nan, np.float32)
        return quire.attend(q, tables, cu_seqlens_q=cu, out=out, return_lse=True, **options)

    poison_free_blocks(pool)
    before = {name: attend(name) for name in IMPLEMENTATIONS}
    for seq, (table, n) in enumerate(zip(tables, case["lengths"], strict=True)):
        first_query = n - case["q_lens"][seq]
        table.drop_before(
            min(n, first_query + 1 - case["window"]), num_sink_tokens=case["num_sink_tokens"]
        )
    poison_free_blocks(pool)
    pool.check()
    for name in IMPLEMENTATIONS:
        out, lse = attend(name)
        assert out.tobytes() == before[name][0].tobytes()
        assert lse.tobytes() == before[name][1].tobytes()
        for seq, (k, v) in enumerate(rows):
            mine = slice(cu[seq], cu[seq + 1])
            positions = np.arange(len(k))
            expected, expected_lse, _ = dense_oracle.attention(
                q[mine], k, v, positions[len(k) - case["q_lens"][seq] :], positions, **masks
            )
            bound = EPSILON[case["dtype"]] if name == "fused" else 2e-5
            np.testing.assert_allclose(out[mine], expected, rtol=bound, atol=bound)
            np.testing.assert_allclose(lse[mine], expected_lse, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_sink_tokens": -1}, ValueError, "got -1, expected >= 0"),
        ({"num_sink_tokens": None}, TypeError, "got NoneType, expected an int"),
        ({"num_sink_tokens": 1.0}, TypeError, "got float, expected an int"),
    ],
)
def test_refused_options(options: Any, error: type[Exception], message: str) -> None:
    table = quire.BlockTable(new_pool())
    fill(table, 5, np.random.default_rng(0))
    q = np.zeros((1, 4, 16), np.float32)
    with pytest.raises(error, match=f"attend: num_sink_tokens: {message}"):
        quire.attend(q, [table], **options)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_holes_in_plain_tables(instruction_set: str, layout: Any) -> None:
    random = np.random.default_rng(0)
    k, v = random.standard_normal((2, 5, 4, 4, 32)).astype(np.float32)
    q = random.standard_normal((2, 4, 32)).astype(np.float32)
    options: Any = {"cu_seqlens_q": [0, 2, 2], "sliding_window": 5, "layout": layout}
    options["cu_seqlens_q"] = np.array(options["cu_seqlens_q"])
    lengths = np.array([18, 20])  # the second has no query: it may be all holes
    full = quire.paged_attention(q, k, v, np.arange(5)[None].repeat(2, 0), lengths, **options)
    tables = np.array([[-1, -1, -1, 3, 4], [-1] * 5])
    for implementation in IMPLEMENTATIONS:
        for sink_tokens, first in ((0, -1), (3, 0)):
            tables[0, 0] = first
            k_cache, v_cache = k.copy(), v.copy()
            gone = [1, 2] if sink_tokens else [0, 1, 2]
            k_cache[gone] = v_cache[gone] = np.nan
            out = quire.paged_attention(
                q,
                k_cache,
                v_cache,
                tables,
                lengths,
                num_sink_tokens=sink_tokens,
                implementation=implementation,  # type: ignore[arg-type]
                **options,
            )
            assert np.isfinite(out).all()
            if sink_tokens == 0:
                np.testing.assert_allclose(out, full, atol=1e-6)
            else:
                assert np.abs(out - full).max() > 1e-3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("options", "column"),
    [
        ({}, 1),
        ({"sliding_window": 9}, 2),  # tokens 9 to 17
        ({"sliding_window": 2, "num_sink_tokens": 5}, 1),
        ({"sliding_window": 10, "causal": False}, 2),
    ],
)
def test_reading_a_hole_raises(implementation: Any, options: dict[str, Any], column: int) -> None:
    pool = new_pool()
    random = np.random.default_rng(0)
    whole, table = quire.BlockTable(pool), quire.BlockTable(pool)
    fill(whole, 18, random)
    fill(table, 18, random)
    table.drop_before(16, num_sink_tokens=4)
    blocks = table.blocks
    assert np.flatnonzero(blocks < 0).tolist() == [1, 2, 3]
    q = random.standard_normal((2, 4, 16)).astype(np.float32)
    out = np.full_like(q, 7)
    for run in (
        lambda: quire.attend(q, [whole, table], out=out, implementation=implementation, **options),
        lambda: quire.paged_attention(
            q,
            pool.k_cache(),
            pool.v_cache(),
            *quire.pack_tables([whole, table]),
            out=out,
            implementation=implementation,
            **options,
        ),
    ):
        with pytest.raises(
            IndexError,
            match=rf"tables: got -1 at sequence 1, column {column}, expected 0 to 63, as a query",
        ):
            run()
        assert (out == 7).all()
    with pytest.raises(
        ValueError, match=r"BlockTable\.gather: table: got a hole at column 1, of 4 dropped"
    ):
        table.gather()
    # only -1 is a hole, seen or not
    packed, lengths = quire.pack_tables([table])
    packed[packed < 0] = -2
    with pytest.raises(IndexError, match=r"got -2 at sequence 0, column 1, expected 0 to 63$"):
        quire.paged_attention(
            q[:1], pool.k_cache(), pool.v_cache(), packed, lengths, sliding_window=2
        )


def test_a_window_reaches_as_far_as_its_first_query() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    random = np.random.default_rng(0)
    fill(table, 18, random)
    table.drop_before(13)  # tokens 12 and later are there
    for num_queries, window in ((1, 6), (2, 5), (5, 2), (6, 1)):
        q = random.standard_normal((num_queries, 4, 16)).astype(np.float32)
        cu = np.array([0, num_queries])
        quire.attend(q, [table], cu_seqlens_q=cu, sliding_window=window)
        with pytest.raises(IndexError, match="got -1 at sequence 0, column 2"):
            quire.attend(q, [table], cu_seqlens_q=cu, sliding_window=window + 1)


def test_sink_tokens_next_to_the_window_close_the_gap(instruction_set: str) -> None:
    """Where every query sees all keys, the bits are those without a window."""
    random = np.random.default_rng(3)
    table = quire.BlockTable(new_pool())
    fill(table, 100, random)
    q = random.standard_normal((8, 4, 16)).astype(np.float32)
    cu = np.array([0, 8])
    for name in IMPLEMENTATIONS:
        options: Any = {"cu_seqlens_q": cu, "implementation": name}
        whole = quire.attend(q, [table], **options)
        assert (whole == quire.attend(q, [table], num_sink_tokens=5, **options)).all()
        for window, sink_tokens in ((40, 60), (1, 99), (99, 1), (100, 0), (1, 10**12)):
            out = quire.attend(
                q, [table], sliding_window=window, num_sink_tokens=sink_tokens, **options
            )
            assert out.tobytes() == whole.tobytes()
        out = quire.attend(q, [table], sliding_window=40, num_sink_tokens=59, **options)
        assert (out[:7] == whole[:7]).all() or name != "dense"
        assert np.abs(out[7] - whole[7]).max() > 1e-5  # the last misses key 59


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_same_bits_in_any_batch_and_on_any_threads(implementation: Any) -> None:
    random = np.random.default_rng(5)
    pool = new_pool(2000, dtype="bfloat16")
    lengths, q_lens = [3000, 10, 900, 64], [1, 1, 6, 40]
    tables = [quire.BlockTable(pool) for _ in lengths]
    for table, n in zip(tables, lengths, strict=True):
        fill(table, n, random)
        table.drop_before(n - 40 + 1 - 500, num_sink_tokens=70)
    q = random.standard_normal((sum(q_lens), 4, 16)).astype(np.float32)
    cu = np.concatenate([[0], np.cumsum(q_lens)])
    options: Any = {"sliding_window": 500, "num_sink_tokens": 70, "implementation": implementation}
    whole = quire.attend(q, tables, cu_seqlens_q=cu, num_threads=1, **options)
    for threads in (2, 5):
        again = quire.attend(q, tables, cu_seqlens_q=cu, num_threads=threads, **options)
        assert again.tobytes() == whole.tobytes()
    for i, table in enumerate(tables):
        mine = slice(cu[i], cu[i + 1])
        alone = quire.attend(q[mine], [table], cu_seqlens_q=np.array([0, q_lens[i]]), **options)
        assert alone.tobytes() == whole[mine].tobytes()


def test_many_sink_tokens_make_no_more_parts_than_there_is_room_for() -> None:
    """100 tokens and 16,284 would be 1 and 64 parts, were a part not of more than 256 keys."""
    random = np.random.default_rng(6)
    table = quire.BlockTable(new_pool(5000, num_kv_heads=1, head_dim=128))
    k, v = fill(table, 20_000, random)
    q = random.standard_normal((1, 1, 128)).astype(np.float32)
    for window, sink_tokens in ((16_284, 100), (10_000, 9500), (19_000, 10), (5, 19_000)):
        out = quire.attend(q, [table], sliding_window=window, num_sink_tokens=sink_tokens)
        expected, _, _ = dense_oracle.attention(
            q,
            k,
            v,
            [19_999],
            np.arange(20_000),
            sliding_window=window,
            num_sink_tokens=sink_tokens,
        )
        np.testing.assert_allclose(out, expected, atol=1e-5)
