"""Tensors of other libraries as views, and results as theirs; PyTorch is never imported for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quire import row_attention
from quire.row_attention import Batch, Options, attend_batch
from quire.tensor_views import (
    array_of,
    dtype_of,
    integers_of,
    number_of,
    tensor_like,
    written_array,
)


def test_the_adapters_do_not_import_torch() -> None:
    code = "import sys, quire.flashinfer, quire.vllm; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int32", "int64", "bool"],
)
def test_torch_tensors_are_seen_and_given_without_a_copy(name: str) -> None:
    torch: Any = pytest.importorskip("torch")
    tensor = torch.zeros(3, 4).to(getattr(torch, name))
    for view in (tensor, tensor.t(), tensor[1:, ::2]):
        array = array_of(view, "f: x")
        assert array.dtype.name == name
        assert array.shape == tuple(view.shape)
        array[...] = 1
        assert (view.float() == 1).all()
        back = tensor_like(array, tensor)
        assert back.dtype == tensor.dtype
        assert back.data_ptr() == view.data_ptr()
    assert dtype_of(tensor.dtype, "f: x") == array.dtype


def test_torch_tensors_with_gradients_and_of_other_devices() -> None:
    torch: Any = pytest.importorskip("torch")
    assert array_of(torch.ones(2, requires_grad=True), "f: x").tolist() == [1, 1]
    with pytest.raises(ValueError, match="f: x: got a tensor on meta, expected one on the CPU"):
        array_of(torch.ones(2, device="meta"), "f: x")
    assert number_of(torch.tensor([2.5]), "f: x") == 2.5
    assert integers_of(torch.tensor([1, 2], dtype=torch.uint8), "f: x").tolist() == [1, 2]


def test_arrays_and_other_objects() -> None:
    array = np.ones(2)
    assert array_of(array, "f: x") is array
    assert tensor_like(array, array) is array

    class Exporter:
        __array_interface__ = array.__array_interface__

    view = array_of(Exporter(), "f: x")
    view[0] = 5
    assert array[0] == 5
    with pytest.raises(TypeError, match="f: x: got str, expected an array or a CPU tensor"):
        array_of("text", "f: x")


def test_numbers_integers_and_dtypes() -> None:
    assert number_of(None, "f: x") is None
    assert [number_of(x, "f: x") for x in (2, 0.5, np.float32(3), np.array([4]))] == [2, 0.5, 3, 4]
    with pytest.raises(ValueError, match=r"f: x: got shape \[2\], expected one number"):
        number_of(np.ones(2), "f: x")
    with pytest.raises(TypeError, match="f: x: got dtype bool, expected integers"):
        integers_of([True, False], "f: x")
    with pytest.raises(ValueError, match=r"f: x: got shape \[1, 1\], expected \[n\]"):
        integers_of(np.array([[1]]), "f: x")
    with pytest.raises(ValueError, match=r"f: x: got shape \[1\], expected \[2\]"):
        integers_of([1], "f: x", length=2)
    assert dtype_of("bfloat16", "f: x") == ml_dtypes.bfloat16
    assert dtype_of(ml_dtypes.bfloat16, "f: x") == ml_dtypes.bfloat16
    assert dtype_of(np.float16, "f: x") == dtype_of(np.dtype("f2"), "f: x") == np.float16


def test_what_is_written_fits_and_can_be_written() -> None:
    array = np.zeros((2, 3), np.float32)
    assert written_array(array, (2, 3), np.float32, "f: out") is array
    with pytest.raises(
        ValueError, match=r"f: out: got float32 \[2, 3\], expected float16 \[2, 3\]"
    ):
        written_array(array, (2, 3), np.float16, "f: out")
    array.flags.writeable = False
    with pytest.raises(ValueError, match="f: out: got a read-only array"):
        written_array(array, (2, 3), np.float32, "f: out")


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_masks_over_caches_whose_slots_cannot_be_numbered(layout: Any) -> None:
    # Blocks that begin at no whole number of slots, and keys and values of different strides.
    random = np.random.default_rng(1)
    flat = random.standard_normal(4 * 1000).astype(np.float32)
    shape = (4, 8, 2, 16)
    strides = (1000 * 4, 3 * 16 * 4, 16 * 4, 4)
    k = np.lib.stride_tricks.as_strided(flat, shape, strides)
    v = random.standard_normal((4, 2, 8, 2, 16)).astype(np.float32)[:, 1]
    assert 1000 % 48
    q = random.standard_normal((3, 4, 16)).astype(np.float32)
    mask = random.random((3, 21)) < 0.5
    rows, table, lengths = np.array([0, 3]), np.array([[3, 0, 2]]), np.array([21])
    results = []
    for caches in [(k, v), (k.copy(), v.copy())]:
        given = [x if layout == "NHD" else x.swapaxes(1, 2) for x in caches]
        out = np.empty_like(q)
        batch = Batch(rows, table, lengths, masks=[mask])
        lse = attend_batch(q, given[0], given[1], batch, Options(0.25), out, layout=layout)
        results.append((out, lse))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert np.isfinite(results[0][1]).all()


def test_where_masked_rows_are_cut_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    k, v = random.standard_normal((2, 5, 16, 2, 32)).astype(np.float32)
    q = random.standard_normal((37, 4, 32)).astype(np.float32)
    masks = [random.random((30, 70)) < 0.5, random.random((7, 9)) < 0.5]
    table = np.array([[3, 0, 2, 4, 1], [4, -1, -1, -1, -1]])
    batch = Batch(np.array([0, 30, 37]), table, np.array([70, 9]), masks=masks)
    results = []
    for most in (1 << 22, 200, 1):
        monkeypatch.setattr(row_attention, "_MOST_ENTRIES", most)
        out = np.empty_like(q)
        results.append((attend_batch(q, k, v, batch, Options(0.2), out), out))
    for lse, out in results[1:]:
        assert lse.tobytes() == results[0][0].tobytes()
        assert out.tobytes() == results[0][1].tobytes()
