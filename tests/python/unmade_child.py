"""What test_unmade_objects.py runs in a process of its own: python unmade_child.py CASE.

An object is unmade where its __init__ failed or never ran. Names come by introspection, so that a
new class, method or property is tested by being there.
"""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import quire
from quire import _core

NEVER_MADE = "whose __init__ failed or never ran, expected one that it has made"
CLASSES = [
    thing
    for thing in vars(_core).values()
    if isinstance(thing, type) and not issubclass(thing, BaseException)
]
# object's own, and pybind11's, which look at nothing of ours
OTHERS = {name for name in dir(object) if name != "__repr__"} | {
    "__module__",
    "_pybind11_conduit_v1_",
}

pool = quire.BlockPool(8, num_kv_heads=1, head_dim=8, dtype="float32")
table = quire.BlockTable(pool)
rows = np.ones((1, 1, 8), np.float32)
table.append(rows, rows)
ARGUMENTS: dict[str, Any] = {  # of methods; what has another name is a small number
    "k": rows,
    "v": rows,
    "ids": [0],
    "token_ids": [1, 2],
    "table": table,
    "callback": None,
    "positions": np.array([0]),
    "path": "never-written",
    "dir": "never-written",
}


def unmade(cls: Any) -> Any:
    return cls.__new__(cls)


def refused(asked: Callable[[], Any], message: str = NEVER_MADE) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        asked()


def names_of(cls: Any) -> list[str]:
    return sorted(set(dir(cls)) - OTHERS)


def ask(thing: Any, name: str) -> Any:
    """Reads a property, or calls a method with arguments that fit."""
    found = getattr(type(thing), name)
    if isinstance(found, property):
        return getattr(thing, name)
    if name == "__exit__":
        return thing.__exit__(None, None, None)
    if name.startswith("_"):
        return getattr(thing, name)()
    parameters = list(inspect.signature(found).parameters.values())[1:]
    required = {p.name: ARGUMENTS.get(p.name, 1) for p in parameters if p.default is p.empty}
    return getattr(thing, name)(**required)


def every_name() -> None:
    asked = set()
    for cls in CLASSES:
        for name in names_of(cls):
            asked.add(f"{cls.__name__}.{name}")
            refused(lambda cls=cls, name=name: ask(unmade(cls), name))  # type: ignore[misc]
        for text in (repr, str, "{}".format, print):
            refused(lambda cls=cls, text=text: text(unmade(cls)))  # type: ignore[misc]
    assert len(asked) > 80
    assert {"PoolStats.used", "BlockPool.k_open", "BlockTable.__enter__"} <= asked
    assert {"BlockPool._repr_html_", "PrefixCache.__len__", "PrefixCacheStats.hits"} <= asked


def every_protocol() -> None:
    new_table, new_cache = unmade(quire.BlockTable), unmade(quire.PrefixCache)
    for asked in (len, bool, np.asarray, lambda made: made.__enter__()):
        refused(lambda asked=asked: asked(new_table))  # type: ignore[misc]
    refused(lambda: len(new_cache))
    refused(lambda: bool(new_cache))


def as_an_argument() -> None:
    new_pool, new_table = unmade(quire.BlockPool), unmade(quire.BlockTable)
    cache = quire.PrefixCache(pool)
    q = np.ones((1, 2, 8), np.float32)
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: quire.BlockTable(new_pool), "BlockTable: pool: got a BlockPool "),
        (lambda: quire.PrefixCache(new_pool), "PrefixCache: pool: got a BlockPool "),
        (lambda: quire.load_table(new_pool, "never"), "load_table: pool: got a BlockPool "),
        (lambda: pool.explain(new_table), "BlockPool.explain: table: got a BlockTable "),
        (lambda: cache.insert([1], new_table), "PrefixCache.insert: table: got a BlockTable "),
        (
            lambda: quire.pack_tables([table, new_table]),
            "pack_tables: tables: got a BlockTable at index 1 ",
        ),
        (lambda: quire.attend(q, [new_table]), "attend: tables: got a BlockTable at index 0 "),
    ]
    for asked, message in cases:
        refused(asked, message + NEVER_MADE)


def of_a_finaliser() -> None:
    """A subclass asks for everything in __del__, after its __init__ was refused."""
    for base in (quire.BlockPool, quire.BlockTable, quire.PrefixCache):
        heard: list[str] = []

        class Sub(base):  # type: ignore[misc, valid-type]
            def __del__(self, base: Any = base, heard: list[str] = heard) -> None:
                for name in names_of(base):
                    refused(lambda name=name: ask(self, name))  # type: ignore[misc]
                    heard.append(name)

        refused(functools.partial(Sub, "not a pool"), "expected")
        assert heard == names_of(base)


def of_an_idle_subclass() -> None:
    class Idle(quire.BlockTable):
        def __init__(self) -> None:
            refused(self.fork)

    class Late(quire.BlockTable):
        def __init__(self) -> None:
            refused(lambda: len(self))
            super().__init__(pool)

    refused(Idle, "__init__() must be called when overriding __init__")
    assert len(Late()) == 0


def of_two_bases() -> None:
    class Both(quire.BlockTable, quire.BlockPool):  # type: ignore[misc]
        def __init__(self) -> None:
            quire.BlockTable.__init__(self, pool)
            refused(lambda: quire.BlockPool.check(self))
            refused(lambda: quire.BlockTable(self))
            assert quire.BlockTable.fork(self).num_tokens == 0

    refused(Both, "__init__() must be called when overriding __init__")


def made_twice() -> None:
    made = unmade(quire.BlockPool)

    class Number:
        def __index__(self) -> int:
            made.__init__(2, num_kv_heads=1, head_dim=8)
            return 4

    meanwhile = "BlockPool: self: got an object that was made meanwhile, expected"
    refused(lambda: made.__init__(Number(), num_kv_heads=1, head_dim=8), meanwhile)
    assert made.num_blocks == 2
    made.__init__(16, num_kv_heads=1, head_dim=8)  # of what is there already: nothing happens
    assert made.num_blocks == 2
    made.check()


def copies() -> None:
    cache = quire.PrefixCache(pool)
    for thing in (pool, table, cache, pool.stats(), cache.stats()):
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            for one in (thing, unmade(type(thing))):
                refused(lambda one=one, copied=copied: copied(one), "cannot pickle")  # type: ignore[misc]


def another_self() -> None:
    """Methods that are given no object of their class, or none at all."""
    for cls in (quire.BlockPool, quire.BlockTable, quire.PrefixCache):
        for name in names_of(cls):
            method = getattr(cls, name)
            if isinstance(method, property) or name.startswith("_"):
                continue
            place = f"{cls.__name__}.{name}: self: got "
            refused(lambda method=method: method(5), place + "int, expected a ")  # type: ignore[misc]
            refused(lambda method=method: method(), place + "none, expected a ")  # type: ignore[misc]


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    table.free()
    pool.check()
    assert pool.num_free == 8
