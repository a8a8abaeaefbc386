"""keep: tables of chosen tokens, and attention over keys that stand at positions of their own."""

from __future__ import annotations

from typing import Any

import dense_oracle
import numpy as np
import pytest
from filled_pool import fill, new_pool, poison_free_blocks, pool_of_case, repeating
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampled_examples import examples

import quire

IMPLEMENTATIONS = ("fused", "gather", "dense")
EPSILON = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.5e-2}


@st.composite
def keep_cases(draw: st.DrawFn) -> dict[str, Any]:
    many = draw(st.booleans())
    return {
        "lengths": draw(st.lists(st.integers(1, 150), min_size=1, max_size=3)),
        "share": draw(st.sampled_from([0.05, 0.4, 0.9, 1.0])),
        "appended": draw(st.integers(1, 20 if many else 2)),
        "block_size": draw(st.sampled_from([1, 3, 4, 16])),
        "heads": draw(st.sampled_from([(1, 1), (2, 3), (1, 8), (2, 16)])),
        "head_dims": draw(st.sampled_from([(16, 16), (5, 9), (64, 64), (40, 24)])),
        "dtype": draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        "window": draw(st.sampled_from([None, 1, 2, 7, 16, 33, 90])),
        "num_sink_tokens": draw(st.sampled_from([0, 1, 4, 17])),
        "causal": draw(st.booleans()),
        "softcap": draw(st.sampled_from([None, 3.0])),
        "alibi": draw(st.booleans()),
        "sinks": draw(st.booleans()),
        "shared": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.usefixtures("instruction_set")
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(case=keep_cases())
def test_attention_over_the_kept_tokens(case: dict[str, Any]) -> None:
    check_kept_tokens(case)


def check_kept_tokens(case: dict[str, Any]) -> None:
    random = np.random.default_rng(case["seed"])
    (num_kv_heads, group), (head_dim, v_head_dim) = case["heads"], case["head_dims"]
    appended, num_heads = case["appended"], num_kv_heads * group
    pool = pool_of_case(
        case, 2 * sum(-(-(n + appended) // case["block_size"]) for n in case["lengths"]) + 3
    )
    tables, forks, rows = [], [], []
    for n in case["lengths"]:
        table = quire.BlockTable(pool)
        k, v = fill(table, n, random)
        if case["shared"]:
            forks.append((table.fork(), k, v))
        kept = np.flatnonzero(random.random(n) < case["share"])
        table.keep(kept)
        poison_free_blocks(pool)
        new_k, new_v = fill(table, appended, random)
        positions = np.concatenate([kept, np.arange(n, n + appended)])
        assert table.positions.tolist() == positions.tolist()
        assert table.positions.dtype == np.int64
        assert table.next_position == n + appended
        k, v = np.concatenate([k[kept], new_k]), np.concatenate([v[kept], new_v])
        for got, expected in zip(table.gather(), (k, v), strict=True):
            assert got.tobytes() == expected.tobytes()
        tables.append(table)
        rows.append((k, v, positions))
    pool.check()
    for fork, k, v in forks:  # which nobody wrote into
        for got, expected in zip(fork.gather(), (k, v), strict=True):
            assert got.tobytes() == expected.tobytes()

    q = random.standard_normal((appended * len(tables), num_heads, head_dim)).astype(pool.dtype)
    cu = np.arange(len(tables) + 1) * appended
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
    longest = max(len(table) for table in tables)
    key_positions = np.full((len(tables), longest + 1), -99, np.int32)
    for seq, (_, _, positions) in enumerate(rows):
        key_positions[seq, : len(positions)] = positions
    for name in IMPLEMENTATIONS:
        options: Any = {**masks, "implementation": name, "return_lse": True, "cu_seqlens_q": cu}
        out = np.full((len(q), num_heads, v_head_dim), np.nan, np.float32)
        out, lse, mass = quire.attend(q, tables, out=out, return_block_mass=True, **options)
        plain, plain_lse = quire.paged_attention(
            q,
            pool.k_cache(),
            pool.v_cache(),
            *quire.pack_tables(tables),
            key_positions=key_positions,
            out=np.empty_like(out),
            **options,
        )
        assert plain.tobytes() == out.tobytes()
        assert plain_lse.tobytes() == lse.tobytes()
        for seq, (k, v, positions) in enumerate(rows):
            mine = slice(cu[seq], cu[seq + 1])
            expected, expected_lse, probabilities = dense_oracle.attention(
                q[mine], k, v, positions[-appended:], positions, **masks
            )
            bound = EPSILON[case["dtype"]] if name == "fused" else 2e-5
            np.testing.assert_allclose(out[mine], expected, rtol=bound, atol=bound)
            np.testing.assert_allclose(lse[mine], expected_lse, rtol=1e-5, atol=2e-5)
            by_block = np.add.reduceat(
                probabilities, np.arange(0, len(k), case["block_size"]), axis=2
            )
            columns = by_block.shape[2]
            np.testing.assert_allclose(mass[mine, :, :columns], by_block, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_positions_0_1_2_are_the_same_bits_as_none(implementation: Any) -> None:
    """Also of a plain table beside one with positions."""
    random = np.random.default_rng(0)
    pool = new_pool(400)
    tables = [quire.BlockTable(pool) for _ in range(2)]
    for table in tables:
        fill(table, 600, random)
    slopes = np.array([0.3, 0.01, 0, -0.2], np.float32)
    q = random.standard_normal((6, 4, 16)).astype(np.float32)
    options: Any = {"alibi_slopes": slopes, "sliding_window": 300, "num_sink_tokens": 5}
    options["implementation"] = implementation
    whole = quire.attend(q, tables, cu_seqlens_q=np.array([0, 3, 6]), **options)
    packed = (pool.k_cache(), pool.v_cache(), *quire.pack_tables(tables))
    positions = np.arange(700)[None].repeat(2, 0)
    cu = np.array([0, 3, 6])
    again = quire.paged_attention(q, *packed, cu_seqlens_q=cu, key_positions=positions, **options)
    assert again.tobytes() == whole.tobytes()
    tables[1].keep(np.arange(3, 600))
    mixed = quire.attend(q, tables, cu_seqlens_q=cu, **options)
    assert mixed[:3].tobytes() == whole[:3].tobytes()
    assert mixed[3:].tobytes() != whole[3:].tobytes()
    alone = quire.attend(q[3:], tables[1:], cu_seqlens_q=cu[:2], **options)
    assert alone.tobytes() == mixed[3:].tobytes()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"at": (1, 3), "to": 5}, ValueError, "got 5 at sequence 1, column 3, expected 7 to"),
        ({"at": (0, 0), "to": -1}, ValueError, "got -1 at sequence 0, column 0, expected 0 to"),
        ({"at": (1, 7), "to": 2**41}, ValueError, f"got {2**41} at sequence 1, column 7, expected"),
        ({"columns": 7}, ValueError, "got 7 columns, expected 8, the tokens of sequence 1"),
        ({"rows": 1}, ValueError, r"got shape \[1, 8\], expected \[2, 8\]"),
        ({"dtype": np.float32}, TypeError, "key_positions: got "),
    ],
)
def test_refused_positions(change: dict[str, Any], error: type[Exception], message: str) -> None:
    random = np.random.default_rng(0)
    k, v = random.standard_normal((2, 4, 4, 2, 16)).astype(np.float32)
    q = random.standard_normal((2, 4, 16)).astype(np.float32)
    positions = np.array([range(8), range(2, 18, 2)], change.get("dtype", np.int64))
    positions[0, 6:] = -7  # past its 6 tokens
    if "at" in change:
        positions[change["at"]] = change["to"]
    positions = positions[: change.get("rows"), : change.get("columns")]
    out = np.full_like(q, 7)
    for implementation in IMPLEMENTATIONS:
        with pytest.raises(error, match=rf"paged_attention: .*{message}"):
            quire.paged_attention(
                q,
                k,
                v,
                np.array([[0, 1], [2, 3]]),
                np.array([6, 8]),
                key_positions=positions,
                out=out,
                implementation=implementation,  # type: ignore[arg-type]
            )
    assert (out == 7).all()


