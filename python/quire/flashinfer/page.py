"""Paged caches: their tables, views of their keys and values, and appending to them."""

from __future__ import annotations

from typing import Any

import numpy as np

import quire
from quire.flashinfer.planned import indptr_of
from quire.row_attention import Ints
from quire.tensor_views import Array, array_of, integers_of, tensor_like, written_array


def unpack_paged_kv_cache(where: str, paged_kv_cache: Any, kv_layout: str) -> tuple[Array, Array]:
    """Views of the keys and the values, [pages, page_size, Hkv, D] or HND.

    A pair of caches, or one cache with both on its second axis; without an axis of the page's
    tokens these are pages of one token.
    """
    check_layout(where, kv_layout)
    if isinstance(paged_kv_cache, tuple | list):
        if len(paged_kv_cache) != 2:
            raise ValueError(f"{where}: got {len(paged_kv_cache)} caches, expected (k, v)")
        pair = [array_of(cache, where) for cache in paged_kv_cache]
    else:
        both = array_of(paged_kv_cache, where)
        if both.ndim not in (4, 5) or both.shape[1] != 2:
            raise ValueError(
                f"{where}: got shape {list(both.shape)}, expected [pages, 2, ...] or a pair"
            )
        pair = [both[:, 0], both[:, 1]]
    if any(cache.ndim not in (3, 4) for cache in pair):
        raise ValueError(f"{where}: got {pair[0].ndim} and {pair[1].ndim} axes, expected 3 or 4")
    axis = -3 if kv_layout == "NHD" else -2
    k, v = (np.expand_dims(cache, axis) if cache.ndim == 3 else cache for cache in pair)
    return k, v


def check_layout(where: str, kv_layout: str) -> None:
    """Raises ValueError for anything but NHD and HND."""
    if kv_layout not in ("NHD", "HND"):
        raise ValueError(f"{where}: got kv_layout {kv_layout!r}, expected 'NHD' or 'HND'")


def as_nhd(array: Array, kv_layout: str) -> Array:
    """The axes of tokens and heads in the order of NHD; a view."""
    return array if kv_layout == "NHD" else array.swapaxes(-3, -2)


def tables_of(function: str, names: tuple[str, str], indptr: Ints, indices: Any) -> Ints:
    """Page indices of each sequence, one after the other, as a table [B, max_pages]."""
    pages = integers_of(indices, f"{function}: {names[1]}")
    if len(pages) < indptr[-1]:
        raise ValueError(
            f"{function}: {names[1]}: got {len(pages)} pages, "
            f"expected {indptr[-1]}, the last of {names[0]}"
        )
    negative = np.flatnonzero(pages[: indptr[-1]] < 0)
    if len(negative):
        at = int(negative[0])
        raise IndexError(f"{function}: {names[1]}: got {pages[at]} at {at}, expected a page")
    lengths = np.diff(indptr)
    tables = np.full((len(lengths), max(lengths, default=0)), -1, np.int64)
    tables[np.arange(tables.shape[1]) < lengths[:, None]] = pages[: indptr[-1]]
    return tables


def lengths_of(where: str, indptr: Ints, last_page_len: Any, page_size: int) -> Ints:
    """Tokens of each sequence, from its pages and the tokens in its last one; 0 without pages."""
    pages = np.diff(indptr)
    last = integers_of(last_page_len, where, length=len(pages))
    wrong = np.flatnonzero((pages > 0) & ((last < 0) | (last > page_size)))
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(f"{where}: got {last[at]} at {at}, expected 0 to {page_size}")
    return np.where(pages > 0, (pages - 1) * page_size + last, 0)


