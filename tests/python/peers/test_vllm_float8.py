"""quire.vllm over caches of 8-bit floats, held as uint8: scales of each sequence and head, and
queries of 8-bit floats, against a float64 reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from peer_attention import assert_close, attention, queries, visible_keys

import quire.vllm as vllm

E4M3, E5M2 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)
KV_LENS, ROWS, HEADS, SIZE, BLOCK = [40, 3, 29], [1, 2, 7], 2, 64, 16
STARTS = np.concatenate([[0], np.cumsum(ROWS)])


class Stored:
    """Random numbers of 8 bits in blocks of random order; unused slots are NaN."""

    def __init__(self, dtype: Any = E4M3) -> None:
        random = np.random.default_rng(3)
        order = random.permutation(9)
        self.tables = np.full((3, 4), -1, np.int32)
        self.caches = [np.full((9, BLOCK, HEADS, SIZE), np.nan).astype(dtype) for _ in "kv"]
        self.rows: list[list[Any]] = [[], []]
        for i, length in enumerate(KV_LENS):
            blocks, order = order[: -(-length // BLOCK)], order[-(-length // BLOCK) :]
            self.tables[i, : len(blocks)] = blocks
            position = np.arange(length)
            for cache, rows in zip(self.caches, self.rows, strict=True):
                numbers = (random.standard_normal((length, HEADS, SIZE)) * 20).astype(dtype)
                cache[blocks[position // BLOCK], position % BLOCK] = numbers
                rows.append(numbers.astype(np.float64))
        each = random.uniform(0.02, 0.1, (3, 3, HEADS)).astype(np.float32)
        self.q_descale, self.k_descale, self.v_descale = each

    def attend(self, q: Any, caches: Any = None, **options: Any) -> Any:
        return vllm.flash_attn_varlen_func(
            q, *(self.caches if caches is None else caches), 7, STARTS, 40, seqused_k=KV_LENS,
            causal=True, block_table=self.tables, return_softmax_lse=True, **options,
        )  # fmt: skip

    def expected(self, q: Any, q_descale: Any = 1.0, slopes: Any = None) -> tuple[Any, Any]:
        """Of float64 queries [T, Hq, D], each head's times what it is a multiple of."""
        outs, lses = [], []
        factors = np.broadcast_to(q_descale, (3, HEADS))
        for i in range(3):
            own = q[STARTS[i] : STARTS[i + 1]].astype(np.float64)
            own = own * np.repeat(factors[i], q.shape[1] // HEADS)[:, None]
            k, v = (
                rows[i] * scale[i][:, None]
                for rows, scale in zip(self.rows, (self.k_descale, self.v_descale), strict=True)
            )
            visible = visible_keys(ROWS[i], KV_LENS[i], True)
            out, lse = attention(own, k, v, visible, slopes=None if slopes is None else slopes[i])
            outs.append(out)
            lses.append(lse)
        return np.concatenate(outs), np.concatenate(lses).T


def test_each_sequence_has_its_descales() -> None:
    stored = Stored()
    q = queries(10, 4, SIZE)
    wanted, wanted_lse = stored.expected(q)
    descales = {"k_descale": stored.k_descale, "v_descale": stored.v_descale}
    as_bytes = [cache.view(np.uint8) for cache in stored.caches]
    for caches in (stored.caches, as_bytes):
        out, lse = stored.attend(q, caches, **descales)
        assert_close(out, wanted, "float16")
        assert_close(lse, wanted_lse, "float32")
    slopes = np.random.default_rng(0).uniform(0.1, 1, (3, 4))
    out, _ = stored.attend(q, as_bytes, alibi_slopes=slopes, **descales)
    assert_close(out, stored.expected(q, slopes=slopes)[0], "float16")


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("form", ["each", "one", "number", "none"])
def test_queries_of_eight_bits(form: str, dtype: Any) -> None:
    stored = Stored(dtype)
    q = (queries(10, 4, SIZE) * 8).astype(dtype)
    given = {
        "each": stored.q_descale,
        "one": np.array([0.125], np.float32),
        "number": 0.125,
        "none": None,
    }[form]
    if form == "none":  # scores of 8 times the size
        stored.k_descale /= 8
    wanted, wanted_lse = stored.expected(q, 1.0 if given is None else given)
    descales = {"q_descale": given, "k_descale": stored.k_descale, "v_descale": stored.v_descale}
    out, lse = stored.attend(q, **descales)
    assert out.dtype == ml_dtypes.bfloat16
    assert_close(out, wanted, "bfloat16", factor=3)
    np.testing.assert_allclose(lse, wanted_lse, rtol=1e-4, atol=1e-4)
    for out_dtype in (np.float32, np.float16):
        target = np.empty(out.shape, out_dtype)
        assert stored.attend(q, out=target, **descales)[0] is target
        assert_close(target, wanted, "float16", factor=3)


@pytest.mark.parametrize("word", ["fp8", "fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("scale", [0.05, np.array([0.05]), np.array([0.05, 0.2])], ids=str)
def test_what_is_stored_is_rounded_to_the_dtype(word: str, scale: Any) -> None:
    dtype = E5M2 if word == "fp8_e5m2" else E4M3
    key, value = queries(5, HEADS, SIZE, seed=1), queries(5, HEADS, SIZE, seed=2)
    scale = scale if isinstance(scale, float) else scale.astype(np.float32)
    for as_bytes in (True, False):
        caches = [np.zeros((2, BLOCK, HEADS, SIZE), dtype) for _ in "kv"]
        given = [cache.view(np.uint8) for cache in caches] if as_bytes else caches
        vllm.reshape_and_cache_flash(key, value, *given, np.arange(5) + 7, word, scale, scale)
        for rows, cache in zip((key, value), caches, strict=True):
            divisor = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1, 1), (HEADS, 1))
            expected = (rows / divisor).astype(dtype)
            assert cache.reshape(-1, HEADS, SIZE)[7:12].tobytes() == expected.tobytes()


def test_refusals() -> None:
    stored, q = Stored(), queries(10, 4, SIZE)
    for name, wrong, message in [
        ("k_descale", np.ones((2, HEADS)), r"got shape \[2, 2\], expected one number or \[2\] or"),
        ("v_descale", np.ones(3), r"got shape \[3\], expected one number or \[2\] or \[3, 2\]"),
        ("q_descale", 2.0, "got scales for float32, expected None"),
    ]:
        with pytest.raises(ValueError, match=f"^flash_attn_varlen_func: {name}: {message}"):
            stored.attend(q, **{name: wrong})
    with pytest.raises(ValueError, match="out: got float64"):
        stored.attend(q.astype(E4M3), out=np.empty(q.shape))
    plain = [np.ones((9, BLOCK, HEADS, SIZE), np.float32) for _ in "kv"]
    with pytest.raises(TypeError, match="q: got float8_e4m3fn for keys of float32"):
        stored.attend(q.astype(E4M3), plain)
    key = queries(1, HEADS, SIZE)
    with pytest.raises(ValueError, match="key_cache: got float32, expected float8_e5m2 or uint8"):
        vllm.reshape_and_cache_flash(key, key, *plain, [0], "fp8_e5m2", 1.0, 1.0)
    wrong = [np.zeros((2, BLOCK, HEADS, SIZE), E5M2) for _ in "kv"]
    with pytest.raises(ValueError, match="key_cache: got float8_e5m2, expected float8_e4m3fn or u"):
        vllm.reshape_and_cache_flash(key, key, *wrong, [0], "fp8", 1.0, 1.0)
    with pytest.raises(
        ValueError, match=r"k_scale: got shape \[3\], expected one number or \[2\]$"
    ):
        vllm.reshape_and_cache_flash(key, key, *wrong, [0], "fp8_e5m2", np.ones(3), 1.0)
    assert not any(cache.astype(np.float32).any() for cache in wrong)


def test_tensors_of_pytorch() -> None:
    torch: Any = pytest.importorskip("torch")
    stored = Stored()
    q = (queries(10, 4, SIZE) * 8).astype(E4M3)
    descales = {
        name: torch.from_numpy(getattr(stored, name))
        for name in ("q_descale", "k_descale", "v_descale")
    }
    caches = [torch.from_numpy(cache.view(np.uint8)) for cache in stored.caches]
    tensor = torch.from_numpy(q.view(np.uint8)).view(torch.float8_e4m3fn)
    out, lse = stored.attend(tensor, caches, **descales)
    wanted, wanted_lse = stored.expected(q, stored.q_descale)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert_close(out.float().numpy(), wanted, "bfloat16", factor=3)
    np.testing.assert_allclose(lse.numpy(), wanted_lse, rtol=1e-4, atol=1e-4)
    one = descales["k_descale"][:1, :1].expand(3, HEADS)  # as vLLM makes them
    stored.k_descale = one.numpy()
    out, _ = stored.attend(tensor, caches, **{**descales, "k_descale": one})
    assert_close(out.float().numpy(), stored.expected(q, stored.q_descale)[0], "bfloat16", factor=3)
