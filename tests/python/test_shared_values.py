"""Values that are the beginnings of their keys: right, with the bits of values stored apart, in
memory, in files, after forks and in prefix caches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dense_oracle
import numpy as np
import pytest
from shared_values_cases import (
    CLOSED,
    KINDS,
    append,
    attention_bits,
    copy_values,
    new_pools,
    real,
    rows,
)

import quire

IMPLEMENTATIONS = ("fused", "gather", "dense")


@pytest.mark.parametrize("dtype", CLOSED)
def test_attention_is_right(dtype: str, instruction_set: str) -> None:
    """Against float64, with queries of 16 heads over one of 576 numbers, as models have them."""
    pool, _ = new_pools(dtype, 12, block_size=16, num_kv_heads=1, head_dim=576, v_head_dim=512)
    random = np.random.default_rng(0)
    k = rows(random, pool, 70)
    table = quire.BlockTable(pool)
    table.append(k)
    stored = real(k, dtype)
    for got, expected in zip(table.gather(), (stored, stored[..., :512]), strict=True):
        np.testing.assert_allclose(got.astype(np.float64), expected, rtol=1e-6)
    for tokens in (1, 40):
        q = random.standard_normal((tokens, 16, 576), np.float32)
        positions = np.arange(70 - tokens, 70)
        out, lse, _ = dense_oracle.attention(
            q, stored, stored[..., :512], positions, np.arange(70), scale=0.1
        )
        for implementation in IMPLEMENTATIONS:
            got = quire.attend(
                q,
                [table],
                cu_seqlens_q=np.array([0, tokens]),
                scale=0.1,
                return_lse=True,
                implementation=implementation,
            )
            tight = 2e-5 if implementation == "dense" or dtype == "float32" else 2e-2
            np.testing.assert_allclose(got[0], out, atol=tight, rtol=tight)
            np.testing.assert_allclose(got[1], lse, atol=tight, rtol=tight)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_are_those_of_values_stored_apart(kind: str, instruction_set: str) -> None:
    """Of decode and prefill, of large groups of heads and small, whole keys as values too."""
    random = np.random.default_rng(1)
    for kv_heads, head_dim, v_head_dim, group in [
        (2, 40, 24, 3),
        (1, 576, 512, 8),
        (1, 576, 512, 1),
        (3, 7, 5, 1),
        (1, 64, 64, 32),
    ]:
        pools = new_pools(kind, 80, num_kv_heads=kv_heads, head_dim=head_dim, v_head_dim=v_head_dim)
        pairs = []
        for length in (1, 4, 61, 130):
            pairs.append([quire.BlockTable(pool) for pool in pools])
            append(pairs[-1], rows(random, pools[0], length))
        copy_values(pools[1])
        for q_lens in ([1, 1, 1, 1], [1, 3, 61, 20]):
            cu = np.cumsum([0, *q_lens])
            q = random.standard_normal((cu[-1], kv_heads * group, head_dim), np.float32)
            for implementation in IMPLEMENTATIONS:
                got, expected = (
                    attention_bits(list(side), q, cu_seqlens_q=cu, implementation=implementation)
                    for side in zip(*pairs, strict=True)
                )
                assert got == expected


@pytest.mark.parametrize("kind", KINDS)
def test_tables_go_on_as_their_twins_do(kind: str) -> None:
    """Through appends, forks, truncation, keep, holes and frees in random order."""
    random = np.random.default_rng(2)
    pools = new_pools(kind, 200, num_layers=2)
    pairs = [[quire.BlockTable(pool) for pool in pools]]
    append(pairs[0], rows(random, pools[0], 30))
    for _ in range(150):
        pair = pairs[random.integers(len(pairs))]
        action = random.choice(["append", "append", "fork", "truncate", "keep", "free"])
        length = len(pair[0])
        if action == "append":
            append(pair, rows(random, pools[0], int(random.integers(1, 12))))
        elif action == "fork" and len(pairs) < 6:
            pairs.append([table.fork() for table in pair])
        elif action == "truncate":
            left = max(1, length - int(random.integers(0, 5)))
            for table in pair:
                table.truncate(left)
        elif action == "keep" and length > 8:
            kept = np.sort(random.choice(pair[0].positions, length - 3, replace=False))
            for table in pair:
                table.keep(kept)
        elif action == "free" and len(pairs) > 1:
            pairs.remove(pair)
            for table in pair:
                table.free()
        copy_values(pools[1])
        q = random.standard_normal((len(pairs), 4, 40), np.float32)
        got, expected = (attention_bits(list(side), q) for side in zip(*pairs, strict=True))
        assert got == expected, action
        for layer in range(2):
            k, v = pairs[-1][0].gather(layer)
            np.testing.assert_array_equal(v, k[..., :24])
            np.testing.assert_array_equal(k, pairs[-1][1].gather(layer)[0])
    for pool in pools:
        pool.check()
    assert pools[0].stats().copies_on_write == pools[1].stats().copies_on_write > 0


@pytest.mark.parametrize("kind", CLOSED)
def test_a_step_has_the_bits_of_write_kv_and_attend(kind: str) -> None:
    random = np.random.default_rng(3)
    pool, _ = new_pools(kind, num_layers=2)
    by_step, by_hand = ([quire.BlockTable(pool) for _ in range(3)] for _ in range(2))
    for i, length in enumerate((5, 16, 33)):
        k = rows(random, pool, length)
        by_step[i].append(k)
        by_hand[i].append(k)
    counts = [2, 0, 7]
    step = quire.Step(by_step, counts)
    slots = np.concatenate([t.extend(n) for t, n in zip(by_hand, counts, strict=True)])
    cu = np.cumsum([0, *counts])
    k, q = rows(random, pool, 9), random.standard_normal((9, 4, 40), np.float32)
    for layer in range(2):
        cache = pool.k_cache(layer)
        scales = [pool.k_scale(layer)] if pool.dtype.itemsize == 1 else [None]
        quire.write_kv(k[layer], None, cache, None, slots, k_scale=scales[0])
        if layer == 0:
            step.write(k[layer])
            got = step.attend(q, None, None, layer=layer)
        else:
            got = step.attend(q, k[layer], layer=layer)
        np.testing.assert_array_equal(got, quire.attend(q, by_hand, layer=layer, cu_seqlens_q=cu))
        plain = quire.paged_attention(
            q,
            cache,
            cache[..., :24],
            *quire.pack_tables(by_hand),
            cu_seqlens_q=cu,
            k_scale=scales[0],
            v_scale=scales[0],
        )
        np.testing.assert_array_equal(got, plain)
    with pytest.raises(RuntimeError, match="by the model"), quire.Step(by_step, 1):
        raise RuntimeError("by the model")
    assert [len(t) for t in by_step] == [7, 16, 40]


def test_open_rows_are_written_once() -> None:
    """write_kv with open blocks and without v has the rows of append."""
    pool, _ = new_pools("int8_open")
    random = np.random.default_rng(4)
    k = rows(random, pool, 3)
    tables = [quire.BlockTable(pool) for _ in range(2)]
    tables[0].append(k)
    quire.write_kv(
        k,
        None,
        pool.k_cache(),
        None,
        tables[1].extend(3),
        k_scale=pool.k_scale(),
        k_open=pool.k_open(),
    )
    q = random.standard_normal((1, 4, 40), np.float32)
    last = attention_bits([tables[0]], q), attention_bits([tables[1]], q)
    assert last[0] == last[1]
    assert pool.v_open().tobytes() == pool.k_open()[..., :24].tobytes()
    out = quire.paged_attention(
        np.repeat(q, 2, axis=0),
        pool.k_cache(),
        pool.v_cache(),
        *quire.pack_tables(tables),
        k_scale=pool.k_scale(),
        v_scale=pool.v_scale(),
        k_open=pool.k_open(),
        v_open=pool.v_open(),
    )
    np.testing.assert_array_equal(out[0], out[1])
    assert out[0].tobytes() == last[0][0]


@pytest.mark.parametrize("kind", ["int8", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("scale", [0.02, np.array([0.02, 0.03], np.float32)], ids=["one", "heads"])
def test_a_scale_of_keys_is_that_of_values(kind: str, scale: Any) -> None:
    """Static ones too, which attend is given for keys alone."""
    random = np.random.default_rng(8)
    pool, _ = new_pools(kind)
    table = quire.BlockTable(pool)
    k = rows(random, pool, 30)
    quire.write_kv(k, None, pool.k_cache(), None, table.extend(30), k_scale=scale)
    q = random.standard_normal((1, 4, 40), np.float32)
    for implementation in IMPLEMENTATIONS:
        got = quire.attend(q, [table], k_scale=scale, implementation=implementation)
        expected = quire.paged_attention(
            q,
            pool.k_cache(),
            pool.v_cache().copy(),
            *quire.pack_tables([table]),
            k_scale=scale,
            v_scale=scale,
            implementation=implementation,
        )
        np.testing.assert_array_equal(got, expected)
    numbers = pool.k_cache()[table.blocks].reshape(-1, 2, 40)[:30].astype(np.float64)
    stored = numbers * np.broadcast_to(scale, 2)[:, None]
    out, _, _ = dense_oracle.attention(q, stored, stored[..., :24], [29], np.arange(30))
    np.testing.assert_allclose(got, out, atol=1e-5)  # of the last implementation, in float64


@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_are_shared(kind: str) -> None:
    random = np.random.default_rng(5)
    pool, _ = new_pools(kind)
    cache = quire.PrefixCache(pool)
    ids = np.arange(41)
    table = quire.BlockTable(pool)
    k = rows(random, pool, 41)
    table.append(k)
    cache.insert(ids, table)
    found = cache.match(np.append(ids[:40], 99))
    assert len(found) == 40
    assert np.array_equal(found.blocks[:9], table.blocks[:9])
    found.append(k[40:])
    q = random.standard_normal((1, 4, 40), np.float32)
    if not pool.open_blocks:  # else the last blocks of one of them are sealed
        assert attention_bits([found], q) == attention_bits([table], q)
    np.testing.assert_array_equal(found.gather()[1], found.gather()[0][..., :24])
    pool.check()


def tensors(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


@pytest.mark.parametrize("kind", KINDS)
def test_files_have_keys_alone(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    pool, twin = new_pools(kind, num_layers=2)
    pair = [quire.BlockTable(p) for p in (pool, twin)]
    append(pair, rows(random, pool, 23))
    copy_values(twin)
    for name, table in zip(("shared", "apart"), pair, strict=True):
        table.save(tmp_path / name)
        cache = quire.PrefixCache(table.pool)
        cache.insert(np.arange(23), table)
        cache.save(tmp_path / f"{name}_cache")
    header = tensors(tmp_path / "shared")
    names = {name.rpartition(".")[2] for name in header if name.startswith("layers.")}
    assert names == {"k", *(["k_scale"] if pool.dtype.itemsize == 1 else [])} | (
        {"k_open"} if pool.open_blocks else set()
    )
    assert "quire.shared" not in tensors(tmp_path / "apart")["__metadata__"]

    again, other = new_pools(kind, num_layers=2)
    q = random.standard_normal((1, 4, 40), np.float32)
    loaded = quire.load_table(again, tmp_path / "shared")
    assert attention_bits([loaded], q) == attention_bits([pair[0]], q)
    cache = quire.PrefixCache(again)
    assert cache.load(tmp_path / "shared_cache") > 0
    matched = cache.match(np.arange(21))
    for got, expected in zip(matched.gather(1), pair[0].gather(1), strict=True):
        if not pool.open_blocks:
            np.testing.assert_array_equal(got, expected[: len(matched)])
    for wrong, name, message in [
        (other, "shared", "values within their keys, expected values apart from their keys"),
        (again, "apart", "values apart from their keys, expected values within their keys"),
    ]:
        used = wrong.num_used
        with pytest.raises(ValueError, match=message):
            quire.load_table(wrong, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            quire.PrefixCache(wrong).load(tmp_path / f"{name}_cache")
        assert wrong.num_used == used


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_in_a_file_has_the_same_bits(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    geometry: dict[str, Any] = {
        **KINDS[kind],
        "num_kv_heads": 1,
        "head_dim": 576,
        "v_head_dim": 512,
        "num_layers": 2,
        "shared": True,
    }
    of_block = quire.BlockPool(1, **geometry, backing_file=tmp_path / "one").nbytes
    resident = 48 * of_block + (20 * 2 * 16 * 1152 if "open_blocks" in geometry else 0)
    pools = [
        quire.BlockPool(96, **geometry),
        quire.BlockPool(96, **geometry, backing_file=tmp_path / "pool", resident_bytes=resident),
    ]
    tables = [[quire.BlockTable(pool) for _ in range(3)] for pool in pools]
    for _ in range(5):
        for i in range(3):
            k = rows(random, pools[0], 67)
            for ours in tables:
                ours[i].append(k)
    assert pools[1].stats().offloaded > 0
    q = random.standard_normal((3, 16, 576), np.float32)
    for implementation in IMPLEMENTATIONS:
        got = [attention_bits(ours, q, implementation=implementation) for ours in tables]
        assert got[0] == got[1]
    assert tables[1][0].offload() > 0
    assert attention_bits(tables[1][:1], q[:1]) == attention_bits(tables[0][:1], q[:1])
    tables[1][0].save(tmp_path / "table")
    loaded = quire.load_table(pools[0], tmp_path / "table")
    assert attention_bits([loaded], q[:1]) == attention_bits([tables[0][0]], q[:1])
    for pool in pools:
        pool.check()


def test_a_token_of_latent_attention_takes_1152_bytes() -> None:
    geometry: dict[str, Any] = {"num_kv_heads": 1, "head_dim": 576, "v_head_dim": 512}
    apart, shared = (quire.BlockPool(8, **geometry, shared=shared) for shared in (False, True))
    assert (apart.shared, shared.shared) == (False, True)
    assert apart.stats().bytes_per_token == 2176
    assert shared.stats().bytes_per_token == 1152
    assert shared.nbytes == 8 * 16 * 1152
    assert "shared=True" in repr(shared)
    assert "shared" not in repr(apart)
    assert "bytes_per_token=1152" in repr(shared.stats())
    assert "1,152 bytes a token" in shared._repr_html_()
    assert quire.BlockPool(8, **geometry, shared=True, dtype="int8").stats().bytes_per_token == 580
    k, v = shared.k_cache(), shared.v_cache()
    assert v.shape == (8, 16, 1, 512)
    assert v.strides == k.strides
    assert v.__array_interface__["data"] == k.__array_interface__["data"]