def pages_of(
    function: str, kv_indptr: Any, kv_indices: Any, kv_len_arr: Any, page_size: int
) -> tuple[Ints, Ints]:
    """The table and the tokens of each sequence, where plan() is given the latter themselves."""
    indptr = indptr_of(kv_indptr, f"{function}: kv_indptr")
    where = f"{function}: kv_len_arr"
    lengths = integers_of(kv_len_arr, where, length=len(indptr) - 1)
    room = np.diff(indptr) * page_size
    wrong = np.flatnonzero((lengths < 0) | (lengths > room))
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(f"{where}: got {lengths[at]} at {at}, expected 0 to {room[at]}")
    return tables_of(function, ("kv_indptr", "kv_indices"), indptr, kv_indices), lengths


def check_lengths(where: str, seq_lens: Any, lengths: Ints) -> None:
    """Raises ValueError unless seq_lens, where given, are what the pages hold."""
    if seq_lens is None:
        return
    given = integers_of(seq_lens, where, length=len(lengths))
    wrong = np.flatnonzero(given != lengths)
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"{where}: got {given[at]} at {at}, expected {lengths[at]}, what the pages hold"
        )


def get_seq_lens(kv_indptr: Any, kv_last_page_len: Any, page_size: int) -> Any:
    """Tokens of each sequence: (pages - 1) * page_size + kv_last_page_len, int32 [B].

    Args:
        kv_indptr: [B + 1]: where each sequence's pages begin in the list of pages.
        kv_last_page_len: [B]: tokens in its last page. page_size: tokens of a full one.
    """
    indptr = indptr_of(kv_indptr, "get_seq_lens: kv_indptr")
    lengths = lengths_of("get_seq_lens: kv_last_page_len", indptr, kv_last_page_len, page_size)
    return tensor_like(lengths.astype(np.int32), kv_indptr)


def get_batch_indices_positions(
    append_indptr: Any, seq_lens: Any, nnz: int, batch_indices: Any = None, positions: Any = None
) -> tuple[Any, Any]:
    """For each appended row its sequence and its position there, int32 [nnz] each.

    Args:
        append_indptr: [B + 1]: rows append_indptr[i]:append_indptr[i + 1] go to sequence i.
        seq_lens: [B]: tokens of each sequence, the appended ones included.
        nnz: rows in all; those past append_indptr[-1] have sequence -1 and position 0.
        batch_indices, positions: written into where given, int32 [nnz].
    """
    function = "get_batch_indices_positions"
    indptr = indptr_of(append_indptr, f"{function}: append_indptr")
    lengths = integers_of(seq_lens, f"{function}: seq_lens", length=len(indptr) - 1)
    if indptr[-1] > nnz:
        raise ValueError(f"{function}: nnz: got {nnz}, expected at least {indptr[-1]}")
    sequence = np.repeat(np.arange(len(lengths)), np.diff(indptr))
    found = {"batch_indices": np.full(nnz, -1, np.int32), "positions": np.zeros(nnz, np.int32)}
    found["batch_indices"][: indptr[-1]] = sequence
    found["positions"][: indptr[-1]] = (
        lengths[sequence] - indptr[sequence + 1] + np.arange(indptr[-1])
    )
    given = {"batch_indices": batch_indices, "positions": positions}
    targets = {
        name: written_array(tensor, (nnz,), np.int32, f"{function}: {name}")
        for name, tensor in given.items()
        if tensor is not None
    }
    for name, target in targets.items():
        target[...] = found[name]
    first, second = (
        tensor_like(found[name], append_indptr) if given[name] is None else given[name]
        for name in found
    )
    return first, second


