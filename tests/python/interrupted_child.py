"""Interrupts one long call of a kind, and looks at what it leaves.

    python interrupted_child.py CALL DIRECTORY

The call is made once undisturbed, then again with a signal on its way, whose handler raises. It
fails where the handler's exception does not end the call long before its end, or where the call has
changed anything.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import quire
from quire import ops

Call = Callable[[], object]
Case = tuple[Call, Call]  # what is called, and what may not change

DIRECTORY = sys.argv[-1]
SAVED = f"{DIRECTORY}/table.safetensors"
HEADS, HEAD_DIM = 4, 64
SHORT = 0.15  # seconds of a call, on a machine of many cores, that need not end before its end
random = np.random.default_rng(0)


class Stopped(Exception):
    """Raised by the handler."""


def stop(*_: object) -> None:
    raise Stopped


def attention(keys: int, queries: int, **options: Any) -> Case:
    blocks = keys // 16
    cache = random.standard_normal((blocks, 16, HEADS, HEAD_DIM), np.float32).astype(np.float16)
    q = random.standard_normal((queries, 2 * HEADS, HEAD_DIM), np.float32)
    tables, lengths = np.arange(blocks, dtype=np.int32)[None], np.array([keys], np.int32)
    cu_seqlens_q = np.array([0, queries], np.int32)

    def call() -> None:
        quire.paged_attention(
            q, cache, cache, tables, lengths, cu_seqlens_q=cu_seqlens_q, **options
        )

    return call, lambda: None


def filled(dtype: str, tokens: int, room: int = 2) -> tuple[Any, Any]:
    open_blocks = 2 if dtype == "int8" else None
    pool = quire.BlockPool(
        room * tokens // 16 + 8,
        num_kv_heads=HEADS,
        head_dim=HEAD_DIM,
        num_layers=2,
        dtype=dtype,
        open_blocks=open_blocks,
    )
    table = quire.BlockTable(pool)
    table.append(*rows(100))
    return pool, table


def rows(tokens: int) -> tuple[Any, Any]:
    some = random.standard_normal((2, 1, 1024, HEADS, HEAD_DIM), np.float32)
    shape = (2, tokens, HEADS, HEAD_DIM)
    k, v = (np.broadcast_to(np.resize(each, (1, *shape[1:])), shape) for each in some)
    return k, v


def state(pool: Any, table: Any) -> Callable[[], Any]:
    def now() -> object:
        pool.check()
        return table.num_tokens, table.blocks.tolist(), pool.num_free, pool.num_used

    return now


def append(dtype: str, tokens: int) -> Case:
    pool, table = filled(dtype, tokens)
    k, v = rows(tokens)

    known: list[object] = []  # the table as it was before a call that may be stopped

    def call() -> None:
        table.append(k, v)
        table.truncate(100)
        known.clear()  # of int4 what was sealed is rounded

    def unchanged() -> bool:
        if table.num_tokens == 100 + tokens:  # the signal came when append was done
            table.truncate(100)
            known.clear()
        stats = pool.stats()
        ids = quire.pack_tables([table])[0].tolist()  # as it reads them, open or sealed
        now = state(pool, table)(), ids, stats.open_blocks, stats.kept_open
        seen = *now, table.gather()[0].tobytes()
        known[:] = known or [seen]
        return known == [seen]

    return call, unchanged


def long_table(dtype: str, tokens: int, room: int = 2) -> tuple[Any, Any]:
    pool, table = filled(dtype, tokens, room)
    table.append(*rows(tokens))
    return pool, table


def gather(dtype: str, tokens: int) -> Case:
    pool, table = long_table(dtype, tokens)
    return lambda: table.gather(1), state(pool, table)


def save() -> Case:
    pool, table = long_table("float16", 1 << 18)
    table.save(SAVED)
    before = os.stat(SAVED).st_ino
    table.append(*rows(1))
    kept: list[Any] = []

    def call() -> None:
        if not kept:  # the first call is left undisturbed
            table.save(SAVED + "2")
            os.remove(SAVED + "2")
        table.save(SAVED if kept else SAVED + "2")
        kept.append(True)

    def now() -> object:
        return state(pool, table)(), os.stat(SAVED).st_ino == before, sorted(os.listdir(DIRECTORY))

    return call, now


def load() -> Case:
    pool, table = long_table("float16", 1 << 18, room=3)
    table.save(SAVED)
    return lambda: quire.load_table(pool, SAVED).free(), state(pool, table)


def cache_of(pool: Any, table: Any) -> tuple[Any, Any]:
    cache = quire.PrefixCache(pool)
    ids = np.arange(len(table))
    cache.insert(ids, table)
    return cache, ids


def save_cache() -> Case:
    pool, table = long_table("float16", 1 << 18)
    cache, _ = cache_of(pool, table)

    def call() -> None:
        cache.save(DIRECTORY)
        os.remove(f"{DIRECTORY}/prefix_cache.safetensors")

    return call, lambda: (state(pool, table)(), len(cache), os.listdir(DIRECTORY))


def load_cache() -> Case:
    pool, table = long_table("float16", 1 << 18, room=3)
    cache, _ = cache_of(pool, table)
    cache.save(DIRECTORY)
    other = quire.PrefixCache(pool)

    def call() -> None:
        other.load(DIRECTORY)
        other.clear()

    return call, lambda: (state(pool, table)(), len(other))


def match_of_a_list() -> Case:
    pool, table = filled("float32", 100)
    cache, _ = cache_of(pool, table)
    ids = [7] * (1 << 25)
    return lambda: cache.match(ids), lambda: (state(pool, table)(), cache.stats().misses)


def write_kv() -> Case:
    k, v = (each[0] for each in rows(1 << 19))
    k_cache, v_cache = np.zeros((2, 1 << 15, 16, HEADS, HEAD_DIM), np.float16)
    slots = random.permutation(1 << 19)
    return lambda: quire.write_kv(k, v, k_cache, v_cache, slots), lambda: None


def merge_states() -> Case:
    outs = np.broadcast_to(np.ones((1, 4000, 32, 128), np.float32), (64, 4000, 32, 128))
    lses = np.zeros((64, 4000, 32), np.float32)
    return lambda: quire.merge_states(outs, lses), lambda: None


def streamed(call: str) -> Case:
    tokens = 1 << 16
    pool = quire.BlockPool(
        tokens // 16 + 8,
        num_kv_heads=HEADS,
        head_dim=HEAD_DIM,
        dtype="float16",
        backing_file=f"{DIRECTORY}/pool",
        resident_bytes=1 << 25,
    )
    table = quire.BlockTable(pool)
    k, v = (each[0] for each in rows(tokens))
    table.append(k, v)
    q = random.standard_normal((1024, 8 * HEADS, HEAD_DIM), np.float32)
    cu_seqlens_q = np.array([0, 1024], np.int32)
    calls: dict[str, Call] = {
        "attend": lambda: quire.attend(q, [table], cu_seqlens_q=cu_seqlens_q),
        "gather": lambda: [table.gather() for _ in range(4)],
    }
    return calls[call], state(pool, table)


def sample() -> Case:
    logits = np.broadcast_to(random.standard_normal((1, 100_000), np.float32), (2000, 100_000))
    options = {"top_k": 50, "top_p": 0.9}
    return lambda: ops.sample(logits, seed=0, position=range(2000), **options), lambda: None


def gated_delta_rule() -> Case:
    heads = np.ones((1 << 14, 16, 64), np.float32)
    gates = np.zeros((1 << 14, 16), np.float32)
    states = np.zeros((1, 16, 64, 64), np.float32)
    return lambda: ops.gated_delta_rule(
        heads, heads, heads, gates, gates, state=states
    ), lambda: None


CASES: dict[str, Callable[[], Case]] = {
    "fused": lambda: attention(1 << 16, 512),
    "fused, one query": lambda: attention(1 << 21, 1, num_threads=1),
    "fused, one thread": lambda: attention(1 << 16, 256, num_threads=1),
    "fused, more threads than cores": lambda: attention(1 << 16, 512, num_threads=5),
    "gather": lambda: attention(1 << 14, 256, implementation="gather"),
    "dense": lambda: attention(1 << 13, 64, implementation="dense"),
    "block mass": lambda: attention(1 << 16, 256, return_block_mass=True),
    "append": lambda: append("float16", 1 << 18),
    "append int8": lambda: append("int8", 1 << 18),
    "append int4": lambda: append("int4", 1 << 18),
    "table.gather": lambda: gather("float16", 1 << 19),
    "table.gather int4": lambda: gather("int4", 1 << 17),
    "save": save,
    "load": load,
    "cache.save": save_cache,
    "cache.load": load_cache,
    "match": match_of_a_list,
    "write_kv": write_kv,
    "merge_states": merge_states,
    "sample": sample,
    "gated_delta_rule": gated_delta_rule,
    "streamed attend": lambda: streamed("attend"),
    "streamed gather": lambda: streamed("gather"),
}


def seconds_until_stopped(call: Call, after: float) -> float:
    """From the signal until its exception is here; the call's whole time where it never came."""
    begin = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        call()
    except Stopped:
        return time.perf_counter() - begin - after
    signal.setitimer(signal.ITIMER_REAL, 0)
    return float("inf")


def main() -> None:
    signal.signal(signal.SIGALRM, stop)
    call, unchanged = CASES[sys.argv[1]]()
    begin = time.perf_counter()
    call()
    whole = time.perf_counter() - begin
    before = unchanged()
    delays = []
    for _ in range(5):  # on a busy machine one may be late
        delays.append(seconds_until_stopped(call, whole / 8))
        assert unchanged() == before
        if whole < SHORT or delays[-1] < whole / 2:
            break
    print(f"{sys.argv[1]}: whole {whole:.3f} s, late by {delays}")
    assert whole < SHORT or delays[-1] < whole / 2, (whole, delays)
    call()  # and all can be used as before


if __name__ == "__main__":
    main()
