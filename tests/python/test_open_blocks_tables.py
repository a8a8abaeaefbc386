"""Tables of pools with open blocks: what they hold, step by step next to a model in NumPy, and what
is attended over them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from dense_oracle import attention
from open_blocks_model import OpenBlocksModel, new_pool, rows_of

import quire

POOLS: list[dict[str, Any]] = [
    {"dtype": "int4"},
    {"dtype": "int4", "open_blocks": 1},
    {"dtype": "int8", "open_blocks": 2},
    {"dtype": "int8", "open_blocks": 1},
    {"dtype": "float8_e4m3fn", "open_blocks": 9},
]
with_each_pool = pytest.mark.parametrize(
    "kind", POOLS, ids=lambda kind: f"{kind['dtype']}-{kind.get('open_blocks')}"
)


def layered(pool: quire.BlockPool, rows: Any) -> Any:
    return rows if pool.num_layers > 1 else rows[0]


def assert_holds(table: quire.BlockTable, model: OpenBlocksModel) -> None:
    assert len(table) == len(model)
    report = table.pool.explain(table)
    assert {i for i, block in enumerate(report.blocks) if block.is_open} == model.open
    for layer in range(table.pool.num_layers):
        k, v = table.gather(layer)
        assert k.dtype == v.dtype == np.float32
        np.testing.assert_array_equal(k, model.k[layer])
        np.testing.assert_array_equal(v, model.v[layer])


def write(table: quire.BlockTable, slots: Any, k: Any, v: Any) -> None:
    pool = table.pool
    for layer in range(pool.num_layers):
        quire.write_kv(
            k[layer],
            v[layer],
            pool.k_cache(layer),
            pool.v_cache(layer),
            slots,
            k_scale=pool.k_scale(layer),
            v_scale=pool.v_scale(layer),
            k_open=pool.k_open(layer),
            v_open=pool.v_open(layer),
        )


@with_each_pool
@pytest.mark.parametrize(("block_size", "num_layers"), [(1, 1), (4, 2), (16, 1), (5, 2)])
def test_tables_next_to_a_model(block_size: int, num_layers: int, kind: dict[str, Any]) -> None:
    random = np.random.default_rng(block_size)
    pool = new_pool(18, block_size=block_size, num_layers=num_layers, **kind)
    tables = [(quire.BlockTable(pool), OpenBlocksModel(pool))]
    refused = 0
    for _ in range(250):
        index = int(random.integers(len(tables)))
        table, model = tables[index]
        action = random.integers(100)
        if action < 50:
            count = int(random.integers(7 * block_size)) if action < 12 else random.integers(1, 4)
            k, v = rows_of(pool, int(count), random)
            before = quire.pack_tables([table])[0].tolist()
            try:
                if action % 2:
                    table.append(layered(pool, k), layered(pool, v))
                    model.append(k, v)
                else:
                    write(table, table.extend(count), k, v)
                    model.extend(k, v)
            except quire.OutOfBlocks:
                refused += 1
                assert quire.pack_tables([table])[0].tolist() == before
                tables[index][0].truncate(0)
                model.truncate(0)
        elif action < 65:
            tables.append((table.fork(), model.fork()))
        elif action < 75:
            tokens = int(random.integers(len(model) + 1))
            table.truncate(tokens)
            model.truncate(tokens)
        elif action < 85:
            indices = np.flatnonzero(random.random(len(model)) < random.choice([0.2, 0.7, 0.95]))
            try:
                table.keep(table.positions[indices])
                model.keep(indices)
            except quire.OutOfBlocks:
                refused += 1
        elif action < 90:
            tables.append((quire.BlockTable(pool), OpenBlocksModel(pool)))
        elif len(tables) > 1:
            tables.pop(index)[0].free()
        for held, expected in tables:
            assert_holds(held, expected)
        pool.check()
        while len(tables) > 7:
            tables.pop(0)[0].free()
    assert refused
    assert pool.stats().copies_on_write
    for table, _ in tables:
        table.free()
    assert pool.stats().open_blocks == pool.num_used == 0


@pytest.mark.parametrize("num_layers", [1, 2])
def test_long_appends(num_layers: int) -> None:
    """More than is open at once, into a last block that is filled in part."""
    random = np.random.default_rng(8)
    pool = new_pool(60, num_layers=num_layers)
    table, model = quire.BlockTable(pool), OpenBlocksModel(pool)
    for tokens in (3, 150, 70):
        k, v = rows_of(pool, tokens, random)
        table.append(layered(pool, k), layered(pool, v))
        model.append(k, v)
        assert_holds(table, model)
        assert pool.stats().open_blocks <= 2


@pytest.mark.parametrize("implementation", ["dense", "gather", "fused"])
@pytest.mark.parametrize("q_dtype", ["float32", "bfloat16"])
@with_each_pool
def test_attend(implementation: str, q_dtype: str, kind: dict[str, Any]) -> None:
    random = np.random.default_rng(3)
    pool = new_pool(64, num_kv_heads=2, head_dim=16, v_head_dim=12, num_layers=2, **kind)
    tables = []
    for length in (1, 3, 4, 5, 8, 9, 30, 47):
        table = quire.BlockTable(pool)
        k, v = rows_of(pool, length, random)
        k /= np.abs(k).max(axis=(0, 1, 2))  # scores of any use
        table.append(k, v)
        tables.append(table)
    fork = tables[-1].fork()
    fork.append(*rows_of(pool, 2, random))
    tables.append(fork)
    q = random.standard_normal((len(tables), 4, 16), dtype=np.float32).astype(
        ml_dtypes.bfloat16 if q_dtype == "bfloat16" else np.float32
    )
    out, lse = quire.attend(q, tables, layer=1, implementation=implementation, return_lse=True)
    assert out.shape == (len(tables), 4, 12)
    for i, table in enumerate(tables):
        k, v = (rows.astype(np.float64) for rows in table.gather(1))
        places = np.arange(len(table))
        expected, expected_lse, _ = attention(q[i : i + 1], k, v, places[-1:], places)
        tolerance = {"float32": 5e-5, "bfloat16": 2e-2}[q_dtype]
        np.testing.assert_allclose(out[i : i + 1].astype(np.float64), expected, atol=tolerance)
        np.testing.assert_allclose(lse[i : i + 1], expected_lse, atol=tolerance)
    block_tables, seq_lens = quire.pack_tables(tables)
    same = quire.paged_attention(
        q,
        pool.k_cache(1),
        pool.v_cache(1),
        block_tables,
        seq_lens,
        k_scale=pool.k_scale(1),
        v_scale=pool.v_scale(1),
        k_open=pool.k_open(1),
        v_open=pool.v_open(1),
        implementation=implementation,
    )
    assert same.tobytes() == out.tobytes()
    for i, table in enumerate(tables):  # whatever else is in the batch, and in the pool
        alone = quire.attend(q[i : i + 1], [table], layer=1, implementation=implementation)
        assert alone.tobytes() == out[i : i + 1].tobytes()


@with_each_pool
def test_bits_do_not_depend_on_other_tables(kind: dict[str, Any]) -> None:
    random = np.random.default_rng(9)
    q = random.standard_normal((1, 4, 8), dtype=np.float32)
    rows = rows_of(new_pool(), 60, random)

    def decode(pool: quire.BlockPool, meddle: bool) -> list[bytes]:
        table, others, outs = quire.BlockTable(pool), [], []
        for i in range(60):
            table.append(rows[0][:, i : i + 1], rows[1][:, i : i + 1])
            if meddle and i % 3 == 0:
                others.append(table.fork())
                others[-1].append(*rows_of(pool, 1 + i % 7, random))
            if meddle and i % 5 == 0:
                others.pop(0).free()
                pool.check()
            outs.append(quire.attend(q, [table], layer=1).tobytes())
        return outs

    alone = decode(new_pool(**kind), False)
    assert decode(new_pool(400, **kind), True) == alone
    one_by_one = decode(new_pool(**kind), False)[-1]
    pool = new_pool(**kind)
    at_once = quire.BlockTable(pool)
    at_once.append(*rows)
    assert quire.attend(q, [at_once], layer=1).tobytes() == one_by_one


@with_each_pool
def test_prefixes(kind: dict[str, Any]) -> None:
    random = np.random.default_rng(4)
    pool = new_pool(**kind)
    cache = quire.PrefixCache(pool)
    k, v = rows_of(pool, 22, random)
    table, model = quire.BlockTable(pool), OpenBlocksModel(pool)
    table.append(k, v)
    model.append(k, v)
    cache.insert(range(22), table)
    assert len(cache) == 5
    assert_holds(table, model)
    sealed = OpenBlocksModel(pool)
    # of which so many are taken back that all of the first 22 stay sealed
    sealed.append(*(np.concatenate([rows] * 7, axis=1) for rows in (k, v)))
    for tokens in (4, 10, 19, 20):
        expected = sealed.fork()
        expected.truncate(tokens)
        found = cache.match([*range(tokens), 999])
        assert len(found) == tokens
        assert pool.explain(found).num_open == (tokens % 4 > 0)
        more = rows_of(pool, 9, random)
        found.append(*more)
        expected.append(*more)
        assert_holds(found, expected)
        found.free()
    table.free()
    assert pool.stats().open_blocks == 0
    assert pool.stats().cached == 5
    pool.check()
    cache.clear()
    assert pool.num_used == 0


def test_refused_appends_change_nothing() -> None:
    random = np.random.default_rng(5)
    pool = new_pool(6)
    table, model = quire.BlockTable(pool), OpenBlocksModel(pool)
    k, v = rows_of(pool, 10, random)
    table.append(k, v)
    model.append(k, v)
    stats = str(pool.stats())
    for where, wrong in [((1, 2, 1, 3), np.nan), ((0, 6, 0, 0), np.inf), ((1, 0, 0, 5), 65536)]:
        for rows, name in [(k, "k"), (v, "v")]:
            bad = rows.copy()
            bad[where] = wrong
            given = (bad, v) if name == "k" else (k, bad)
            layer, row, head, element = where
            with pytest.raises(
                ValueError,
                match=rf"^BlockTable\.append: {name}: got .* at layer {layer}, row {row}, "
                rf"head {head}, element {element}, expected finite numbers of at most 65504",
            ):
                table.append(*given)
    with pytest.raises(quire.OutOfBlocks):
        table.append(*(np.repeat(rows, 2, axis=1) for rows in (k, v)))
    with pytest.raises(quire.OutOfBlocks):
        table.extend(15)
    assert str(pool.stats()) == stats
    assert_holds(table, model)
    k[0, 0, 0, 0] = 65504
    table.append(k, v)
    model.append(k, v)
    assert_holds(table, model)


def test_open_blocks_are_shown() -> None:
    pool = new_pool(num_layers=1)
    table = quire.BlockTable(pool)
    k, v = rows_of(pool, 14, np.random.default_rng(0))
    table.append(k[0], v[0])
    report = pool.explain(table)
    assert [block.is_open for block in report.blocks] == [False, False, True, True]
    assert report.num_open == 2
    assert str(report).splitlines()[0].endswith("4 private; 2 open")
    assert str(report).splitlines()[-1].endswith("this table, open")
    html = table._repr_html_()
    assert "2 open" in html.replace("</span> open 2", "2 open")
    assert "open_blocks=2" in str(pool.stats())
    table.free()
    assert "freed" in table._repr_html_()