def test_tables_bring_their_own_positions() -> None:
    table = quire.BlockTable(new_pool())
    fill(table, 4, np.random.default_rng(0))
    q: Any = np.zeros((1, 4, 16), np.float32)
    positions: Any = np.arange(4)[None]
    with pytest.raises(ValueError, match="attend: key_positions: got some, expected None"):
        quire.attend(q, [table], key_positions=positions)


def test_a_table_of_chosen_tokens() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    random = np.random.default_rng(0)
    k, _ = fill(table, 18, random)
    blocks = table.blocks.tolist()
    table.keep(np.arange(18))
    assert table.positions.tolist() == list(range(18))
    table.keep(np.array([0, 1, 2, 3, 9, 17], np.int32))
    assert table.blocks.tolist() == blocks[:2]  # in place
    assert pool.num_used == 2
    assert len(table) == 6
    child = table.fork()
    assert child.positions.tolist() == [0, 1, 2, 3, 9, 17]
    child.truncate(5)  # the next token is where 17 was
    assert child.next_position == 17
    child.truncate(3)
    assert child.next_position == 3
    assert child.positions.tolist() == [0, 1, 2]
    table.keep(np.array([1, 9]))  # by their positions, out of a shared block
    assert table.blocks[0] not in blocks[:2]
    assert table.gather()[0].tobytes() == k[[1, 9]].tobytes()
    assert pool.stats().copies_on_write == 1
    assert child.gather()[0].tobytes() == k[:3].tobytes()
    table.keep(np.array([], np.int64))
    assert (len(table), table.next_position, pool.num_used) == (0, 18, 1)
    fill(table, 1, random)
    assert table.positions.tolist() == [18]
    table.truncate(0)
    assert table.next_position == 0
    pool.check()


