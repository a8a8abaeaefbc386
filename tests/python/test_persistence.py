"""Saving and loading: what comes back, what other tools read, and what is refused."""

from __future__ import annotations

import json
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled_examples import examples

import quire

DTYPES = ["float32", "float16", "bfloat16", "int8", "float8_e4m3fn", "float8_e5m2", "int4"]
CACHE_FILE = "prefix_cache.safetensors"


def new_pool(num_blocks: int = 32, **changes: Any) -> Any:
    geometry: dict[str, Any] = {
        "block_size": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "v_head_dim": 6,
        "num_layers": 3,
        "dtype": "float32",
    }
    return quire.BlockPool(num_blocks, **(geometry | changes))


def append_random(table: Any, tokens: int, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    pool = table.pool
    layers = (pool.num_layers,) if pool.num_layers > 1 else ()
    k, v = (
        random.standard_normal((*layers, tokens, pool.num_kv_heads, d)).astype(np.float32)
        for d in (pool.head_dim, pool.v_head_dim)
    )
    table.append(k, v)


def filled(pool: Any, tokens: int, seed: int = 0) -> Any:
    table = quire.BlockTable(pool)
    append_random(table, tokens, seed)
    return table


def rows(table: Any) -> list[bytes]:
    return [a.tobytes() for layer in range(table.pool.num_layers) for a in table.gather(layer)]


def message(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"num_layers": 1, "v_head_dim": None},
        {"block_size": 16, "num_kv_heads": 3, "head_dim": 5, "v_head_dim": 7},
        {"block_size": 1, "num_kv_heads": 1, "head_dim": 1, "v_head_dim": 1},
    ],
    ids=str,
)
def test_a_table_comes_back(tmp_path: Path, dtype: str, geometry: dict[str, Any]) -> None:
    if dtype == "int4":  # of which a byte has two
        geometry = {key: n * 2 if n and "head_dim" in key else n for key, n in geometry.items()}
    for tokens in (0, 1, 4, 17, 31):
        pool = new_pool(34, dtype=dtype, **geometry)
        table = filled(pool, tokens)
        child = table.fork()  # of shared blocks
        assert child.save(tmp_path / "t") is None
        loaded = quire.load_table(new_pool(64, dtype=dtype, **geometry), str(tmp_path / "t"))
        assert isinstance(loaded, quire.BlockTable)
        assert len(loaded) == tokens
        assert rows(loaded) == rows(table)
        for each in (loaded, table):
            append_random(each, 3)
        assert [len(k) for k in loaded.gather()] == [tokens + 3] * 2
        assert rows(loaded) == rows(table)
        loaded.pool.check()
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_on_a_loaded_table_has_the_same_bits(tmp_path: Path, dtype: str) -> None:
    pool = quire.BlockPool(32, num_kv_heads=2, head_dim=64, dtype=dtype)
    random = np.random.default_rng(0)
    table = quire.BlockTable(pool)
    table.append(*random.standard_normal((2, 100, 2, 64)).astype(np.float32))
    table.save(os.fsencode(tmp_path / "t"))
    q = random.standard_normal((2, 8, 64)).astype(np.float32)
    out = quire.attend(q, [table, quire.load_table(pool, tmp_path / "t")])
    assert (quire.attend(q[:1], [table]) == out[0]).all()
    assert (quire.attend(q[1:], [table]) == out[1]).all()


