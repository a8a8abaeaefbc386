"""quire.flashinfer's appending, helpers and refusals, with FlashInfer's names and meanings."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from peer_attention import DTYPES, paged_batch, queries, sampled

import quire.flashinfer as flashinfer

APPEND = sampled(
    24,
    seed=6,
    lengths=[[(45, 45), (8, 8), (25, 25), (22, 22)], [(1, 17), (0, 5), (3, 3)], [(4, 36)]],
    page_size=[1, 5, 16],
    layout=["NHD", "HND"],
    form=["tuple", "packed"],
    dtype=[*DTYPES, "float8_e4m3fn", "float8_e5m2"],
)


@pytest.mark.parametrize("point", APPEND, ids=str)
def test_append_paged_kv_cache(point: dict[str, Any]) -> None:
    # (appended, in all) of each sequence: the appended tokens are the last ones.
    appended, keys = (list(x) for x in zip(*point["lengths"], strict=True))
    batch = paged_batch(keys, point["page_size"], 2, 24)
    dtype = np.dtype(getattr(ml_dtypes, point["dtype"], point["dtype"]))
    k, v = (queries(sum(appended), 2, 24, seed=seed).astype(dtype) for seed in (1, 2))
    nnz = len(k)
    indptr = np.concatenate([[0], np.cumsum(appended)]).astype(np.int32)
    lengths = flashinfer.get_seq_lens(batch.indptr, batch.last_page_len, point["page_size"])
    assert lengths.dtype == np.int32
    assert lengths.tolist() == keys
    sequence, position = flashinfer.get_batch_indices_positions(indptr, lengths, nnz)
    places = [(i, m - n + j) for i, (n, m) in enumerate(point["lengths"]) for j in range(n)]
    assert list(zip(sequence.tolist(), position.tolist(), strict=True)) == places

    number = np.array(7).astype(dtype)
    pages = [np.full(batch.k_cache.shape, number, dtype) for _ in range(2)]
    if point["layout"] == "HND":
        pages = [x.swapaxes(1, 2).copy() for x in pages]
    cache: Any = tuple(pages) if point["form"] == "tuple" else np.stack(pages, axis=1)
    paging = batch.indices, batch.indptr, batch.last_page_len
    flashinfer.append_paged_kv_cache(k, v, sequence, position, cache, *paging, point["layout"])
    written = cache if point["form"] == "tuple" else (cache[:, 0], cache[:, 1])
    for rows, got in zip((k, v), written, strict=True):
        got = got if point["layout"] == "NHD" else got.swapaxes(1, 2)
        wanted = np.full(got.shape, number, dtype)
        for row, (i, j) in zip(rows, places, strict=True):
            page = batch.indices[batch.indptr[i] + j // point["page_size"]]
            wanted[page, j % point["page_size"]] = row
        assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("place", ["side by side", "apart", "latents alone"])
def test_append_paged_mla_kv_cache(dtype: str, place: str) -> None:
    """Latents and rotary keys, of which each goes into its own array and nowhere else."""
    rest = 0 if place == "latents alone" else 64
    keys, appended, page_size = [17, 5, 3], [4, 0, 3], 8
    batch = paged_batch(keys, page_size, 1, 512 + rest, dtype)
    rows = queries(sum(appended), 1, 512 + rest, dtype)[:, 0]
    whole = np.full((len(batch.k_cache), page_size, 512 + rest), 7, DTYPES[dtype])
    ckv, kpe = whole[..., :512], whole[..., 512:]
    if place == "apart":
        ckv, kpe = ckv.copy(), kpe.copy()
    sequence, position = flashinfer.get_batch_indices_positions(
        np.concatenate([[0], np.cumsum(appended)]), np.array(keys), len(rows)
    )
    paging = batch.indices, batch.indptr, batch.last_page_len
    flashinfer.append_paged_mla_kv_cache(
        rows[:, :512], rows[:, 512:], sequence, position, ckv, kpe, *paging
    )
    wanted = np.full_like(whole, 7)
    places = [
        (i, m - n + j)
        for i, (n, m) in enumerate(zip(appended, keys, strict=True))
        for j in range(n)
    ]
    for row, (i, j) in zip(rows, places, strict=True):
        wanted[batch.indices[batch.indptr[i] + j // page_size], j % page_size] = row
    assert np.concatenate([ckv, kpe], axis=-1).tobytes() == wanted.tobytes()


def test_append_paged_mla_kv_cache_refuses() -> None:
    ckv, kpe = np.ones((2, 8), np.float32), np.ones((2, 4), np.float32)
    caches = np.zeros((2, 4, 8), np.float32), np.zeros((2, 4, 4), np.float32)
    paging: list[Any] = [[1, 0], [0, 2], [2]]

    def append(ckv: Any, kpe: Any, caches: Any, positions: Any = (4, 5)) -> None:
        flashinfer.append_paged_mla_kv_cache(
            ckv, kpe, np.zeros(2, np.int32), np.array(positions), *caches, *paging
        )

    for error, message, given in [
        (ValueError, r"append_ckv: got shape \[2, 1, 8\], expected 2 axes", (ckv[:, None], kpe)),
        (ValueError, "append_kpe: got dtype float64", (ckv, kpe.astype(np.float64))),
        (ValueError, r"append_kpe: got shape \[2, 3\], expected \[2, 4\]", (ckv, kpe[:, :3])),
        (ValueError, r"append_kpe: got shape \[2, 4\], expected \[1, 4\]", (ckv[:1], kpe)),
        (ValueError, r"append_ckv: got shape \[2, 7\], expected \[2, 8\]", (ckv[:, :7], kpe)),
    ]:
        with pytest.raises(error, match=f"append_paged_mla_kv_cache: {message}"):
            append(*given, caches)
    with pytest.raises(IndexError, match="positions: got 6 at 1, expected 0 to 5"):
        append(ckv, kpe, caches, (0, 6))
    eight = np.dtype(ml_dtypes.float8_e4m3fn)
    with pytest.raises(NotImplementedError, match="append_ckv: got float8_e4m3fn"):
        append(ckv.astype(eight), kpe.astype(eight), [c.astype(eight) for c in caches])
    with pytest.raises(ValueError, match=r"kpe_cache: got shape \[1, 4, 4\], expected \[2, 4, 4\]"):
        append(ckv, kpe, (caches[0], caches[1][:1]))
    assert not any(cache.any() for cache in caches)


def test_get_batch_indices_positions_example_and_padding() -> None:
    indptr, lengths = np.array([0, 1, 3, 6, 10], np.int32), np.array([5, 5, 5, 5])
    given = np.empty(12, np.int32), np.empty(12, np.int32)
    result = flashinfer.get_batch_indices_positions(indptr, lengths, 12, *given)
    assert result[0] is given[0]
    assert result[1] is given[1]
    assert given[0].tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, -1, -1]
    assert given[1].tolist() == [4, 3, 4, 2, 3, 4, 1, 2, 3, 4, 0, 0]


def test_rows_of_no_sequence_are_skipped() -> None:
    cache = np.zeros((2, 2, 4, 1, 8), np.float32)
    k = np.ones((2, 1, 8), np.float32)
    flashinfer.append_paged_kv_cache(k, k, [-1, 0], [0, 2], cache, [1], [0, 1], [3])
    assert cache.sum() == 16
    assert (cache[1, :, 2] == 1).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_indices": [2]}, IndexError, "batch_indices: got 2 at 0, expected -1 to 0"),
        ({"positions": [3]}, IndexError, "positions: got 3 at 0, expected 0 to 2"),
        ({"positions": [-1]}, IndexError, "positions: got -1 at 0, expected 0 to 2"),
        ({"positions": [0.5]}, TypeError, "positions: got dtype float64, expected integers"),
        ({"kv_indices": [-1]}, IndexError, "kv_indices: got -1 at 0, expected a page"),
        ({"kv_indices": []}, ValueError, "kv_indices: got 0 pages, expected 1"),
        ({"kv_indptr": [1, 1]}, ValueError, r"kv_indptr: got \[1\] at 0, expected 0"),
        ({"kv_last_page_len": [5]}, ValueError, "kv_last_page_len: got 5 at 0, expected 0 to 4"),
        ({"kv_layout": "NDH"}, ValueError, "got kv_layout 'NDH', expected 'NHD' or 'HND'"),
        ({"append_key": np.ones((1, 1, 8))}, ValueError, "append_key: got dtype float64"),
    ],
)
def test_append_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    k = np.ones((1, 1, 8), np.float32)
    cache = np.zeros((2, 2, 4, 1, 8), np.float32)
    arguments = {
        "append_key": k,
        "append_value": k,
        "batch_indices": [0],
        "positions": [0],
        "paged_kv_cache": cache,
        "kv_indices": [1],
        "kv_indptr": [0, 1],
        "kv_last_page_len": [3],
        **change,
    }
    with pytest.raises(error, match="append_paged_kv_cache: .*" + message):
        flashinfer.append_paged_kv_cache(**arguments)
    assert (cache == 0).all()


@pytest.mark.parametrize("bitorder", ["big", "little"])
@pytest.mark.parametrize("length", [0, 1, 8, 13, 999])
def test_packbits(length: int, bitorder: Any) -> None:
    bits = np.random.default_rng(length).random(length) < 0.5
    packed = flashinfer.packbits(bits, bitorder)
    assert packed.dtype == np.uint8
    got = [packed[i // 8] >> (7 - i % 8 if bitorder == "big" else i % 8) & 1 for i in range(length)]
    assert got == bits.astype(int).tolist()


def test_segment_packbits_example() -> None:
    x = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1], bool)
    packed, indptr = flashinfer.segment_packbits(x, np.array([0, 4, 7, 11]), bitorder="big")
    assert [bin(byte) for byte in packed] == ["0b10110000", "0b100000", "0b11010000"]
    assert indptr.tolist() == [0, 1, 2, 3]


PAGED = [0, 1], [0, 1], [0], [3], 4, 2, 64, 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pos_encoding_mode": "ROPE_LLAMA"}, "pos_encoding_mode: got 'ROPE_LLAMA'"),
        ({"use_fp16_qk_reduction": True}, "use_fp16_qk_reduction: got True"),
        ({"prefix_len_ptr": np.array([1])}, "prefix_len_ptr: got ndarray.*multi-item scoring"),
        ({"token_pos_in_items_ptr": np.array([1])}, "token_pos_in_items_ptr: .*multi-item"),
        ({"token_pos_in_items_len": 3}, "token_pos_in_items_len: got 3.*multi-item"),
        ({"max_item_len_ptr": np.array([1])}, "max_item_len_ptr: .*multi-item"),
        (
            {"pos_encoding_mode": "ALIBI", "logits_soft_cap": 5.0},
            "logits_soft_cap: got 5.0 with pos_encoding_mode 'ALIBI'",
        ),
    ],
)
def test_plan_refuses_by_name(given: dict[str, Any], message: str) -> None:
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None)
    with pytest.raises(NotImplementedError, match="Wrapper.plan: " + message):
        wrapper.plan(*PAGED, **given)


@pytest.mark.parametrize(
    "given", [{"backend": "fa3"}, {"use_cuda_graph": True}, {"jit_args": ["x"]}]
)
@pytest.mark.parametrize(
    "kind",
    [
        "BatchDecodeWithPagedKVCacheWrapper",
        "BatchPrefillWithPagedKVCacheWrapper",
        "BatchPrefillWithRaggedKVCacheWrapper",
    ],
)
def test_wrappers_refuse_by_name(kind: str, given: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match=f"{kind}: {next(iter(given))}: got"):
        getattr(flashinfer, kind)(None, "NHD", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kv_cache_sf": np.ones(1)}, "kv_cache_sf: got ndarray.*NVFP4"),
        ({"skip_softmax_threshold_scale_factor": 0.1}, "skip_softmax_threshold_scale_factor: got"),
        ({"use_fp16_softmax": True}, "use_fp16_softmax: got True"),
        ({"uses_spcompress": True}, "uses_spcompress: got True"),
        ({"sinks": np.ones(4, np.float32)}, "sinks: got sinks with pos_encoding_mode 'ALIBI'"),
    ],
)
def test_run_refuses_by_name(given: dict[str, Any], message: str) -> None:
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None)
    wrapper.plan(*PAGED, q_data_type="float32", pos_encoding_mode="ALIBI")
    q, cache = queries(1, 4, 64), np.zeros((1, 2, 16, 2, 64), np.float32)
    out = np.full((1, 4, 64), 9, np.float32)
    with pytest.raises(NotImplementedError, match="Wrapper.run: " + message):
        wrapper.run(q, cache, out=out, **given)
    with pytest.raises(NotImplementedError, match=r"Wrapper\.run: args: got tuple"):
        wrapper.run(q, cache, 1.0, out=out)
    assert (out == 9).all()


@pytest.mark.parametrize(
    ("q", "cache", "message"),
    [
        (queries(1, 4, 64, "float16"), None, "q: got dtype float16, expected float32 as planned"),
        (queries(2, 4, 64), None, r"q: got shape \[2, 4, 64\], expected \[1, 4, 64\]"),
        (None, (1, 2, 8, 2, 64), r"k: got shape \[1, 8, 2, 64\], expected \[1, 16, 2, 64\]"),
        (None, (1, 3, 16, 2, 64), r"paged_kv_cache: got shape \[1, 3, 16, 2, 64\]"),
        (None, (16, 2), r"paged_kv_cache: got shape \[16, 2\]"),
    ],
)
def test_run_compares_with_the_plan(q: Any, cache: Any, message: str) -> None:
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None)
    with pytest.raises(RuntimeError, match="run: got no plan"):
        wrapper.run(queries(1, 4, 64), np.zeros((1, 2, 16, 2, 64), np.float32))
    wrapper.plan(*PAGED, q_data_type="float32", window_left=4)
    q = queries(1, 4, 64) if q is None else q
    given = np.zeros((1, 2, 16, 2, 64) if cache is None else cache, np.float32)
    with pytest.raises(ValueError, match="Wrapper.run: " + message):
        wrapper.run(q, given)
    with pytest.raises(ValueError, match="run: window_left: got -1, expected 4 as planned"):
        wrapper.run(q, given, window_left=-1)


def test_nvfp4_caches_are_refused_before_they_are_read_as_int4() -> None:
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(None)
    wrapper.plan([0, 1], [0], [3], 4, 2, 64, 16, q_data_type="float32", kv_data_type="uint8")
    with pytest.raises(NotImplementedError, match=r"got dtype uint8.*NVFP4"):
        wrapper.run(queries(1, 4, 64), np.zeros((1, 2, 16, 2, 64), np.uint8))


def test_seq_lens_of_a_plan_are_what_the_pages_hold() -> None:
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(None)
    wrapper.plan(*PAGED, seq_lens=[3])
    with pytest.raises(ValueError, match="plan: seq_lens: got 4 at 0, expected 3"):
        wrapper.plan(*PAGED, seq_lens=[4])
    with pytest.raises(ValueError, match="plan: num_qo_heads: got 4, expected a multiple of"):
        wrapper.plan(*PAGED[:4], 4, 3, 64, 16)
    with pytest.raises(ValueError, match=r"plan: custom_mask: got bool \[5\], expected bool \[3\]"):
        wrapper.plan(*PAGED, custom_mask=np.ones(5, bool))
    with pytest.raises(TypeError, match="plan: q_data_type: got 'float17', expected a dtype"):
        wrapper.plan(*PAGED, q_data_type="float17")
