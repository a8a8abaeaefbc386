"""return_block_mass: what each block's keys have of the softmax."""

from __future__ import annotations

from typing import Any

import dense_oracle
import numpy as np
import pytest
from filled_pool import fill, new_pool, poison_free_blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampled_examples import examples

import quire

IMPLEMENTATIONS = ("fused", "gather", "dense")


def by_block(probabilities: Any, block_size: int, num_columns: int) -> Any:
    """[n, Hq, m] summed into [n, Hq, num_columns]."""
    room = num_columns * block_size
    padded = np.zeros((*probabilities.shape[:2], room))
    padded[..., : probabilities.shape[2]] = probabilities
    return padded.reshape(*padded.shape[:2], num_columns, block_size).sum(axis=3)


@st.composite
def mass_cases(draw: st.DrawFn) -> dict[str, Any]:
    lengths = draw(st.lists(st.integers(1, 120), min_size=1, max_size=3))
    many = draw(st.booleans())
    return {
        "lengths": lengths,
        "q_lens": [draw(st.integers(0, min(n, 40 if many else 2))) for n in lengths],
        "block_size": draw(st.sampled_from([1, 3, 4, 16, 50])),
        "heads": draw(st.sampled_from([(1, 1), (2, 3), (1, 8), (2, 16), (1, 70)])),
        "head_dim": draw(st.sampled_from([5, 16, 64])),
        "dtype": draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        "scale": draw(st.sampled_from([None, 0.0, -0.4, 3.0])),
        "window": draw(st.sampled_from([None, 1, 7, 33])),
        "num_sink_tokens": draw(st.sampled_from([0, 1, 5, 17])),
        "causal": draw(st.booleans()),
        "softcap": draw(st.sampled_from([None, 3.0])),
        "slope": draw(st.sampled_from([None, 0.1, 2.0, -2.0])),
        "sinks": draw(st.booleans()),
        "return_lse": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.usefixtures("instruction_set")
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(case=mass_cases())
def test_mass_of_each_block(case: dict[str, Any]) -> None:
    for implementation in IMPLEMENTATIONS:
        check_mass(case, implementation)


def check_mass(case: dict[str, Any], implementation: str) -> None:
    random = np.random.default_rng(case["seed"])
    num_kv_heads, group = case["heads"]
    pool = new_pool(
        sum(-(-n // case["block_size"]) for n in case["lengths"]) + 3,
        block_size=case["block_size"],
        num_kv_heads=num_kv_heads,
        head_dim=case["head_dim"],
        dtype=case["dtype"],
    )
    tables = [quire.BlockTable(pool) for _ in case["lengths"]]
    rows = [fill(table, n, random) for table, n in zip(tables, case["lengths"], strict=True)]
    poison_free_blocks(pool)
    for table, n in zip(tables, case["lengths"], strict=True):  # and what stands past the end
        if n % case["block_size"]:
            pool.k_cache()[table.blocks[-1], n % case["block_size"] :] = np.nan
    cu = np.concatenate([[0], np.cumsum(case["q_lens"])])
    num_heads = num_kv_heads * group
    q = random.standard_normal((cu[-1], num_heads, case["head_dim"])).astype(pool.dtype)
    masks: dict[str, Any] = {
        "causal": case["causal"],
        "scale": case["scale"],
        "sliding_window": case["window"],
        "num_sink_tokens": case["num_sink_tokens"],
        "softcap": case["softcap"],
        "alibi_slopes": None
        if case["slope"] is None
        else (case["slope"] * random.random(num_heads)).astype(np.float32),
        "sinks": random.normal(0, 2, num_heads).astype(np.float32) if case["sinks"] else None,
    }
    plain: Any = {"cu_seqlens_q": cu, "implementation": implementation, **masks}
    out, lse = quire.attend(q, tables, return_lse=True, **plain)
    result = quire.attend(q, tables, return_lse=case["return_lse"], return_block_mass=True, **plain)
    assert result[0].tobytes() == out.tobytes()
    if case["return_lse"]:
        assert len(result) == 3
        assert result[1].tobytes() == lse.tobytes()
    mass = result[-1]
    num_columns = quire.pack_tables(tables)[0].shape[1]
    assert mass.shape == (cu[-1], num_heads, num_columns)
    assert mass.dtype == np.float32
    for seq, (k, v) in enumerate(rows):
        mine = slice(cu[seq], cu[seq + 1])
        positions = np.arange(len(k))
        _, _, probabilities = dense_oracle.attention(
            q[mine], k, v, positions[len(k) - case["q_lens"][seq] :], positions, **masks
        )
        expected = by_block(probabilities, case["block_size"], num_columns)
        np.testing.assert_allclose(mass[mine], expected, rtol=2e-4, atol=2e-6)
        assert (
            mass[mine][by_block(probabilities > 0, case["block_size"], num_columns) == 0] == 0
        ).all()
        if not case["sinks"] and case["q_lens"][seq]:
            np.testing.assert_allclose(mass[mine].sum(axis=2), 1, rtol=1e-5)


@pytest.mark.parametrize("implementation", ["fused", "gather"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_long_and_growing_scores(implementation: Any, dtype: str) -> None:
    """Over several stretches of keys, with maxima that grow all along, fall, or are huge."""
    random = np.random.default_rng(0)
    pool = new_pool(2000, block_size=8, num_kv_heads=1, head_dim=32, dtype=dtype)
    table = quire.BlockTable(pool)
    k, v = fill(table, 10_000, random)
    q = random.standard_normal((3, 2, 32)).astype(dtype)
    cu, positions = np.array([0, 3]), np.arange(10_000)
    for scale, slope in ((None, 0.01), (None, -0.01), (None, -4.0), (0.0, 0.5), (1e4, None)):
        slopes = None if slope is None else np.array([slope, 0], np.float32)
        options: Any = {"scale": scale, "alibi_slopes": slopes, "causal": False}
        _, mass = quire.attend(
            q,
            [table],
            cu_seqlens_q=cu,
            implementation=implementation,
            return_block_mass=True,
            **options,
        )
        _, _, probabilities = dense_oracle.attention(q, k, v, positions[-3:], positions, **options)
        expected = by_block(probabilities, 8, 1250)
        bound = 2e-2 if scale == 1e4 else 1e-3
        np.testing.assert_allclose(mass, expected, rtol=bound, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_same_bits_in_any_batch_and_on_any_threads(implementation: Any) -> None:
    random = np.random.default_rng(5)
    pool = new_pool(3000, dtype="bfloat16")
    lengths, q_lens = [6000, 10, 900, 64], [1, 1, 6, 40]
    if implementation == "dense":
        lengths[0] = 300
    tables = [quire.BlockTable(pool) for _ in lengths]
    for table, n in zip(tables, lengths, strict=True):
        fill(table, n, random)
    q = random.standard_normal((sum(q_lens), 4, 16)).astype(np.float32)
    cu = np.concatenate([[0], np.cumsum(q_lens)])
    options: Any = {"implementation": implementation, "return_block_mass": True}
    _, whole = quire.attend(q, tables, cu_seqlens_q=cu, num_threads=1, **options)
    for threads in (2, 5):
        _, again = quire.attend(q, tables, cu_seqlens_q=cu, num_threads=threads, **options)
        assert again.tobytes() == whole.tobytes()
    for i, table in enumerate(tables):
        mine = slice(cu[i], cu[i + 1])
        one = np.array([0, q_lens[i]])
        _, alone = quire.attend(q[mine], [table], cu_seqlens_q=one, **options)
        columns = len(table.blocks)
        assert alone.tobytes() == whole[mine, :, :columns].tobytes()
        assert (whole[mine, :, columns:] == 0).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_holes_padding_and_empty_sequences_have_no_mass(implementation: Any) -> None:
    random = np.random.default_rng(0)
    k, v = random.standard_normal((2, 6, 4, 2, 8)).astype(np.float32)
    q = random.standard_normal((3, 4, 8)).astype(np.float32)
    tables = np.array([[0, -1, -1, 3, 4, 99], [7, 7, 7, 7, 7, 7], [5, -3, -3, -3, -3, -3]])
    k[[1, 2]] = np.nan
    out, mass = quire.paged_attention(
        q,
        k,
        v,
        tables,
        np.array([19, 0, 1]),
        sliding_window=4,
        num_sink_tokens=2,
        return_block_mass=True,
        implementation=implementation,
    )
    assert mass.shape == (3, 4, 6)
    assert (mass > 0).all(axis=1).tolist() == [
        [True, False, False, True, True, False],
        [False] * 6,
        [True, *[False] * 5],
    ]
    np.testing.assert_allclose(mass.sum(axis=2), [[1] * 4, [0] * 4, [1] * 4], rtol=1e-6)
    assert (out[1] == 0).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"return_block_mass": 1}, TypeError, "attend: return_block_mass: got int"),
        ({"q": np.zeros((1, 16), np.float32)}, ValueError, "attend: q: got shape"),
        ({"sliding_window": 0}, ValueError, "attend: sliding_window: got 0"),
    ],
)
def test_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    table = quire.BlockTable(new_pool())
    fill(table, 5, np.random.default_rng(0))
    arguments: dict[str, Any] = {
        "q": np.zeros((1, 4, 16), np.float32),
        "return_block_mass": True,
        **change,
    }
    with pytest.raises(error, match=message):
        quire.attend(arguments.pop("q"), [table], **arguments)


def test_a_table_too_wide_for_any_memory() -> None:
    cache = np.zeros((1, 1, 1, 4), np.float32)
    tables = np.lib.stride_tricks.as_strided(np.zeros(1, np.int64), (1, 1 << 50), (0, 0))
    q = np.zeros((1, 64, 4), np.float32)
    with pytest.raises(MemoryError):
        quire.paged_attention(q, cache, cache, tables, np.array([1]), return_block_mass=True)


def test_a_mass_outlives_its_call() -> None:
    table = quire.BlockTable(new_pool())
    fill(table, 9, np.random.default_rng(0))
    q = np.ones((1, 4, 16), np.float32)
    masses = [quire.attend(q, [table], return_block_mass=True)[1] for _ in range(50)]
    assert all((mass == masses[0]).all() for mass in masses)
    assert masses[0].flags.writeable