def read_plainly(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data, by the format's description alone."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_plainly(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_the_format_is_what_is_documented(tmp_path: Path) -> None:
    pool = new_pool(dtype="float16")
    table = filled(pool, 10)
    table.save(tmp_path / "t")
    header, data = read_plainly(tmp_path / "t")
    metadata = header.pop("__metadata__")
    assert set(header) == {f"layers.{layer}.{plane}" for layer in range(3) for plane in "kv"}
    for layer in range(3):
        for plane, expected in zip("kv", table.gather(layer), strict=True):
            entry = header[f"layers.{layer}.{plane}"]
            assert entry["dtype"] == "F16"
            assert entry["shape"] == list(expected.shape)
            begin, end = entry["data_offsets"]
            assert data[begin:end] == expected.tobytes()
    checksums = {name for name in metadata if "xxh64" in name}
    assert checksums == {"quire.header_xxh64", *(f"quire.xxh64.{name}" for name in header)}
    assert {name: metadata[name] for name in metadata if name not in checksums} == {
        "quire.kind": "block_table",
        "quire.format_version": "1",
        "quire.block_size": "4",
        "quire.num_kv_heads": "2",
        "quire.head_dim": "8",
        "quire.v_head_dim": "6",
        "quire.num_layers": "3",
        "quire.dtype": "float16",
        "quire.num_tokens": "10",
        "quire.blocks": "0:3",
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_tools_read_it(tmp_path: Path, dtype: str) -> None:
    safetensors = pytest.importorskip("safetensors")
    numpy_files = pytest.importorskip("safetensors.numpy")
    pool = new_pool(dtype=dtype)
    table = filled(pool, 10)
    table.save(tmp_path / "t")
    tensors = numpy_files.load_file(tmp_path / "t")
    for layer in range(3):
        k, v = table.gather(layer)
        assert (tensors[f"layers.{layer}.k"] == k).all()
        assert (tensors[f"layers.{layer}.v"] == v).all()
    cache = quire.PrefixCache(pool)
    cache.insert(list(range(10)), table, namespace="täg")
    cache.save(tmp_path)
    with safetensors.safe_open(tmp_path / CACHE_FILE, "np") as file:
        assert file.metadata()["quire.kind"] == "prefix_cache"
        assert file.get_tensor("token_ids").sum() == sum(range(10))
        assert bytes(file.get_tensor("namespaces")).decode() == "täg"
        assert file.get_tensor("layers.2.v").shape == (10, 2, 6)
    table.truncate(0)
    table.save(tmp_path / "t")
    assert numpy_files.load_file(tmp_path / "t")["layers.0.k"].shape == (0, 2, 8)


def test_what_another_tool_has_saved_is_refused(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    filled(new_pool(), 10).save(tmp_path / "t")
    numpy_files.save_file(numpy_files.load_file(tmp_path / "t"), tmp_path / "t")
    text = message(ValueError, lambda: quire.load_table(new_pool(), tmp_path / "t"))
    expected = 'no "quire.kind" in its metadata, expected a file that Quire saved'
    assert text == f"load_table: path: got {tmp_path / 't'}: {expected}"


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_cache_comes_back(tmp_path: Path, dtype: str) -> None:
    pool = new_pool(dtype=dtype)
    cache = quire.PrefixCache(pool)
    table = filled(pool, 11)
    ids = np.arange(11)
    cache.insert(ids, table)
    cache.insert([0, 1, 2, 3, 9], table, namespace="ä")
    cache.insert([2**62], table, namespace="wide")
    before = pool.stats()
    assert cache.save(tmp_path / "new" / "folder") is None
    assert pool.stats().cached == before.cached
    other = quire.PrefixCache(new_pool(dtype=dtype))
    assert other.load(tmp_path / "new" / "folder") == len(cache) == len(other)
    for asked, space, found in [(ids, "", 11), ([0, 1, 2, 3, 9], "ä", 5), ([2**62], "wide", 1)]:
        match = other.match([*asked, 5], namespace=space)
        assert len(match) == found
        whole = table.fork()
        whole.truncate(found)
        assert rows(match) == rows(whole)
        match.free()
    assert len(other) == 6
    assert other.pool.stats().cached == other.pool.num_used == 3  # shared, as they were
    assert other.load(os.fsencode(tmp_path / "new" / "folder")) == 0  # all there
    other.pool.check()


def test_a_loaded_cache_evicts_in_the_saved_order(tmp_path: Path) -> None:
    pool = new_pool(num_layers=1)
    cache = quire.PrefixCache(pool)
    for first in (0, 100, 200):
        cache.insert(np.arange(first, first + 8), filled(pool, 8))
    cache.match(np.arange(9)).free()  # the oldest becomes the newest
    cache.save(tmp_path)
    small = quire.PrefixCache(new_pool(num_layers=1), max_blocks=4)
    assert small.load(tmp_path) == 4
    assert [len(small.match(np.arange(i, i + 9))) for i in (0, 200, 100)] == [8, 8, 0]
    other = quire.PrefixCache(new_pool(num_layers=1))
    other.load(tmp_path)
    other.evict(3)
    assert [len(other.match(np.arange(i, i + 9))) for i in (100, 200, 0)] == [0, 4, 8]


def test_system_errors_are_os_errors(tmp_path: Path) -> None:
    pool = new_pool()
    table, cache = filled(pool, 4), quire.PrefixCache(pool)
    missing = tmp_path / "no" / "t"
    with pytest.raises(FileNotFoundError) as raised:
        quire.load_table(pool, missing)
    assert raised.value.filename == str(missing)
    text = f"[Errno 2] load_table: path: open: No such file or directory: '{missing}'"
    assert str(raised.value) == text
    for call in (lambda: table.save(missing), lambda: cache.load(tmp_path / "no")):
        with pytest.raises(FileNotFoundError):
            call()
    with pytest.raises(IsADirectoryError):
        table.save(tmp_path)
    assert "no regular file" in message(ValueError, lambda: quire.load_table(pool, tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in message(
        ValueError, lambda: quire.load_table(pool, tmp_path / "pipe")
    )


def test_wrong_arguments(tmp_path: Path) -> None:
    pool = new_pool()
    table, cache = filled(pool, 4), quire.PrefixCache(pool)
    for name, call in [
        ("BlockTable.save: path", table.save),
        ("load_table: path", lambda path: quire.load_table(pool, path)),
        ("PrefixCache.save: dir", cache.save),
        ("PrefixCache.load: dir", cache.load),
    ]:
        expected = f"{name}: got int, expected a str, bytes or os.PathLike"
        assert message(TypeError, lambda call=call: call(5)) == expected
        assert name in message(ValueError, lambda call=call: call("a\0b"))
    wrong: Any = "pool"
    expected = "load_table: pool: got str, expected a BlockPool"
    assert message(TypeError, lambda: quire.load_table(wrong, "t")) == expected
    table.free()
    assert "got a freed one" in message(ValueError, lambda: table.save(tmp_path / "t"))
    name = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(name)).write_bytes(b"short")
    assert r"\xff: 5 bytes" in message(ValueError, lambda: quire.load_table(pool, name))


CHANGES = {
    "quire.kind": "prefix_cache",
    "quire.format_version": "2",
    "quire.num_tokens": "11",
    "quire.blocks": "1:3",
    "quire.header_xxh64": "0" * 16,
    "quire.xxh64.layers.0.k": "0" * 16,
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_or_missing_value_is_refused(tmp_path: Path, key: str) -> None:
    pool = new_pool()
    filled(pool, 10).save(tmp_path / "t")
    header, data = read_plainly(tmp_path / "t")
    header["__metadata__"][key] = CHANGES[key]
    write_plainly(tmp_path / "t", header, data)
    changed = message(ValueError, lambda: quire.load_table(pool, tmp_path / "t"))
    assert "quire." in changed or "corrupt" in changed
    del header["__metadata__"][key]
    write_plainly(tmp_path / "t", header, data)
    missing = message(ValueError, lambda: quire.load_table(pool, tmp_path / "t"))
    assert f'no "{key}"' in missing or "corrupt" in missing
    pool.check()
    assert pool.num_used == 0


@pytest.fixture(scope="module", params=["float32", "int4"])
def good_files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, bytes, bytes]:
    folder = tmp_path_factory.mktemp("good")
    pool = new_pool(num_layers=1, dtype=request.param)
    table, cache = filled(pool, 10), quire.PrefixCache(pool)
    cache.insert(np.arange(10), table)
    cache.insert([0, 1, 2, 3, 7], table, namespace="b")
    table.save(folder / "t")
    cache.save(folder)
    return request.param, folder, (folder / "t").read_bytes(), (folder / CACHE_FILE).read_bytes()


Mutation = tuple[str, float, bytes]
MUTATIONS: st.SearchStrategy[list[Mutation]] = st.lists(
    st.tuples(
        st.sampled_from(["put", "insert", "cut"]),
        st.floats(0, 1),
        st.sampled_from([b"0", b"9" * 20, b'"', b"}", b"[" * 50, b"\xff", b"\xc3"])
        | st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


def mutated(good: bytes, mutations: list[Mutation]) -> bytes:
    for how, where, piece in mutations:
        at = int(where * len(good))
        end = {"put": at + len(piece), "insert": at, "cut": at + len(piece)}[how]
        good = good[:at] + (b"" if how == "cut" else piece) + good[end:]
    return good


@settings(max_examples=examples(300), deadline=None)
@given(mutations=MUTATIONS)
def test_a_mutated_file_is_refused_or_the_same(
    good_files: tuple[str, Path, bytes, bytes], mutations: list[Mutation]
) -> None:
    dtype, folder, good_table, good_cache = good_files
    pool = new_pool(num_layers=1, dtype=dtype)
    cache = quire.PrefixCache(pool)
    for name, good, load in [
        ("bad", good_table, lambda: quire.load_table(pool, folder / "bad")),
        (CACHE_FILE, good_cache, lambda: cache.load(folder)),
    ]:
        bad = mutated(good, mutations)
        (folder / name).write_bytes(bad)
        if bad == good:
            load()
        else:
            before = repr(pool.stats())
            assert ": path: got " in message(ValueError, load)
            assert repr(pool.stats()) == before
    pool.check()


@pytest.mark.parametrize("dtype", ["float32", "int4"])
def test_saving_while_others_append_and_match(tmp_path: Path, dtype: str) -> None:
    pool = new_pool(512, num_layers=1, dtype=dtype)
    cache, table = quire.PrefixCache(pool), quire.BlockTable(pool)
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            append_random(table, 5)
            cache.insert(np.arange(len(table)), table)
            cache.match(np.arange(len(table))).free()
            if len(table) > 300:
                table.truncate(0)
                cache.clear()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(20):
            table.save(tmp_path / "t")
            loaded = quire.load_table(new_pool(512, num_layers=1, dtype=dtype), tmp_path / "t")
            assert len(loaded) % 5 == 0
            cache.save(tmp_path)
            quire.PrefixCache(new_pool(512, num_layers=1, dtype=dtype)).load(tmp_path)
    finally:
        done.set()
        worker.join()
    pool.check()
