"""attend: paged_attention over tables."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import quire

RANDOM = np.random.default_rng(0)


def new_pool(**options: Any) -> quire.BlockPool:
    geometry = {"block_size": 4, "num_kv_heads": 2, "head_dim": 16, "dtype": "float32"}
    return quire.BlockPool(64, **{**geometry, **options})  # type: ignore[arg-type]


def filled(pool: quire.BlockPool, tokens: int) -> quire.BlockTable:
    table = quire.BlockTable(pool)
    shape = (tokens, pool.num_kv_heads)
    if pool.num_layers > 1:
        shape = (pool.num_layers, *shape)
    table.append(
        RANDOM.standard_normal((*shape, pool.head_dim), np.float32),
        RANDOM.standard_normal((*shape, pool.v_head_dim), np.float32),
    )
    return table


def queries(tokens: int) -> Any:
    return RANDOM.standard_normal((tokens, 4, 16), np.float32)


def test_is_paged_attention_over_packed_tables() -> None:
    pool = new_pool(v_head_dim=24, num_layers=2)
    tables = [filled(pool, 9), filled(pool, 1), filled(pool, 30)]
    tables.append(tables[2].fork())
    q = queries(7)
    cu_seqlens_q = np.array([0, 3, 4, 4, 7])
    for layer in range(2):
        options: dict[str, Any] = {
            "cu_seqlens_q": cu_seqlens_q,
            "sliding_window": 5,
            "softcap": 2.0,
            "return_lse": True,
        }
        out, lse = quire.attend(q, tables, layer=layer, **options)
        expected, expected_lse = quire.paged_attention(
            q, pool.k_cache(layer), pool.v_cache(layer), *quire.pack_tables(tables), **options
        )
        assert out.tobytes() == expected.tobytes()
        assert lse.tobytes() == expected_lse.tobytes()
        assert out.shape == (7, 4, 24)


def test_into_out() -> None:
    table = filled(new_pool(), 9)
    q = queries(1)
    out = np.zeros_like(q)
    assert quire.attend(q, [table], out=out) is out
    assert (out == quire.attend(q, (table,), implementation="fused")).all()
    assert (out == quire.attend(q, {"one": table}.values())).all()
    assert (out == quire.attend(q, iter([table]))).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": 1}, IndexError, "attend: layer: got 1, expected 0 to 0"),
        ({"layer": 0.0}, TypeError, "attend: layer: got float, expected an int"),
        ({"layout": "HND"}, ValueError, 'attend: layout: got "HND", expected NHD'),
        (
            {"implementation": "best"},
            ValueError,
            'attend: implementation: got "best", expected auto',
        ),
        ({"tables": []}, ValueError, "attend: tables: got none"),
        ({"tables": None}, TypeError, "attend: tables: got NoneType, expected a list"),
        ({"tables": [1]}, TypeError, "attend: tables: got int at index 0"),
        ({"q": queries(2)}, ValueError, r"attend: q: got 2 rows, expected 1"),
        ({"q": queries(1)[..., :8]}, ValueError, r"attend: q: got shape \[1, 4, 8\]"),
        ({"softcap": -1}, ValueError, "attend: softcap: got -1, expected"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"q": queries(1), "tables": [filled(new_pool(), 9)], **change}
    with pytest.raises(error, match=message):
        quire.attend(arguments.pop("q"), arguments.pop("tables"), **arguments)


def test_tables_of_two_pools() -> None:
    with pytest.raises(ValueError, match="attend: tables: got a table of another pool at index 1"):
        quire.attend(queries(2), [filled(new_pool(), 3), filled(new_pool(), 3)])


def test_a_layer_may_run_code_of_its_own() -> None:
    """Numbers are asked for before the tables are held, so that this may change one."""
    table = filled(new_pool(), 9)

    class Layer:
        def __index__(self) -> int:
            table.truncate(4)
            return 0

    out = quire.attend(queries(1), [table], layer=Layer())
    assert len(table) == 4
    assert np.isfinite(out).all()


def test_tables_may_be_freed_and_written_by_others_meanwhile() -> None:
    """Each call sees whole tables: a writer changes one between calls, never within."""
    pool = new_pool()
    table = filled(pool, 20)
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            while not stop.is_set():
                table.truncate(16)
                table.append(np.ones((8, 2, 16), np.float32), np.ones((8, 2, 16), np.float32))
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            out = quire.attend(queries(1), [table])
            assert np.isfinite(out).all()
    finally:
        stop.set()
        writer.join()
    assert not failures
    pool.check()
