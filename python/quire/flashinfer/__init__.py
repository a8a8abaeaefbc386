"""FlashInfer's attention interface on Quire's kernels, for tensors and arrays in CPU memory.

Names, arguments and meanings are those of FlashInfer 0.6; tensors may be PyTorch's or NumPy's, and
results belong to the library of q. Log-sum-exps are in base 2. Workspaces are accepted and ignored,
as is use_tensor_cores; what a CPU has not, or Quire not yet (ROPE_LLAMA, NVFP4 caches, multi-item
scoring, CUDA graphs, backends by name), raises NotImplementedError with its name.

    >>> import numpy as np, quire.flashinfer as flashinfer
    >>> q = np.ones((1, 8, 64), np.float32)
    >>> kv_cache = np.ones((4, 2, 16, 2, 64), np.float32)  # pages, keys and values, tokens, ...
    >>> wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(None, "NHD")
    >>> wrapper.plan([0, 2], [3, 1], [5], 8, 2, 64, 16, q_data_type="float32")
    >>> wrapper.run(q, kv_cache).shape
    (1, 8, 64)
"""

from quire.flashinfer.cascade import (
    MultiLevelCascadeAttentionWrapper,
    merge_state,
    merge_state_in_place,
    merge_states,
)
from quire.flashinfer.holistic import BatchAttention, BatchAttentionWithAttentionSinkWrapper
from quire.flashinfer.latent import BatchMLAPagedAttentionWrapper
from quire.flashinfer.packing import packbits, segment_packbits
from quire.flashinfer.page import (
    append_paged_kv_cache,
    append_paged_mla_kv_cache,
    get_batch_indices_positions,
    get_seq_lens,
)
from quire.flashinfer.paged_decode import (
    BatchDecodeWithPagedKVCacheWrapper,
    single_decode_with_kv_cache,
)
from quire.flashinfer.paged_prefill import (
    BatchPrefillWithPagedKVCacheWrapper,
    single_prefill_with_kv_cache,
    single_prefill_with_kv_cache_return_lse,
)
from quire.flashinfer.ragged_prefill import BatchPrefillWithRaggedKVCacheWrapper
from quire.flashinfer.sparse import BlockSparseAttentionWrapper

__all__ = [
    "BatchAttention",
    "BatchAttentionWithAttentionSinkWrapper",
    "BatchDecodeWithPagedKVCacheWrapper",
    "BatchMLAPagedAttentionWrapper",
    "BatchPrefillWithPagedKVCacheWrapper",
    "BatchPrefillWithRaggedKVCacheWrapper",
    "BlockSparseAttentionWrapper",
    "MultiLevelCascadeAttentionWrapper",
    "append_paged_kv_cache",
    "append_paged_mla_kv_cache",
    "get_batch_indices_positions",
    "get_seq_lens",
    "merge_state",
    "merge_state_in_place",
    "merge_states",
    "packbits",
    "segment_packbits",
    "single_decode_with_kv_cache",
    "single_prefill_with_kv_cache",
    "single_prefill_with_kv_cache_return_lse",
]
