"""Where the build says so, a token's attention has the same bits in any company."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import quire
from quire import _core
from quire.machine_peaks import environment

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 8, 2, 64


@pytest.fixture
def in_tiles() -> Iterator[None]:
    if "amx" not in quire.build_info()["instruction_sets_available"]:
        pytest.skip("this machine has no AMX")
    with environment(QUIRE_CPU="amx"):
        assert quire.build_info()["chunk_invariant"]
        yield


def rows(random: Any, n: int, loud: float = 1) -> tuple[Any, Any, Any]:
    q = random.standard_normal((n, NUM_HEADS, HEAD_DIM)) * loud  # so that maxima rise late
    k, v = random.standard_normal((2, n, NUM_KV_HEADS, HEAD_DIM))
    return q.astype(BFLOAT16), k.astype(BFLOAT16), v.astype(BFLOAT16)


def bits(result: Any) -> tuple[Any, Any]:
    out, lse = result
    return out.view(np.uint16), lse.view(np.uint32)


def expect_same(got: Any, whole: Any, begin: int) -> None:
    for mine, theirs in zip(bits(got), bits(whole), strict=True):
        np.testing.assert_array_equal(mine, theirs[begin : begin + len(mine)])


@pytest.mark.parametrize("loud", [1, 12])
@pytest.mark.usefixtures("in_tiles")
def test_chunks_prefix_hits_and_batches(loud: float) -> None:
    n, half = 1300, 704
    random = np.random.default_rng(3)
    q, k, v = rows(random, n, loud)
    tokens = list(range(n))
    pool = quire.BlockPool(400, num_kv_heads=NUM_KV_HEADS, head_dim=HEAD_DIM, dtype="bfloat16")
    first = quire.BlockTable(pool)
    first.append(k, v)
    whole = quire.attend(q, [first], cu_seqlens_q=np.array([0, n]), return_lse=True)

    # in chunks, as the sequence grows, and one by one at last
    grown = quire.BlockTable(pool)
    begin = 0
    while begin < n:
        size = int(random.integers(1, 300)) if begin < n - 20 else 1
        end = min(begin + size, n)
        grown.append(k[begin:end], v[begin:end])
        cu = np.array([0, end - begin])
        got = quire.attend(q[begin:end], [grown], cu_seqlens_q=cu, return_lse=True)
        expect_same(got, whole, begin)
        begin = end

    # after a prefix hit, beside others that share it, on another number of threads
    cache = quire.PrefixCache(pool)
    cache.insert(tokens[:half], first)
    hits = [cache.match([*tokens[:half], 7 + i]) for i in range(3)]
    assert [len(hit) for hit in hits] == [half] * 3
    for hit in hits[:2]:
        hit.append(k[half:], v[half:])
    hits[2].append(*rows(random, 5)[1:])
    queries = np.concatenate([q[half:], q[half:], q[:5]])
    cu = np.cumsum([0, n - half, n - half, 5])
    together = quire.attend(queries, hits, cu_seqlens_q=cu, return_lse=True, num_threads=2)
    for i in range(2):
        expect_same([x[cu[i] : cu[i + 1]] for x in together], whole, half)
    last = np.concatenate([q[-1:], q[-1:]])
    decoded = quire.attend(last, hits[:2], return_lse=True)
    for i in range(2):
        expect_same([x[i : i + 1] for x in decoded], whole, n - 1)


@pytest.mark.usefixtures("in_tiles")
def test_windows_with_holes() -> None:
    """Blocks that no query sees any more are given back, and change no bit."""
    n, window = 1200, 100
    q, k, v = rows(np.random.default_rng(4), n, 12)
    pool = quire.BlockPool(100, num_kv_heads=NUM_KV_HEADS, head_dim=HEAD_DIM, dtype="bfloat16")
    table = quire.BlockTable(pool)
    table.append(k, v)
    options = {"sliding_window": window, "return_lse": True}
    whole = quire.attend(q, [table], cu_seqlens_q=np.array([0, n]), **options)
    table.drop_before(n - 20 - window)
    assert (table.blocks < 0).any()
    got = quire.attend(q[-20:], [table], cu_seqlens_q=np.array([0, 20]), **options)
    expect_same(got, whole, n - 20)


def test_the_build_says_what_holds() -> None:
    info = quire.build_info()
    for name in info["instruction_sets_available"]:
        with environment(QUIRE_CPU=name):
            assert quire.build_info()["chunk_invariant"] == (name == "amx")
    assert set(info["instruction_sets_missing"]).isdisjoint(info["instruction_sets_available"])
    for name, reason in info["instruction_sets_missing"].items():
        with (
            environment(QUIRE_CPU=name),
            pytest.raises(ValueError, match=f'QUIRE_CPU: got "{name}".*{reason}'),
        ):
            quire.build_info()
    _core.read_environment_again()
