"""What a GGUF file says of itself, in Python."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from quire import _core

NUMBERS = Path(__file__).parent.parent / "data" / "gguf" / "numbers.gguf"


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf_of(*entries: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries)


def test_metadata_of_a_file_by_others() -> None:
    for path in (NUMBERS, os.fspath(NUMBERS), os.fsencode(NUMBERS)):
        assert _core.gguf_metadata(path) == {
            "general.alignment": 64,
            "general.architecture": "none",
            "test.floats": [0.5, -1.25],
            "test.texts": ["a", "", "bé"],
        }


def test_each_type_is_pythons_own(tmp_path: Path) -> None:
    array = struct.pack("<IIQ", 9, 9, 2)
    array += struct.pack("<IQ2B", 7, 2, 0, 1) + struct.pack("<IQ", 4, 0)
    (tmp_path / "a.gguf").write_bytes(
        gguf_of(
            text(b"i") + struct.pack("<Iq", 11, -(2**63)),
            text(b"u") + struct.pack("<IQ", 10, 2**64 - 1),
            text(b"f") + struct.pack("<Id", 12, 0.1),
            text(b"b") + struct.pack("<IB", 7, 1),
            text(b"s") + struct.pack("<I", 8) + text(b"\xffA"),
            text(b"a") + array,
        )
    )
    metadata = _core.gguf_metadata(tmp_path / "a.gguf")
    assert list(metadata) == ["a", "b", "f", "i", "s", "u"]
    assert [metadata["i"], metadata["u"]] == [-(2**63), 2**64 - 1]
    assert metadata["f"] == 0.1
    assert metadata["b"] is True
    assert os.fsencode(metadata["s"]) == b"\xffA"
    assert metadata["a"] == [[False, True], []]


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gguf_metadata: path: open"):
        _core.gguf_metadata(tmp_path / "none.gguf")
    (tmp_path / "a.gguf").write_bytes(gguf_of(text(b"k") + struct.pack("<IB", 7, 2)))
    with pytest.raises(ValueError, match=r"gguf_metadata: path: got .*a boolean of 2, expected 0"):
        _core.gguf_metadata(tmp_path / "a.gguf")
    with pytest.raises(TypeError, match="gguf_metadata: path: got int, expected"):
        _core.gguf_metadata(3)  # type: ignore[arg-type]
