"""Each wrong argument: the right error, which says where and what, and nothing changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import make_problem

import quire

NAMES = ("q", "k_cache", "v_cache", "block_tables", "seq_lens")


def arguments() -> dict[str, Any]:
    problem = make_problem([20, 40], [2, 1], heads=(4, 2), head_dim=8)
    return {
        **dict(zip(NAMES, problem.arguments, strict=True)),
        "cu_seqlens_q": problem.cu_seqlens_q,
        "out": np.full((3, 4, 8), 7, np.float32),
        "return_lse": True,
    }


def attention(given: dict[str, Any]) -> Any:
    options = {name: value for name, value in given.items() if name not in NAMES}
    return quire.paged_attention(*(given[name] for name in NAMES), **options)


def replaced(name: str, index: Any, value: Any) -> Any:
    """A change that puts `value` at `index` of an argument, widened so that it fits."""

    def change(given: dict[str, Any]) -> None:
        given[name] = given[name].astype(np.int64)
        given[name][index] = value

    return change


def setting(**values: Any) -> Any:
    return lambda given: given.update(values)


def read_only(given: dict[str, Any]) -> None:
    given["out"].flags.writeable = False


def overlapping_q(given: dict[str, Any]) -> None:
    given["out"] = given["q"]


def overlapping_cache(given: dict[str, Any]) -> None:
    given["out"] = given["k_cache"].reshape(-1)[: 3 * 4 * 8].reshape(3, 4, 8)


def overlapping_entries(name: str) -> Any:
    """An output that writes over whole numbers that are checked before and read after it."""

    def change(given: dict[str, Any]) -> None:
        memory = np.zeros(3 * 4 * 8, np.int32)
        entries = memory[: given[name].size].reshape(given[name].shape)
        entries[...] = given[name]
        given.update({name: entries, "out": memory.view(np.float32).reshape(3, 4, 8)})

    return change


def self_overlapping(given: dict[str, Any]) -> None:
    memory = np.zeros(400, np.float32)
    given["out"] = np.lib.stride_tricks.as_strided(memory, (3, 4, 8), (32, 32, 4))


def cut(name: str, index: Any) -> Any:
    return lambda given: given.update({name: given[name][index]})


def cast(name: str, dtype: Any) -> Any:
    return lambda given: given.update({name: given[name].astype(dtype)})


INT64 = 2**63 - 1
FLOATS = "expected float32, float16 or bfloat16"
CACHES = r"expected float32, float16, bfloat16, int8, float8_e4m3fn, float8_e5m2 or uint8 \(int4\)"
POOLS = "expected float32, float16, bfloat16, int8, float8_e4m3fn, float8_e5m2 or int4"
INTS = "expected int32 or int64"
CASES: list[tuple[Any, type[Exception], str]] = [
    # dtypes and types
    (cast("q", np.float64), TypeError, f"q: got dtype float64, {FLOATS}"),
    (
        setting(k_cache=np.zeros((7, 16, 2, 8), np.int16)),
        TypeError,
        f"k_cache: got dtype int16, {CACHES}",
    ),
    (cast("v_cache", np.complex64), TypeError, f"v_cache: got dtype complex64, {CACHES}"),
    (cast("out", np.float64), TypeError, f"out: got dtype float64, {FLOATS}"),
    (cast("block_tables", np.float32), TypeError, f"block_tables: got dtype float32, {INTS}"),
    (cast("seq_lens", np.uint64), TypeError, f"seq_lens: got dtype uint64, {INTS}"),
    (cast("seq_lens", np.bool_), TypeError, f"seq_lens: got dtype bool, {INTS}"),
    (cast("cu_seqlens_q", np.int16), TypeError, f"cu_seqlens_q: got dtype int16, {INTS}"),
    (setting(seq_lens=np.array([np.nan, 3])), TypeError, f"seq_lens: got dtype float64, {INTS}"),
    (setting(seq_lens=[20, 40]), TypeError, "seq_lens: got list, expected an array"),
    (setting(q=None), TypeError, "q: got NoneType, expected an array"),
    (setting(q="text"), TypeError, "q: got str, expected an array"),
    (setting(causal=1), TypeError, "causal: got int, expected a bool"),
    (setting(causal=np.ones(2)), TypeError, "causal: got dtype float64, expected bool"),
    (setting(return_lse="yes"), TypeError, "return_lse: got str, expected a bool"),
    (setting(scale="big"), TypeError, "scale: got str, expected a float"),
    (setting(softcap=True), TypeError, "softcap: got bool, expected a float"),
    (setting(sliding_window=2.0), TypeError, "sliding_window: got float, expected an int"),
    (setting(sliding_window=(1, 2.0)), TypeError, "sliding_window: got float, expected an int"),
    (setting(layout=3), TypeError, "layout: got int, expected a str"),
    (setting(implementation=None), TypeError, "implementation: got NoneType, expected a str"),
    (setting(num_threads=True), TypeError, "num_threads: got bool, expected an int"),
    (setting(sinks=[1.0] * 4), TypeError, "sinks: got list, expected an array"),
    # shapes
    (cut("q", 0), ValueError, r"q: got shape \[4, 8\], expected \[.*\] \(\[T, Hq, D\]"),
    (cut("q", np.s_[:, :0]), ValueError, r"q: got shape \[3, 0, 8\]"),
    (cut("q", np.s_[:, :3]), ValueError, "q: got 3 heads, expected a multiple of the cache's 2"),
    (cut("q", np.s_[..., ::2]), ValueError, "q: got a last axis of stride 8 bytes"),
    (cut("q", np.s_[..., :7]), ValueError, r"k_cache: got shape .* expected \[.* 7\]"),
    (cut("q", np.s_[:2]), ValueError, "cu_seqlens_q: got 3 at 2, expected 2, the rows of q"),
    (cut("k_cache", 0), ValueError, r"k_cache: got shape \[16, 2, 8\]"),
    (cut("v_cache", np.s_[1:]), ValueError, r"v_cache: got shape .* as k_cache"),
    (cut("v_cache", np.s_[:, :8]), ValueError, r"v_cache: got shape .* as k_cache"),
    (cut("block_tables", 0), ValueError, r"block_tables: got shape \[\d\]"),
    (cut("block_tables", np.s_[:1]), ValueError, r"block_tables: got shape \[1, \d\]"),
    (
        cut("block_tables", np.s_[:, :2]),
        ValueError,
        "seq_lens: got 40 at sequence 1, expected 0 to 32",
    ),
    (cut("seq_lens", np.s_[:, None]), ValueError, r"seq_lens: got shape \[2, 1\]"),
    (cut("cu_seqlens_q", np.s_[:2]), ValueError, r"cu_seqlens_q: got shape \[2\], expected \[3\]"),
    (setting(cu_seqlens_q=None), ValueError, "q: got 3 rows, expected 2"),
    (cut("out", np.s_[:2]), ValueError, r"out: got shape \[2, 4, 8\], expected \[3, 4, 8\]"),
    (cut("out", np.s_[..., ::-1]), ValueError, "out: got a last axis of stride -4 bytes"),
    (setting(sinks=np.ones(3, np.float32)), ValueError, r"sinks: got shape \[3\], expected \[4\]"),
    (setting(alibi_slopes=np.ones((4, 1), np.float32)), ValueError, r"alibi_slopes: got shape"),
    # values
    (replaced("seq_lens", 1, -1), ValueError, "seq_lens: got -1 at sequence 1, expected 0 to 64"),
    (replaced("seq_lens", 0, 65), ValueError, "seq_lens: got 65 at sequence 0"),
    (replaced("seq_lens", 0, INT64), ValueError, f"seq_lens: got {INT64} at sequence 0"),
    (replaced("seq_lens", 0, -INT64), ValueError, f"seq_lens: got -{INT64} at sequence 0"),
    (replaced("cu_seqlens_q", 0, 1), ValueError, "cu_seqlens_q: got 1 at 0, expected 0"),
    (replaced("cu_seqlens_q", 1, INT64), ValueError, "cu_seqlens_q: got 3 at 2, expected at least"),
    (replaced("cu_seqlens_q", 2, 2**40), ValueError, f"cu_seqlens_q: got {2**40} at 2, expected 3"),
    (
        replaced("block_tables", (1, 2), -1),
        IndexError,
        "got -1 at sequence 1, column 2, expected 0 to",
    ),
    (
        replaced("block_tables", (0, 1), 7),
        IndexError,
        "got 7 at sequence 0, column 1, expected 0 to 6",
    ),
    (replaced("block_tables", (0, 0), INT64), IndexError, f"got {INT64} at sequence 0, column 0"),
    (setting(scale=float("nan")), ValueError, "scale: got nan, expected a finite number"),
    (setting(scale=float("inf")), ValueError, "scale: got inf"),
    (setting(scale=10**400), ValueError, "scale: got an int too large for a float"),
    (setting(softcap=0.0), ValueError, "softcap: got 0, expected a finite number > 0"),
    (setting(softcap=-2), ValueError, "softcap: got -2"),
    (setting(causal=np.ones(3, bool)), ValueError, "causal: got 3 bools, expected 2, one for each"),
    (setting(causal=np.ones((2, 1), bool)), ValueError, "causal: got 2 axes, expected 1"),
    (setting(sliding_window=0), ValueError, "sliding_window: got 0, expected >= 1"),
    (setting(sliding_window=(3,)), ValueError, "sliding_window: got a tuple of 1, expected"),
    (setting(sliding_window=(-2, 3)), ValueError, r"sliding_window: got \(-2, 3\), expected"),
    (setting(sliding_window=(0, -2)), ValueError, r"sliding_window: got \(0, -2\), expected"),
    (
        setting(sliding_window=2**70),
        ValueError,
        f"sliding_window: got {2**70}, expected a number of 64",
    ),
    (setting(num_threads=0), ValueError, "num_threads: got 0, expected 1 to 1024"),
    (setting(num_threads=10**9), ValueError, "num_threads: got 1000000000"),
    (setting(layout="nhd"), ValueError, 'layout: got "nhd", expected NHD or HND'),
    (
        setting(implementation="best"),
        ValueError,
        'implementation: got "best", expected auto, fused',
    ),
    (
        setting(sinks=np.array([0, 1, np.nan, 2], np.float32)),
        ValueError,
        "sinks: got nan at head 2, expected a finite number or -inf",
    ),
    (
        setting(alibi_slopes=np.array([0, -np.inf, 1, 2], np.float32)),
        ValueError,
        "alibi_slopes: got -inf at head 1, expected a finite number",
    ),
    # the output's memory
    (read_only, ValueError, "out: got a read-only array"),
    (overlapping_q, ValueError, "out: got memory that overlaps q's"),
    (overlapping_cache, ValueError, "out: got memory that overlaps k_cache's"),
    *(
        (overlapping_entries(name), ValueError, f"out: got memory that overlaps {name}'s")
        for name in ("block_tables", "seq_lens", "cu_seqlens_q")
    ),
    (self_overlapping, ValueError, "out: got strides that reach an element twice"),
]


@pytest.mark.parametrize("implementation", ["fused", "gather", "dense"])
@pytest.mark.parametrize(
    ("change", "error", "message"), CASES, ids=[case[2][:40] for case in CASES]
)
def test_paged_attention(
    change: Any, error: type[Exception], message: str, implementation: str
) -> None:
    given = {"implementation": implementation, **arguments()}
    change(given)
    out = np.array(given["out"], copy=True)
    with pytest.raises(error, match=f"^paged_attention: (block_tables: )?{message}"):
        attention(given)
    np.testing.assert_array_equal(given["out"], out)


def test_the_unchanged_arguments_are_right() -> None:
    given = arguments()
    attention(given)
    assert not (given["out"] == 7).any()


@pytest.mark.parametrize("name", ["k_scales", "no_such_option", "scal", "NHD"])
def test_options_that_do_not_exist(name: str) -> None:
    given = {**arguments(), name: None}
    with pytest.raises(
        TypeError, match=rf"^paged_attention: {name}: got .* expected paged_att.*\)$"
    ):
        attention(given)


def test_calls_that_fit_no_signature() -> None:
    pool = quire.BlockPool(4, num_kv_heads=2, head_dim=8)
    table = quire.BlockTable(pool)
    q: Any = np.ones((1, 2, 8), np.float32)
    calls: list[tuple[Any, str]] = [
        (lambda: quire.attend(q), "attend: arguments: got 1 by position, expected attend"),
        (lambda: quire.attend(q, [table], 0), "attend: arguments: got 3 by position"),
        (lambda: quire.attend(q, [table], q=q), "attend: arguments: got 2 by position and q,"),
        (lambda: quire.write_kv(q, q, q), "write_kv: arguments: got 3 by position"),
        (lambda: quire.merge_states(q), "merge_states: arguments: got 1"),
        (lambda: quire.pack_tables([], -1), "pack_tables: arguments: got 2"),
        (lambda: quire.last_implementation(1), "last_implementation: arguments: got 1"),
        (lambda: quire.BlockPool(3), r"BlockPool: arguments: got 1 .* BlockPool\(num_blocks, \*"),
        (lambda: quire.BlockPool(3, heads=2), "BlockPool: heads: got an argument of this name"),
        (lambda: quire.BlockTable(), "BlockTable: arguments: got 0"),
        (lambda: quire.BlockTable(None), "BlockTable: pool: got NoneType, expected a BlockPool"),
        (lambda: table.append(), "BlockTable.append: arguments: got 0"),
        (lambda: table.append(q), "BlockTable.append: v: got None, expected an array"),
        (lambda: table.append(q, w=q), "BlockTable.append: w: got an argument of this name"),
        (lambda: table.append(q, self=q), "BlockTable.append: self: got"),
        (lambda: pool.stats(1), "BlockPool.stats: arguments: got 1"),
    ]
    for call, message in calls:
        with pytest.raises(TypeError, match=f"^{message}"):
            call()
    assert pool.num_used == 0


K = np.ones((2, 2, 8), np.float32)
WRITE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"k": K.astype(np.float64)}, TypeError, "k: got dtype float64"),
    ({"k": K[0]}, ValueError, r"k: got shape \[2, 8\]"),
    ({"v": K[:1]}, ValueError, r"v: got shape \[1, 2, 8\]"),
    ({"k": K[:, :1], "v": K[:, :1]}, ValueError, r"k_cache: got shape"),
    ({"v": K[..., :4]}, ValueError, r"v_cache: got shape .* expected \[.*, 4\]"),
    ({"slot_mapping": np.array([0.0, 1.0])}, TypeError, "slot_mapping: got dtype float64"),
    ({"slot_mapping": np.array([0])}, ValueError, r"slot_mapping: got shape \[1\]"),
    (
        {"slot_mapping": np.array([0, 12])},
        IndexError,
        "slot_mapping: got 12 at row 1, expected 0 to",
    ),
    ({"slot_mapping": np.array([-2, 0])}, IndexError, "slot_mapping: got -2 at row 0"),
    ({"layout": "DHN"}, ValueError, 'layout: got "DHN"'),
]


@pytest.mark.parametrize(("change", "error", "message"), WRITE)
def test_write_kv(change: dict[str, Any], error: type[Exception], message: str) -> None:
    caches = np.zeros((2, 3, 4, 2, 8), np.float32)
    given = {"k": K, "v": K, "slot_mapping": np.array([0, 1]), **change}
    with pytest.raises(error, match=f"write_kv: {message}"):
        quire.write_kv(
            given.pop("k"), given.pop("v"), caches[0], caches[1], given.pop("slot_mapping"), **given
        )
    assert not caches.any()


def test_write_kv_into_wrong_memory() -> None:
    cache = np.zeros((3, 4, 2, 8), np.float32)
    slots = np.array([0, 1])
    with pytest.raises(ValueError, match="write_kv: k: got memory that overlaps k_cache's"):
        quire.write_kv(cache[0, :2], K, cache, cache.copy(), slots)
    inside = cache.reshape(-1).view(np.int32)[:2]
    for caches, name in (((cache, cache.copy()), "k"), ((cache.copy(), cache), "v")):
        message = f"write_kv: slot_mapping: got memory that overlaps {name}_cache's"
        with pytest.raises(ValueError, match=message):
            quire.write_kv(K, K, *caches, inside)
    frozen = cache.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="write_kv: v_cache: got a read-only array"):
        quire.write_kv(K, K, cache, frozen, slots)
    assert not cache.any()


@pytest.mark.parametrize(
    ("outs", "lses", "error", "message"),
    [
        (
            np.ones((2, 3, 4, 5)),
            np.ones((2, 3, 4), np.float32),
            TypeError,
            "outs: got dtype float64",
        ),
        (
            np.ones(3, np.float32),
            np.ones((), np.float32),
            ValueError,
            r"outs: got shape \[3\], expected \[n, ..., Dv\]",
        ),
        (
            np.ones((2, 3, 4, 5), np.float32),
            np.ones((2, 3, 5), np.float32),
            ValueError,
            "lses: got shape",
        ),
        (
            np.ones((2, 3, 4, 5), np.float32),
            np.ones((2, 3, 4), np.float16),
            TypeError,
            "lses: got float16, expected float32",
        ),
    ],
)
def test_merge_states(outs: Any, lses: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"merge_states: {message}"):
        quire.merge_states(outs, lses)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_blocks": 0}, ValueError, "num_blocks: got 0, expected >= 1"),
        ({"num_blocks": -3}, ValueError, "num_blocks: got -3"),
        ({"num_blocks": 2**31}, ValueError, f"num_blocks: got {2**31}"),
        ({"num_blocks": 2**80}, ValueError, "num_blocks: got .*, expected a number of 64 bits"),
        ({"num_blocks": 2.0}, TypeError, "num_blocks: got float, expected an int"),
        ({"block_size": 0}, ValueError, "block_size: got 0"),
        ({"num_kv_heads": 0}, ValueError, "num_kv_heads: got 0"),
        ({"head_dim": -1}, ValueError, "head_dim: got -1"),
        ({"v_head_dim": 0}, ValueError, "v_head_dim: got 0"),
        ({"num_layers": 0}, ValueError, "num_layers: got 0"),
        ({"head_dim": 2**62}, ValueError, "num_blocks: got 4"),
        ({"head_dim": 2**40}, MemoryError, "num_blocks: got 4"),
        ({"dtype": "int9"}, TypeError, f"dtype: got int9, {POOLS}"),
        ({"dtype": np.float64}, TypeError, f"dtype: got float64, {POOLS}"),
        ({"dtype": None}, TypeError, f"dtype: got .*, {POOLS}"),
        ({"dtype": 7}, TypeError, f"dtype: got int, {POOLS}"),
    ],
)
def test_block_pool(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"num_blocks": 4, "num_kv_heads": 2, "head_dim": 8, **change}
    with pytest.raises(error, match=f"BlockPool: {message}"):
        quire.BlockPool(given.pop("num_blocks"), **given)


def test_pool_and_table_methods() -> None:
    pool = quire.BlockPool(4, num_kv_heads=2, head_dim=8, dtype="float32")
    table = quire.BlockTable(pool)
    for call, error, message in (
        (lambda: pool.allocate(-1), ValueError, "BlockPool.allocate: n: got -1, expected >= 0"),
        (lambda: pool.allocate(1.5), TypeError, "BlockPool.allocate: n: got float"),
        (lambda: pool.release(np.array([0.5])), TypeError, "BlockPool.release: ids: got dtype"),
        (lambda: pool.release(np.array([[0]])), ValueError, "BlockPool.release: ids: got shape"),
        (lambda: pool.release(True), TypeError, "BlockPool.release: ids: got bool"),
        (lambda: table.extend(-1), ValueError, "BlockTable.extend: n: got -1, expected >= 0"),
        (
            lambda: pool.allocate(np.array([1])),
            TypeError,
            "allocate: n: got numpy.ndarray, expected",
        ),
        (lambda: table.extend("1"), TypeError, "BlockTable.extend: n: got str, expected an int"),
        (lambda: table.extend(2**64), ValueError, "BlockTable.extend: n: got .* 64 bits"),
        (lambda: table.truncate(None), TypeError, "BlockTable.truncate: num_tokens: got NoneType"),
        (lambda: quire.pack_tables([table], pad=2**40), ValueError, "pack_tables: pad: got"),
        (lambda: quire.pack_tables(table), TypeError, "pack_tables: tables: got .*BlockTable"),
        (lambda: np.asarray(table, copy=False), ValueError, "BlockTable.__array__: copy"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert pool.num_used == 0
    pool.check()