def test_keep_fills_holes_and_drop_before_knows_positions() -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    random = np.random.default_rng(0)
    k, _ = fill(table, 20, random)
    table.drop_before(13, num_sink_tokens=1)
    with pytest.raises(IndexError, match="got 6 at index 1, whose block is a hole"):
        table.keep(np.array([1, 6]))
    kept = np.array([2, 3, 12, 13, 15, 16, 17, 18])
    table.keep(kept)
    assert (table.blocks >= 0).all()
    assert table.gather()[0].tobytes() == k[kept].tobytes()
    table.drop_before(13)  # the block of 2, 3, 12 and 13 has one that is not before it
    assert (table.blocks >= 0).all()
    table.drop_before(14, num_sink_tokens=3)  # and here one of the first three tokens, 2
    assert (table.blocks >= 0).all()
    table.drop_before(14, num_sink_tokens=2)
    assert (table.blocks >= 0).tolist() == [False, True]
    with pytest.raises(ValueError, match="position: got 21, expected at most 20"):
        table.drop_before(21)
    q = random.standard_normal((1, 4, 16)).astype(np.float32)
    quire.attend(q, [table], sliding_window=5)  # 14 to 18
    with pytest.raises(IndexError, match="got -1 at sequence 0, column 0"):
        quire.attend(q, [table], sliding_window=6)
    pool.check()


def test_a_full_pool_is_enough_where_blocks_come_free() -> None:
    pool = new_pool(6)
    table, other = quire.BlockTable(pool), quire.BlockTable(pool)
    random = np.random.default_rng(0)
    k, v = fill(table, 16, random)
    fill(other, 8, random)
    child = table.fork()
    child.truncate(8)
    before = table.blocks.tolist()
    with pytest.raises(quire.OutOfBlocks, match=r"BlockTable\.keep: "):
        table.keep(np.array([1, 5, 8, 12]))  # each block has one, the first is the child's too
    assert table.blocks.tolist() == before
    assert table.gather()[1].tobytes() == v.tobytes()
    with pytest.raises(quire.OutOfBlocks, match=r"BlockTable\.keep: "):
        # two shared blocks to be written, and one without a chosen token to be given back
        table.keep(np.array([1, 2, 3, 5, 6, 7, 8]))
    assert table.blocks.tolist() == before
    assert table.gather()[1].tobytes() == v.tobytes()
    pool.check()
    table.keep(np.array([1, 5, 13]))  # the third block has none
    assert table.gather()[0].tobytes() == k[[1, 5, 13]].tobytes()
    assert child.gather()[0].tobytes() == k[:8].tobytes()
    pool.check()


def test_a_cache_gives_way() -> None:
    """Cached blocks are copied while there is room, and forgotten where there is none."""
    for num_blocks, forgotten in ((4, 1), (5, 0)):
        pool = new_pool(num_blocks)
        cache = quire.PrefixCache(pool)
        table = quire.BlockTable(pool)
        k, _ = fill(table, 16, np.random.default_rng(0))
        cache.insert(range(16), table)
        table.keep(np.array([1, 5, 9, 13]))
        assert table.gather()[0].tobytes() == k[[1, 5, 9, 13]].tobytes()
        pool.check()
        assert len(cache) == (0 if forgotten else 4)
        with pytest.raises(ValueError, match="got a token of position 5 at index 1, expected all"):
            cache.insert([7, 8], table)
        table.truncate(0)
        table.free()
        pool.check()


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        ([3, 3], ValueError, "got 3 at index 1, expected more than 3, the one before it"),
        ([5, 4], ValueError, "got 4 at index 1, expected more than 5"),
        ([-1], IndexError, "got -1 at index 0, expected the position of a token"),
        ([0, 18], IndexError, "got 18 at index 1, expected the position of a token"),
        ([[1]], ValueError, r"got shape \[1, 1\], expected \[n\]"),
        ([0.5], TypeError, "got "),
        ([True], TypeError, "got "),
    ],
)
def test_refused_keeps(positions: Any, error: type[Exception], message: str) -> None:
    pool = new_pool()
    table = quire.BlockTable(pool)
    fill(table, 18, np.random.default_rng(0))
    blocks = table.blocks
    with pytest.raises(error, match=rf"BlockTable\.keep: positions: {message}"):
        table.keep(np.array(positions))
    assert (table.blocks == blocks).all()
    assert len(table) == 18
    table.keep(np.array([3, 5]))
    with pytest.raises(IndexError, match="got 4 at index 0, expected the position of a token"):
        table.keep(np.array([4]))
    table.free()
    for use in (lambda: table.keep(np.array([0])), lambda: table.positions):
        with pytest.raises(ValueError, match="table: got a freed one"):
            use()


def test_kept_while_others_read() -> None:
    """Readers see whole tables, before a keep or after it."""
    pool = new_pool(200)
    random = np.random.default_rng(0)
    table = quire.BlockTable(pool)

    def write() -> None:
        fill(table, 9, random)
        positions = table.positions
        table.keep(positions[random.random(len(positions)) < 0.7])

    with repeating(write):
        q = np.ones((1, 4, 16), np.float32)
        for _ in range(300):
            out = quire.attend(q, [table], sliding_window=40)
            assert np.isfinite(out).all()
            with table.fork() as child:
                assert len(child.positions) == len(child)
                assert (np.diff(child.positions) > 0).all()
    pool.check()
