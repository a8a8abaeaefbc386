"""What is refused of values that are the beginnings of their keys: by name, and nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shared_values_cases import new_pools

import quire

CACHE = np.zeros((4, 4, 1, 8), np.float32)
ROWS = np.ones((2, 1, 8), np.float32)
SLOTS = np.arange(2)


def message(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as raised:
        call()
    return str(raised.value)


def test_pools() -> None:
    def pool(**options: Any) -> quire.BlockPool:
        return quire.BlockPool(4, num_kv_heads=1, **{"head_dim": 8, "shared": True, **options})

    assert message(ValueError, lambda: pool(v_head_dim=9)) == (
        "BlockPool: v_head_dim: got 9, expected 1 to 8, as a shared value is the beginning of its "
        "key"
    )
    assert message(ValueError, lambda: pool(dtype="int4")).startswith(
        "BlockPool: shared: got true with dtype int4, expected false: its keys have a grid"
    )
    assert message(TypeError, lambda: pool(shared=1)).startswith("BlockPool: shared: got int")
    assert message(ValueError, lambda: pool(v_head_dim=0)) == (
        "BlockPool: v_head_dim: got 0, expected >= 1"
    )
    assert pool().v_head_dim == 8


@pytest.mark.parametrize("kind", ["bfloat16", "int8_open"])
def test_tables_and_steps(kind: str) -> None:
    shared, apart = new_pools(kind)
    k = np.ones((3, 2, 40), np.float32)
    v = k[..., :24]
    q = np.ones((1, 4, 40), np.float32)
    given = "v: got an array, expected None: the pool's values are the first 24 numbers of its keys"
    missing = "v: got None, expected an array: the pool's values are not shared with its keys"
    tables = [quire.BlockTable(pool) for pool in (shared, apart)]
    assert given in message(ValueError, lambda: tables[0].append(k, v))
    assert missing in message(TypeError, lambda: tables[1].append(k))
    assert [len(table) for table in tables] == [0, 0]
    tables[0].append(k)
    tables[1].append(k, v)
    before = tables[0].gather()[0]
    steps = [quire.Step([table], 1) for table in tables]
    k, v = 2 * k[:1], v[:1]
    assert given in message(ValueError, lambda: steps[0].write(k, v))
    assert given in message(ValueError, lambda: steps[0].attend(q, k, v))
    assert "Step.attend: k: got None" in message(TypeError, lambda: steps[0].attend(q, None, v))
    assert missing in message(TypeError, lambda: steps[1].write(k))
    assert "Step.attend: v: got None" in message(TypeError, lambda: steps[1].attend(q, k))
    np.testing.assert_array_equal(tables[0].gather()[0][:3], before)
    assert message(ValueError, lambda: quire.attend(q, tables[:1], v_scale=1.0)).startswith(
        "attend: v_scale: got one, expected None: the pool's values are the beginnings"
    )
    wrong = np.ones((3, 2, 41), np.float32)
    assert message(ValueError, lambda: tables[0].append(wrong)).startswith(
        "BlockTable.append: k: got shape [3, 2, 41]"
    )
    nan = np.full((1, 2, 40), np.nan, np.float32)
    if kind != "bfloat16":
        assert "BlockTable.append: k: got nan" in message(ValueError, lambda: tables[0].append(nan))


@pytest.mark.parametrize(
    ("given", "error", "expected"),
    [
        ({"v": None}, TypeError, "v: got None, expected an array as v_cache is one"),
        ({"v_cache": None}, TypeError, "v_cache: got None, expected an array as v is one"),
        (
            {"v": None, "v_cache": None, "v_scale": 1.0},
            ValueError,
            "v_scale: got one without v_cache, expected None: a value has the scale of its key",
        ),
        (
            {"v": None, "v_cache": None, "v_open": CACHE},
            ValueError,
            "v_open: got open blocks without v_cache, expected None",
        ),
        (
            {"v": None, "v_cache": None, "k_open": CACHE},
            ValueError,
            "k_open: got open blocks beside a k_cache of float32, expected None",
        ),
        (
            {"v": None, "v_cache": None, "k_cache": np.zeros((4, 4, 1, 4), np.uint8)},
            TypeError,
            "v: got None with a k_cache of int4, expected an array: its keys have a grid",
        ),
        (
            {"v_cache": CACHE[..., :4], "v": ROWS[..., :4]},
            ValueError,
            "v_cache: got the memory of k_cache, expected memory of its own",
        ),
        ({"v": None, "v_cache": None, "k": ROWS[..., :7]}, ValueError, "k_cache: got shape"),
        ({"v": None, "v_cache": None, "slot_mapping": np.array([0, 16])}, IndexError, "slot_mapp"),
    ],
)
def test_write_kv(given: dict[str, Any], error: type[Exception], expected: str) -> None:
    before = CACHE.copy()
    arguments: dict[str, Any] = {
        "k": ROWS,
        "v": ROWS,
        "k_cache": CACHE,
        "v_cache": CACHE.copy(),
        "slot_mapping": SLOTS,
        **given,
    }
    assert message(error, lambda: quire.write_kv(**arguments)).startswith(f"write_kv: {expected}")
    np.testing.assert_array_equal(CACHE, before)


def test_a_cache_of_keys_is_not_written_past_its_rows() -> None:
    """Nor is a number beside it that v_cache would have had."""
    cache = np.full((4, 4, 1, 16), 7, np.float32)
    quire.write_kv(ROWS, None, cache[..., :8], None, np.array([5, -1]))
    expected = np.full_like(cache, 7)
    expected[1, 1, :, :8] = 1
    np.testing.assert_array_equal(cache, expected)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_values_cannot_be_written_over_the_keys_of_a_pool(kind: str) -> None:
    pool, _ = new_pools(kind)
    k = np.ones((1, 2, 40), np.float32)
    slots = quire.BlockTable(pool).extend(1)
    scales: dict[str, Any] = {}
    if kind == "int8":
        scales = {"k_scale": pool.k_scale(), "v_scale": pool.v_scale()}
    before = pool.k_cache().tobytes()
    assert message(
        ValueError,
        lambda: quire.write_kv(k, 2 * k[..., :24], pool.k_cache(), pool.v_cache(), slots, **scales),
    ) == ("write_kv: v_cache: got the memory of k_cache, expected memory of its own")
    assert pool.k_cache().tobytes() == before


def test_values_may_be_read_of_keys_but_not_written_over() -> None:
    q = np.ones((1, 2, 8), np.float32)
    tables, lengths = np.array([[0]]), np.array([2])
    cache = CACHE.copy()
    quire.write_kv(ROWS, None, cache, None, SLOTS)
    out = quire.paged_attention(q, cache, cache[..., :5], tables, lengths)
    np.testing.assert_array_equal(out, np.ones((1, 2, 5), np.float32))
    over = cache.reshape(-1)[:10].reshape(1, 2, 5)
    assert "out: got memory that overlaps k_cache's" in message(
        ValueError,
        lambda: quire.paged_attention(q, cache, cache[..., :5], tables, lengths, out=over),
    )