def append_paged_kv_cache(
    append_key: Any,
    append_value: Any,
    batch_indices: Any,
    positions: Any,
    paged_kv_cache: Any,
    kv_indices: Any,
    kv_indptr: Any,
    kv_last_page_len: Any,
    kv_layout: str = "NHD",
) -> None:
    """Writes rows of keys and values where they belong in a paged cache.

    Args:
        append_key, append_value: [n, Hkv, D], of the cache's dtype; of 8 bits a cache may be uint8.
        batch_indices, positions: [n]: the sequence of each row, and its position there; a row of
            sequence -1 is skipped (get_batch_indices_positions).
        paged_kv_cache: (k_cache, v_cache), each [pages, page_size, Hkv, D] (NHD) or [pages, Hkv,
            page_size, D] (HND), or one tensor with both on axis 1; without page_size: 1.
        kv_indices, kv_indptr, kv_last_page_len: the pages of each sequence, those of the appended
            rows included, where they begin in the list, [B + 1], and tokens in the last, [B].
        kv_layout: "NHD" or "HND".

    Raises:
        ValueError, TypeError. IndexError: a sequence, position or page that is not there. Nothing
        has been written then.
    """
    function = "append_paged_kv_cache"
    k_cache, v_cache = unpack_paged_kv_cache(
        f"{function}: paged_kv_cache", paged_kv_cache, kv_layout
    )
    k = array_of(append_key, f"{function}: append_key")
    v = array_of(append_value, f"{function}: append_value")
    if k.dtype == v.dtype and k.dtype.itemsize == 1:
        k_cache, v_cache = (
            cache.view(k.dtype) if cache.dtype == np.uint8 else cache
            for cache in (k_cache, v_cache)
        )
    for name, rows, cache in [("append_key", k, k_cache), ("append_value", v, v_cache)]:
        if rows.dtype != cache.dtype:
            raise ValueError(
                f"{function}: {name}: got dtype {rows.dtype}, expected the cache's, {cache.dtype}"
            )
    page_size = as_nhd(k_cache, kv_layout).shape[1]
    indptr = indptr_of(kv_indptr, f"{function}: kv_indptr")
    tables = tables_of(function, ("kv_indptr", "kv_indices"), indptr, kv_indices)
    lengths = lengths_of(f"{function}: kv_last_page_len", indptr, kv_last_page_len, page_size)
    slots = _slots_of(function, batch_indices, positions, tables, lengths, page_size)
    if k.dtype.itemsize > 1:
        quire.write_kv(k, v, k_cache, v_cache, slots, layout="NHD" if kv_layout == "NHD" else "HND")
        return
    _copy_numbers(function, k, v, as_nhd(k_cache, kv_layout), as_nhd(v_cache, kv_layout), slots)


def append_paged_mla_kv_cache(
    append_ckv: Any,
    append_kpe: Any,
    batch_indices: Any,
    positions: Any,
    ckv_cache: Any,
    kpe_cache: Any,
    kv_indices: Any,
    kv_indptr: Any,
    kv_last_page_len: Any,
) -> None:
    """Writes rows of latents, and of keys with positions, where they belong in a paged cache.

    Args:
        append_ckv: [n, head_dim_ckv]. append_kpe: [n, head_dim_kpe], which may be 0. Of the caches'
            dtypes, float16, bfloat16 or float32.
        ckv_cache: [pages, page_size, head_dim_ckv]. kpe_cache: likewise, head_dim_kpe. They may be
            views of one array that has them side by side, as BatchMLAPagedAttentionWrapper reads
            without a copy.
        Others: as append_paged_kv_cache.

    Raises:
        NotImplementedError: caches of 8 bits. ValueError, TypeError. IndexError: a sequence,
        position or page that is not there. Nothing has been written then.
    """
    function = "append_paged_mla_kv_cache"
    given = {
        "append_ckv": append_ckv,
        "append_kpe": append_kpe,
        "ckv_cache": ckv_cache,
        "kpe_cache": kpe_cache,
    }
    arrays = {name: array_of(x, f"{function}: {name}") for name, x in given.items()}
    for name, x in arrays.items():
        axes = 2 if name.startswith("append") else 3
        if x.ndim != axes:
            raise ValueError(f"{function}: {name}: got shape {list(x.shape)}, expected {axes} axes")
        cache = arrays[f"{name[-3:]}_cache" if axes == 2 else name]
        if x.dtype != cache.dtype:
            raise ValueError(
                f"{function}: {name}: got dtype {x.dtype}, expected the cache's, {cache.dtype}"
            )
        if x.dtype.itemsize == 1:
            raise NotImplementedError(
                f"{function}: {name}: got {x.dtype}, expected float16, bfloat16 or float32: 8-bit "
                "latent caches are not here"
            )
    ckv, kpe, ckv_pages, kpe_pages = (np.expand_dims(x, -2) for x in arrays.values())
    fitting = {
        "append_ckv": (len(ckv), ckv_pages.shape[-1]),
        "append_kpe": (len(ckv), kpe_pages.shape[-1]),
        "kpe_cache": (*ckv_pages.shape[:2], kpe_pages.shape[-1]),
    }
    for name, shape in fitting.items():
        if arrays[name].shape != shape:
            raise ValueError(
                f"{function}: {name}: got shape {list(arrays[name].shape)}, expected {list(shape)}"
            )
    page_size = ckv_pages.shape[1]
    indptr = indptr_of(kv_indptr, f"{function}: kv_indptr")
    tables = tables_of(function, ("kv_indptr", "kv_indices"), indptr, kv_indices)
    lengths = lengths_of(f"{function}: kv_last_page_len", indptr, kv_last_page_len, page_size)
    slots = _slots_of(function, batch_indices, positions, tables, lengths, page_size)
    rest = (kpe, kpe_pages) if kpe.shape[-1] else (None, None)
    quire.write_kv(ckv, rest[0], ckv_pages, rest[1], slots)


