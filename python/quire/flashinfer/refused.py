"""What FlashInfer's interface names and a library for CPUs has not: refused by its name."""

from __future__ import annotations

from typing import Any

# Per name: what of it is the same as leaving it out, and what it stands for.
_NOT_HERE: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_cuda_graph": ((False,), "CUDA graphs"),
    "backend": (("auto",), "kernels of a GPU"),
    "jit_args": ((None,), "kernels compiled when called"),
    "jit_kwargs": ((None,), "kernels compiled when called"),
    "use_fp16_qk_reduction": ((False, None), "sums in float16"),
    "window_right": ((0,), "a window to the right"),
    "prefix_len_ptr": ((None,), "multi-item scoring"),
    "token_pos_in_items_ptr": ((None,), "multi-item scoring"),
    "token_pos_in_items_len": ((0,), "multi-item scoring"),
    "max_item_len_ptr": ((None,), "multi-item scoring"),
    "kv_cache_sf": ((None,), "NVFP4 caches"),
    "skip_softmax_threshold_scale_factor": ((None,), "skipping of small scores"),
    "use_fp16_softmax": ((None, False), "softmax in float16"),
    "uses_spcompress": ((None, False), "sparse compression"),
    "o_scale": ((None,), "float8 results"),
    "v_indptr": ((None,), "values laid out unlike keys"),
    "o_indptr": ((None,), "results laid out unlike queries"),
    "block_mask": ((None,), "a block mask per head"),
    "use_profiler": ((False,), "a profiler of kernels"),
    "profiler_buffer": ((None,), "a profiler of kernels"),
    "ckv_scale": ((None,), "float8 latent caches"),
    "ckv_scale_arr": ((None,), "float8 latent caches"),
    "kpe_scale": ((None,), "float8 latent caches"),
    "page_table": ((None,), "a page table beside the plan's"),
    "kv_len": ((None,), "lengths beside the plan's"),
    "args": (((),), "arguments of custom kernels"),
}


def refuse(function: str, **given: Any) -> None:
    """Raises NotImplementedError for the first argument that asks for what is not here."""
    for name, value in given.items():
        same_as_none, what = _NOT_HERE[name]
        if not any(value is plain or _equal(value, plain) for plain in same_as_none):
            got = repr(value) if isinstance(value, str | int | float) else type(value).__name__
            raise NotImplementedError(
                f"{function}: {name}: got {got}, expected {same_as_none[0]!r}: {what} are not here"
            )


def _equal(value: Any, plain: Any) -> bool:
    """Whether a plain value is meant; arrays are no plain values."""
    return isinstance(value, type(plain)) and bool(value == plain)


def uses_alibi(function: str, pos_encoding_mode: str, logits_soft_cap: float | None) -> bool:
    """Whether ALiBi is asked for; raises for ROPE_LLAMA, and ALiBi under a soft cap."""
    if pos_encoding_mode == "ROPE_LLAMA":
        raise NotImplementedError(
            f"{function}: pos_encoding_mode: got 'ROPE_LLAMA', expected 'NONE' or 'ALIBI': rotate "
            "queries and keys before"
        )
    if pos_encoding_mode not in ("NONE", "ALIBI"):
        raise ValueError(
            f"{function}: pos_encoding_mode: got {pos_encoding_mode!r}, expected 'NONE' or 'ALIBI'"
        )
    if pos_encoding_mode == "ALIBI" and logits_soft_cap:
        raise NotImplementedError(
            f"{function}: logits_soft_cap: got {logits_soft_cap} with pos_encoding_mode 'ALIBI', "
            "expected one of the two: FlashInfer scales scores twice under both"
        )
    return pos_encoding_mode == "ALIBI"
