"""vLLM's operators of attention on Quire's kernels, for tensors and arrays in CPU memory.

Names, arguments and meanings are those of vLLM's flash_attn_varlen_func, reshape_and_cache_flash,
concat_and_cache_mla and merge_attn_states; tensors may be PyTorch's or NumPy's, and results belong
to the library of q. Log-sum-exps are natural ones. What is not here raises NotImplementedError with
its name.

    >>> import numpy as np, quire.vllm as vllm
    >>> k_cache, v_cache = np.zeros((2, 8, 16, 2, 64), np.float32)
    >>> k, v = np.ones((2, 20, 2, 64), np.float32)
    >>> slots = np.arange(32, 52)  # blocks 2 and 3
    >>> vllm.reshape_and_cache_flash(k, v, k_cache, v_cache, slots, "auto", 1.0, 1.0)
    >>> q = np.ones((1, 8, 64), np.float32)
    >>> vllm.flash_attn_varlen_func(q, k_cache, v_cache, 1, [0, 1], 20, seqused_k=[20],
    ...                             causal=True, block_table=np.array([[2, 3]])).shape
    (1, 8, 64)
"""

from quire.vllm.cache_operators import (
    concat_and_cache_mla,
    merge_attn_states,
    reshape_and_cache_flash,
)
from quire.vllm.varlen import flash_attn_varlen_func

__all__ = [
    "concat_and_cache_mla",
    "flash_attn_varlen_func",
    "merge_attn_states",
    "reshape_and_cache_flash",
]