def _slots_of(
    function: str, batch_indices: Any, positions: Any, tables: Ints, lengths: Ints, page_size: int
) -> Ints:
    """The slot of each row, -1 for those that are skipped."""
    sequence = integers_of(batch_indices, f"{function}: batch_indices")
    position = integers_of(positions, f"{function}: positions", length=len(sequence))
    wrong = np.flatnonzero((sequence < -1) | (sequence >= len(tables)))
    if len(wrong):
        at = int(wrong[0])
        raise IndexError(
            f"{function}: batch_indices: got {sequence[at]} at {at}, "
            f"expected -1 to {len(tables) - 1}"
        )
    slots = np.full(len(sequence), -1, np.int64)
    taken = np.flatnonzero(sequence >= 0)
    limit = lengths[sequence[taken]]
    wrong = np.flatnonzero((position[taken] < 0) | (position[taken] >= limit))
    if len(wrong):
        at = int(taken[wrong[0]])
        raise IndexError(
            f"{function}: positions: got {position[at]} at {at}, "
            f"expected 0 to {limit[wrong[0]] - 1}"
        )
    page, offset = np.divmod(position[taken], page_size)
    slots[taken] = tables[sequence[taken], page] * page_size + offset
    return slots


def _copy_numbers(
    function: str, k: Array, v: Array, k_cache: Array, v_cache: Array, slots: Ints
) -> None:
    """Rows of 8-bit numbers go into the cache as they are; their scale is the caller's affair."""
    pages, page_size = k_cache.shape[:2]
    wrong = np.flatnonzero((slots < -1) | (slots >= pages * page_size))
    if len(wrong):
        page = slots[wrong[0]] // page_size
        raise IndexError(f"{function}: kv_indices: got {page}, expected 0 to {pages - 1}")
    for name, rows, cache in [("append_key", k, k_cache), ("append_value", v, v_cache)]:
        if rows.shape != (len(slots), *cache.shape[2:]):
            raise ValueError(
                f"{function}: {name}: got shape {list(rows.shape)}, "
                f"expected {[len(slots), *cache.shape[2:]]}"
            )
        if not cache.flags.writeable:
            raise ValueError(f"{function}: paged_kv_cache: got a read-only cache")
    written = slots >= 0
    page, offset = np.divmod(slots[written], page_size)
    k_cache[page, offset] = k[written]
    v_cache[page, offset] = v[written]
