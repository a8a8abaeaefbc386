"""Keys whose last numbers are an array of their own: right, and with the bits of keys in one."""

from __future__ import annotations

from typing import Any

import dense_oracle
import ml_dtypes
import numpy as np
import pytest
from conftest import DTYPES
from quantised_cases import IMPLEMENTATIONS, QUANTISED, quantise

import quire

LENGTHS, BLOCK_SIZE = [1, 16, 37, 130], 16
SEQ_LENS = np.array(LENGTHS)


class Latents:
    """Four sequences, scattered over blocks of NaN; of int8, which has none, as large as can be."""

    def __init__(self, dtype: str, layout: str = "NHD", heads: int = 1, dim: int = 576) -> None:
        random = np.random.default_rng(5)
        columns = [-(-length // BLOCK_SIZE) for length in LENGTHS]
        num_blocks = sum(columns) + 3
        ids = iter(random.permutation(num_blocks))
        self.tables = np.full((len(LENGTHS), max(columns)), -77)
        shape = (num_blocks, BLOCK_SIZE, heads, dim)
        poison = -128 if dtype == "int8" else np.nan
        keys = np.full(shape, poison, QUANTISED.get(dtype) or DTYPES[dtype])
        scale = np.full(shape[:3], np.nan, np.float32)
        self.real = []  # float64 [length, heads, dim]
        for table, length in zip(self.tables, LENGTHS, strict=True):
            rows = random.standard_normal((length, heads, dim), np.float32)
            numbers, scales = rows.astype(keys.dtype), np.ones((length, heads), np.float32)
            if dtype in QUANTISED:
                numbers, scales = quantise(rows, dtype)
            self.real.append(numbers.astype(np.float64) * scales[..., None])
            for first in range(0, length, BLOCK_SIZE):
                block = table[first // BLOCK_SIZE] = next(ids)
                some = slice(first, min(first + BLOCK_SIZE, length))
                keys[block, : some.stop - first] = numbers[some]
                scale[block, : some.stop - first] = scales[some]
        self.keys = keys if layout == "NHD" else np.ascontiguousarray(keys.swapaxes(1, 2))
        self.options: dict[str, Any] = {"layout": layout}
        if dtype in QUANTISED:
            self.options |= {"k_scale": scale, "v_scale": scale}

    def apart(self, tail: int) -> tuple[Any, Any]:
        """Two arrays that are memory of their own, the second with rows that do not follow."""
        front, back = self.keys[..., :-tail].copy(), self.keys[..., -tail:]
        wide = np.zeros((*back.shape[:3], tail + 5), back.dtype)
        wide[..., 3:-2] = back
        return front, wide[..., 3:-2]


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("dtype", [*DTYPES, *QUANTISED])
def test_bits_are_those_of_keys_in_one_array(dtype: str, layout: str, instruction_set: str) -> None:
    """Of decode and prefill, of one head for a key and of many, with all options of attention."""
    for heads, group, dim, v_dim, tail in [
        (1, 1, 576, 512, 64),
        (1, 8, 576, 512, 64),
        (1, 16, 576, 512, 64),
        (2, 3, 40, 24, 7),
        (1, 40, 65, 5, 64),
    ]:
        latents = Latents(dtype, layout, heads, dim)
        random = np.random.default_rng(6)
        values = latents.keys[..., :v_dim].copy()
        front, back = latents.apart(tail)
        for q_lens in ([1, 1, 1, 1], [1, 3, 37, 20]):
            cu = np.cumsum([0, *q_lens])
            q = random.standard_normal((cu[-1], heads * group, dim), np.float32)
            for q_dtype in ("float32", "bfloat16"):
                for more in (
                    {},
                    {"sliding_window": 21, "num_sink_tokens": 3, "softcap": 5.0},
                    {"causal": False, "num_threads": 2},
                ):
                    plain = q_lens[1] == 1 and q_dtype == "float32" and not more
                    for implementation in IMPLEMENTATIONS if plain else ("fused",):
                        rest: Any = [latents.tables, SEQ_LENS]
                        options: dict[str, Any] = {
                            "cu_seqlens_q": cu,
                            "return_lse": True,
                            "return_block_mass": True,
                            "implementation": implementation,
                            **latents.options,
                            **more,
                        }
                        given = q.astype(DTYPES[q_dtype])
                        one = quire.paged_attention(given, latents.keys, values, *rest, **options)
                        two = quire.paged_attention(
                            given, front, values, *rest, k_tail=back, **options
                        )
                        assert [x.tobytes() for x in one] == [x.tobytes() for x in two]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [*DTYPES, *QUANTISED])
def test_it_is_right(dtype: str, implementation: str) -> None:
    """Against float64; the values are the first array itself."""
    latents = Latents(dtype)
    front, back = latents.apart(64)
    q_lens = [1, 2, 37, 20]
    cu = np.cumsum([0, *q_lens])
    q = np.random.default_rng(7).standard_normal((cu[-1], 16, 576), np.float32)
    options: dict[str, Any] = {
        "cu_seqlens_q": cu,
        "scale": 0.1,
        "k_tail": back,
        "return_lse": True,
        "implementation": implementation,
        **latents.options,
    }
    out, lse = quire.paged_attention(q, front, front, latents.tables, SEQ_LENS, **options)
    for n, length, begin, end, k in zip(q_lens, LENGTHS, cu, cu[1:], latents.real, strict=False):
        wanted, wanted_lse, _ = dense_oracle.attention(
            q[begin:end],
            k,
            k[..., :512],
            np.arange(length - n, length),
            np.arange(length),
            scale=0.1,
        )
        tight = 2e-5 if dtype == "float32" or implementation == "dense" else 2e-2
        np.testing.assert_allclose(out[begin:end], wanted, atol=tight, rtol=tight)
        np.testing.assert_allclose(lse[begin:end], wanted_lse, atol=tight, rtol=tight)


def test_nothing_past_an_end_is_read() -> None:
    """The last row of the tails is the last of its memory, and no number follows it."""
    latents = Latents("float32")
    front, back = latents.apart(64)
    used = np.zeros(front.shape[:2], bool)
    for table, length in zip(latents.tables, SEQ_LENS, strict=True):
        for i in range(length):
            used[table[i // BLOCK_SIZE], i % BLOCK_SIZE] = True
    assert np.isnan(back[~used]).all()
    assert not np.isnan(back[used]).any()
    q = np.ones((4, 16, 576), np.float32)
    out = quire.paged_attention(q, front, front, latents.tables, SEQ_LENS, k_tail=back)
    assert np.isfinite(out).all()


def test_it_refuses() -> None:
    latents = Latents("float32")
    front, back = latents.apart(64)
    q, out = np.ones((4, 16, 576), np.float32), np.full((4, 16, 512), 7, np.float32)
    scale = np.zeros((1, 1, 1), np.float16)

    def attend(k: Any = front, k_tail: Any = back, **options: Any) -> None:
        given = {"out": out, "k_tail": k_tail, **options}
        quire.paged_attention(q, k, front, latents.tables, SEQ_LENS, **given)

    for error, message, given in [
        (TypeError, "k_tail: got bfloat16, expected float32", {"k_tail": bfloat16(back)}),
        (TypeError, "k_tail: got int, expected", {"k_tail": 3}),
        (ValueError, r"k_tail: got shape \[17, 16, 1\]", {"k_tail": back[..., 0]}),
        (ValueError, r"k_tail: got shape \[16, 16, 1, 64\]", {"k_tail": back[1:]}),
        (ValueError, r"k_tail: got shape \[17, 1, 16, 64\]", {"k_tail": back.swapaxes(1, 2)}),
        (ValueError, r"k_cache: got shape \[17, 16, 1, 511\]", {"k": front[..., 1:]}),
        (ValueError, "k_tail: got a last axis of stride 32 bytes", {"k_tail": front[..., ::8]}),
        (ValueError, r"k_cache: got shape \[17, 16, 1, 576\]", {"k": latents.keys}),
        (ValueError, "k_tail: got a last axis of 576, expected less", {"k_tail": latents.keys}),
    ]:
        with pytest.raises(error, match=f"paged_attention: {message}"):
            attend(**given)
    whole = np.zeros((17, 16, 1, 576), np.uint8)
    with pytest.raises(TypeError, match="k_tail: got one beside a k_cache of int4, expected None"):
        quire.paged_attention(
            np.ones((4, 16, 1216), np.float32),
            whole,
            whole,
            latents.tables,
            SEQ_LENS,
            k_tail=np.zeros((17, 16, 1, 32), np.uint8),
            k_scale=scale,
            v_scale=scale,
        )
    eight = Latents("int8")
    k, tail = eight.apart(64)
    opened = np.zeros((2, 16, 1, 512), np.float32)
    with pytest.raises(ValueError, match="k_tail: got one beside open blocks, expected None"):
        quire.paged_attention(
            q,
            k,
            k,
            eight.tables,
            SEQ_LENS,
            k_tail=tail,
            k_open=opened,
            v_open=opened,
            **eight.options,
        )
    memory = np.zeros(front.size + out.size, np.float32)
    tail = memory[: back.size].reshape(back.shape)
    with pytest.raises(ValueError, match="out: got memory that overlaps k_tail"):
        quire.paged_attention(
            q,
            front,
            front,
            latents.tables,
            SEQ_LENS,
            k_tail=tail,
            out=memory[: out.size].reshape(out.shape),
        )
    assert (out == 7).all()


def bfloat16(array: Any) -> Any:
    return array.astype(ml_dtypes.bfloat16)
