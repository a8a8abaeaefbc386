"""Where files are saved to: links, modes, long names, and what is not replaced."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire

CACHE_FILE = "prefix_cache.safetensors"


@pytest.fixture
def table() -> Any:
    pool = quire.BlockPool(8, block_size=4, num_kv_heads=1, head_dim=4, dtype="float32")
    table = quire.BlockTable(pool)
    rows = np.arange(6 * 4, dtype=np.float32).reshape(6, 1, 4)
    table.append(rows, rows)
    return table


@pytest.fixture
def cache(table: Any) -> Any:
    cache = quire.PrefixCache(table.pool)
    cache.insert(range(6), table)
    return cache


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_path_that_names_nothing(table: Any, cache: Any) -> None:
    for name, call in [
        ("BlockTable.save: path", table.save),
        ("load_table: path", lambda path: quire.load_table(table.pool, path)),
        ("PrefixCache.save: dir", cache.save),
        ("PrefixCache.load: dir", cache.load),
    ]:
        for empty in ("", b""):
            with pytest.raises(ValueError, match=f"^{name}: got an empty one, expected a path$"):
                call(empty)


def test_paths_of_any_form(
    table: Any, cache: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("t", "./t", ".//t", b"t", Path("t"), os.fsencode(tmp_path / "t"), b"\xff"):
        table.save(path)
        assert len(quire.load_table(table.pool, path)) == 6
    with pytest.raises(IsADirectoryError):
        table.save("new/")
    with pytest.raises(NotADirectoryError):
        table.save("t/")
    for folder in ("a/b/", b"a//c", "./a/d", "."):
        cache.save(folder)
        assert quire.PrefixCache(table.pool).load(folder) == 2
    assert sorted(os.listdir("a")) == ["b", "c", "d"]
    assert sorted(os.listdir(b".")) == [b"a", CACHE_FILE.encode(), b"t", b"\xff"]


def test_names_as_long_as_the_file_system_takes(table: Any, tmp_path: Path) -> None:
    for name in ("x" * 255, "ä" * 127):
        for _ in range(2):
            table.save(tmp_path / name)
        assert len(quire.load_table(table.pool, tmp_path / name)) == 6
    with pytest.raises(OSError, match="File name too long"):
        table.save(tmp_path / ("x" * 256))
    assert len(os.listdir(tmp_path)) == 2


def test_links_are_followed(table: Any, cache: Any, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "link").symlink_to("to/t")
    for _ in range(2):  # at first there is nothing there
        table.save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert len(quire.load_table(table.pool, tmp_path / "to" / "t")) == 6
    (tmp_path / CACHE_FILE).symlink_to(tmp_path / "to" / "c")
    cache.save(tmp_path)
    assert (tmp_path / CACHE_FILE).is_symlink()
    assert quire.PrefixCache(table.pool).load(tmp_path) == 2
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        table.save(tmp_path / "round")
    assert sorted(os.listdir(tmp_path / "to")) == ["c", "t"]


def test_only_regular_files_are_replaced(table: Any, cache: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        for name in ("pipe", "socket"):
            path, kind = tmp_path / name, (tmp_path / name).stat().st_mode
            expected = f"got {path}: a {name}, expected a regular file or none"
            with pytest.raises(ValueError, match=re.escape(f"BlockTable.save: path: {expected}")):
                table.save(path)
            assert path.stat().st_mode == kind
    os.mkfifo(tmp_path / CACHE_FILE)
    with pytest.raises(ValueError, match=f"{CACHE_FILE}: a pipe, expected a regular file"):
        cache.save(tmp_path)
    with pytest.raises(FileExistsError, match=r"PrefixCache\.save: path: mkdir"):
        cache.save(tmp_path / "pipe")
    assert sorted(os.listdir(tmp_path)) == ["pipe", CACHE_FILE, "socket"]


def test_a_read_only_file_is_refused(table: Any, cache: Any, tmp_path: Path) -> None:
    for path, save in [
        (tmp_path / "t", lambda: table.save(tmp_path / "t")),
        (tmp_path / CACHE_FILE, lambda: cache.save(tmp_path)),
    ]:
        path.write_text("old")
        path.chmod(0o444)
        with pytest.raises(PermissionError, match="replace a file that is read-only") as refused:
            save()
        assert refused.value.filename == str(path)
        assert path.read_text() == "old"
        path.chmod(0o644)
        save()
    assert sorted(os.listdir(tmp_path)) == [CACHE_FILE, "t"]


def test_the_mode_stays_and_a_new_file_has_the_masks(table: Any, tmp_path: Path) -> None:
    path = tmp_path / "t"
    old_mask = os.umask(0o027)
    try:
        table.save(path)
    finally:
        os.umask(old_mask)
    assert mode_of(path) == 0o640
    for mode in (0o600, 0o666, 0o640):
        path.chmod(mode)
        table.save(path)
        assert mode_of(path) == mode


def test_a_folder_made_for_a_cache_goes_where_it_is_not_saved(tmp_path: Path) -> None:
    pool = quire.BlockPool(8, block_size=4, num_kv_heads=1, head_dim=4, dtype="int4")
    table, cache = quire.BlockTable(pool), quire.PrefixCache(pool)
    rows = np.ones((12, 1, 4), np.float32)
    table.append(rows, rows)
    cache.insert(range(12), table)
    table.free()
    pool.k_scale()[:] = np.nan
    with pytest.raises(ValueError, match=r"PrefixCache\.save: cache: got layers\.0\.k_scale"):
        cache.save(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path) == []
