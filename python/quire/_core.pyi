"""Types of the C++ module; help() of each object shows its documentation."""

import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import (
    Any,
    Literal,
    Protocol,
    SupportsFloat,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    TypeVar,
    overload,
)

import numpy as np
import numpy.typing as npt
from typing_extensions import Unpack

from quire.memory_report import MemoryReport
from quire.prefix_event import PrefixEvent
from quire.table_report import TableReport
from quire.text import Tokenizer

# As much of DLPack as the types of JAX's arrays have.
class _SupportsDLPack(Protocol):
    def __dlpack__(self) -> Any: ...

class _SupportsArrayInterface(Protocol):
    @property
    def __array_interface__(self) -> dict[str, Any]: ...

# float32, float16 or bfloat16, caches int8, float8_e4m3fn, float8_e5m2 or uint8 (int4) too;
# int32 or int64
_Floats: TypeAlias = npt.NDArray[Any] | _SupportsDLPack | _SupportsArrayInterface
_Ints: TypeAlias = npt.NDArray[np.signedinteger[Any]] | _SupportsDLPack | _SupportsArrayInterface
_Scale: TypeAlias = _Floats | SupportsFloat
_Layout: TypeAlias = Literal["NHD", "HND"]
_Implementation: TypeAlias = Literal["auto", "fused", "gather", "dense"]
_WeightFormat: TypeAlias = Literal["float32", "float16", "bfloat16", "int8", "int4"]
_Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_Event: TypeAlias = Literal[
    "allocated", "shared", "copied", "evicted", "offloaded", "restored", "freed"
]
_OnEvent: TypeAlias = Callable[[_Event, tuple[int, ...]], object]
_OnCacheEvent: TypeAlias = Callable[[PrefixEvent], object]
_Array: TypeAlias = npt.NDArray[Any]
_OutAndLse: TypeAlias = tuple[_Array, npt.NDArray[np.float32]]

# The first array of a call, whose library the results belong to: NumPy, or the caller's own, as
# PyTorch's or JAX's. Of a type that shows its memory by DLPack, but whose library makes no arrays
# of it, results are NumPy's in truth.
_NumPy: TypeAlias = _Array | _SupportsArrayInterface
_Tensor = TypeVar("_Tensor", bound=_SupportsDLPack)

_Bool: TypeAlias = bool | np.bool_
_Bools: TypeAlias = npt.NDArray[np.bool_] | _SupportsDLPack | _SupportsArrayInterface
# a number, or one for each row
_PerRow: TypeAlias = SupportsFloat | SupportsIndex | Iterable[Any]
_Window: TypeAlias = SupportsIndex | tuple[SupportsIndex, SupportsIndex]

# What paged_attention and attend have alike; help() of either shows each with its default.
class _Options(TypedDict, total=False):
    cu_seqlens_q: _Ints | None
    causal: _Bool | _Bools
    tree_mask: _Bools | None
    scale: SupportsFloat | None
    sliding_window: _Window | None
    num_sink_tokens: SupportsIndex
    softcap: SupportsFloat | None
    alibi_slopes: _Floats | None
    sinks: _Floats | None
    k_scale: _Scale | None
    v_scale: _Scale | None
    cache_dtype: npt.DTypeLike | None
    out: _Floats | None
    implementation: _Implementation
    num_threads: SupportsIndex | None

__version__: str

class QuireError(Exception): ...
class OutOfBlocks(QuireError, MemoryError): ...

class PoolStats:
    @property
    def num_blocks(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def shared(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def pinned(self) -> int: ...
    @property
    def reserved_tokens(self) -> int: ...
    @property
    def filled_tokens(self) -> int: ...
    @property
    def wasted_tokens(self) -> int: ...
    @property
    def peak_used(self) -> int: ...
    @property
    def copies_on_write(self) -> int: ...
    @property
    def resident_bytes(self) -> int: ...
    @property
    def offloaded(self) -> int: ...
    @property
    def open_blocks(self) -> int: ...
    @property
    def kept_open(self) -> int: ...
    @property
    def bytes_per_token(self) -> float: ...

class BlockPool:
    def __init__(
        self,
        num_blocks: SupportsIndex,
        *,
        block_size: SupportsIndex = 16,
        num_kv_heads: SupportsIndex,
        head_dim: SupportsIndex,
        v_head_dim: SupportsIndex | None = None,
        num_layers: SupportsIndex = 1,
        dtype: npt.DTypeLike = "bfloat16",
        backing_file: _Path | None = None,
        resident_bytes: SupportsIndex | None = None,
        open_blocks: SupportsIndex | None = None,
        shared: _Bool = False,
    ) -> None: ...
    @property
    def open_blocks(self) -> int: ...
    @property
    def shared(self) -> bool: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def v_head_dim(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def num_free(self) -> int: ...
    @property
    def num_used(self) -> int: ...
    @property
    def ref_counts(self) -> npt.NDArray[np.int32]: ...
    @property
    def resident_blocks(self) -> npt.NDArray[np.bool_]: ...
    @property
    def cached_blocks(self) -> npt.NDArray[np.bool_]: ...
    def k_cache(self, layer: SupportsIndex = 0) -> _Array: ...
    def v_cache(self, layer: SupportsIndex = 0) -> _Array: ...
    def k_scale(self, layer: SupportsIndex = 0) -> npt.NDArray[np.floating[Any]]: ...
    def v_scale(self, layer: SupportsIndex = 0) -> npt.NDArray[np.floating[Any]]: ...
    def k_open(self, layer: SupportsIndex = 0) -> _Array: ...
    def v_open(self, layer: SupportsIndex = 0) -> _Array: ...
    def allocate(self, n: SupportsIndex = 1) -> npt.NDArray[np.int32]: ...
    def retain(self, ids: _Ints | SupportsIndex) -> None: ...
    def release(self, ids: _Ints | SupportsIndex) -> None: ...
    def stats(self) -> PoolStats: ...
    def on_event(self, callback: _OnEvent | None) -> _OnEvent | None: ...
    def explain(self, table: BlockTable) -> TableReport: ...
    def check(self) -> None: ...
    def _repr_html_(self) -> str: ...

class BlockTable:
    def __init__(self, pool: BlockPool) -> None: ...
    @property
    def pool(self) -> BlockPool: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def blocks(self) -> npt.NDArray[np.int32]: ...
    @property
    def positions(self) -> npt.NDArray[np.int64]: ...
    @property
    def next_position(self) -> int: ...
    def __len__(self) -> int: ...
    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> _Array: ...
    def extend(self, n: SupportsIndex) -> npt.NDArray[np.int64]: ...
    def append(self, k: _Floats, v: _Floats | None = None) -> None: ...
    def fork(self) -> BlockTable: ...
    def truncate(self, num_tokens: SupportsIndex) -> None: ...
    def drop_before(
        self, position: SupportsIndex, *, num_sink_tokens: SupportsIndex = 0
    ) -> None: ...
    def keep(self, positions: _Ints) -> None: ...
    def gather(self, layer: SupportsIndex = 0) -> tuple[_Array, _Array]: ...
    def save(self, path: _Path) -> None: ...
    def offload(self) -> int: ...
    def restore(self) -> int: ...
    def free(self) -> None: ...
    def __enter__(self) -> BlockTable: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def _repr_html_(self) -> str: ...

class Step:
    def __init__(
        self, tables: Iterable[BlockTable], num_tokens: SupportsIndex | Iterable[SupportsIndex]
    ) -> None: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def positions(self) -> npt.NDArray[np.int64]: ...
    @property
    def cu_seqlens_q(self) -> npt.NDArray[np.int32]: ...
    @property
    def slot_mapping(self) -> npt.NDArray[np.int64]: ...
    def write(self, k: _Floats, v: _Floats | None = None, *, layer: SupportsIndex = 0) -> None: ...
    def take_back(self) -> None: ...
    @overload
    def attend(
        self,
        q: _NumPy,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: Literal[False] = False,
        return_block_mass: Literal[False] = False,
        **options: Unpack[_Options],
    ) -> _Array: ...
    @overload
    def attend(
        self,
        q: _NumPy,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: Literal[True],
        return_block_mass: Literal[False] = False,
        **options: Unpack[_Options],
    ) -> _OutAndLse: ...
    @overload
    def attend(
        self,
        q: _NumPy,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: _Bool,
        return_block_mass: Literal[False] = False,
        **options: Unpack[_Options],
    ) -> _Array | _OutAndLse: ...
    @overload
    def attend(
        self,
        q: _NumPy,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: _Bool = False,
        return_block_mass: Literal[True],
        **options: Unpack[_Options],
    ) -> tuple[_Array, ...]: ...
    @overload
    def attend(
        self,
        q: _NumPy,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: _Bool = False,
        return_block_mass: _Bool,
        **options: Unpack[_Options],
    ) -> _Array | tuple[_Array, ...]: ...
    @overload
    def attend(
        self,
        q: _Tensor,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: Literal[False] = False,
        return_block_mass: Literal[False] = False,
        **options: Unpack[_Options],
    ) -> _Tensor: ...
    @overload
    def attend(
        self,
        q: _Tensor,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: Literal[True],
        return_block_mass: Literal[False] = False,
        **options: Unpack[_Options],
    ) -> tuple[_Tensor, _Tensor]: ...
    @overload
    def attend(
        self,
        q: _Tensor,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: _Bool,
        return_block_mass: Literal[False] = False,
        **options: Unpack[_Options],
    ) -> _Tensor | tuple[_Tensor, _Tensor]: ...
    @overload
    def attend(
        self,
        q: _Tensor,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: _Bool = False,
        return_block_mass: Literal[True],
        **options: Unpack[_Options],
    ) -> tuple[_Tensor, ...]: ...
    @overload
    def attend(
        self,
        q: _Tensor,
        k: _Floats | None,
        v: _Floats | None = None,
        *,
        layer: SupportsIndex = 0,
        key_positions: None = None,
        layout: Literal["NHD"] = "NHD",
        return_lse: _Bool = False,
        return_block_mass: _Bool,
        **options: Unpack[_Options],
    ) -> _Tensor | tuple[_Tensor, ...]: ...
    def __enter__(self) -> Step: ...
    def __exit__(
        self,
        type: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

class PrefixCacheStats:
    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def tokens_matched(self) -> int: ...
    @property
    def tokens_asked(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def misses_by_reason(self) -> dict[str, int]: ...

class PrefixCache:
    def __init__(self, pool: BlockPool, *, max_blocks: SupportsIndex | None = None) -> None: ...
    @property
    def pool(self) -> BlockPool: ...
    @property
    def max_blocks(self) -> int | None: ...
    def __len__(self) -> int: ...
    def match(
        self,
        token_ids: _Ints | Iterable[SupportsIndex],
        *,
        namespace: str = "",
        sliding_window: SupportsIndex | None = None,
        num_sink_tokens: SupportsIndex = 0,
    ) -> BlockTable: ...
    def peek(
        self,
        token_ids: _Ints | Iterable[SupportsIndex],
        *,
        namespace: str = "",
        sliding_window: SupportsIndex | None = None,
        num_sink_tokens: SupportsIndex = 0,
    ) -> int: ...
    def insert(
        self,
        token_ids: _Ints | Iterable[SupportsIndex],
        table: BlockTable,
        *,
        namespace: str = "",
        priority: SupportsIndex = 0,
    ) -> None: ...
    def pin(self, token_ids: _Ints | Iterable[SupportsIndex], *, namespace: str = "") -> int: ...
    def unpin(self, token_ids: _Ints | Iterable[SupportsIndex], *, namespace: str = "") -> None: ...
    def evict(self, num_blocks: SupportsIndex) -> int: ...
    def clear(self) -> None: ...
    def save(self, dir: _Path) -> None: ...
    def load(self, dir: _Path) -> int: ...
    def stats(self) -> PrefixCacheStats: ...
    def on_event(self, callback: _OnCacheEvent | None) -> _OnCacheEvent | None: ...
    def _repr_html_(self) -> str: ...

def load_table(pool: BlockPool, path: _Path) -> BlockTable: ...
def gguf_metadata(path: _Path) -> dict[str, Any]: ...
def pack_tables(
    tables: Iterable[BlockTable], *, pad: SupportsIndex = -1
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...
def write_kv(
    k: _Floats,
    v: _Floats | None,
    k_cache: _Floats,
    v_cache: _Floats | None,
    slot_mapping: _Ints,
    *,
    k_scale: _Scale | None = None,
    v_scale: _Scale | None = None,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    cache_dtype: npt.DTypeLike | None = None,
    layout: _Layout = "NHD",
) -> None: ...
@overload
def merge_states(
    outs: _NumPy, lses: _Floats, *, out: _Floats | None = None, lse: _Floats | None = None
) -> _OutAndLse: ...
@overload
def merge_states(
    outs: _Tensor, lses: _Floats, *, out: _Floats | None = None, lse: _Floats | None = None
) -> tuple[_Tensor, _Tensor]: ...

class Weight:
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def format(self) -> _WeightFormat: ...
    @property
    def group_size(self) -> int | None: ...
    @property
    def nbytes(self) -> int: ...
    def unpack(self) -> npt.NDArray[np.float32]: ...

class Model:
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def path(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def stop_token_ids(self) -> list[int]: ...
    def logits(
        self,
        token_ids: Sequence[SupportsIndex] | _Ints,
        *,
        max_batch_tokens: SupportsIndex = 512,
        num_threads: SupportsIndex | None = None,
    ) -> npt.NDArray[np.float32]: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    def memory_report(self) -> MemoryReport: ...

def load_model(
    path: _Path,
    *,
    weights: _WeightFormat | None = None,
    num_threads: SupportsIndex | None = None,
) -> Model: ...

class TokenRequest:
    @property
    def id(self) -> int: ...
    @property
    def prompt_ids(self) -> list[int]: ...
    def token_ids(self, first: SupportsIndex = 0) -> list[int]: ...
    @property
    def num_generated(self) -> int: ...
    @property
    def logprobs(self) -> list[tuple[float, list[tuple[int, float]]]]: ...
    @property
    def num_cached_tokens(self) -> int: ...
    @property
    def finish_reason(self) -> Literal["stop", "length", "cancelled"] | None: ...
    def cancel(self) -> None: ...
    def stop(self, num_tokens: SupportsIndex | None = None) -> None: ...

class TokenEngine:
    def __init__(
        self,
        model: Model,
        *,
        num_blocks: SupportsIndex | None = None,
        dtype: Any = "bfloat16",
        block_size: SupportsIndex = 16,
        prefix_cache: _Bool = True,
        max_batch_tokens: SupportsIndex = 512,
        max_sequences: SupportsIndex = 256,
        draft: str = "none",
        num_threads: SupportsIndex | None = None,
    ) -> None: ...
    def submit(
        self,
        prompt_ids: Iterable[SupportsIndex] | _Ints,
        *,
        max_tokens: SupportsIndex = 128,
        temperature: SupportsFloat = 0.0,
        top_k: SupportsIndex = 0,
        top_p: SupportsFloat = 1.0,
        min_p: SupportsFloat = 0.0,
        repetition_penalty: SupportsFloat = 1.0,
        presence_penalty: SupportsFloat = 0.0,
        frequency_penalty: SupportsFloat = 0.0,
        stop_token_ids: Iterable[SupportsIndex] | _Ints = (),
        ignore_eos: _Bool = False,
        seed: SupportsIndex = 0,
        logprobs: SupportsIndex = 0,
        namespace: str = "",
    ) -> TokenRequest: ...
    def step(self) -> list[TokenRequest]: ...
    def stats(self) -> dict[str, Any]: ...
    def check(self) -> None: ...
    @property
    def has_unfinished(self) -> bool: ...

def pack_weight(
    w: _Floats,
    *,
    format: _WeightFormat = "bfloat16",
    group_size: SupportsIndex | None = None,
    num_threads: SupportsIndex | None = None,
) -> Weight: ...
@overload
def linear(
    x: _NumPy,
    weight: Weight | _Floats,
    *,
    bias: _Floats | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def linear(
    x: _Tensor,
    weight: Weight | _Floats,
    *,
    bias: _Floats | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Tensor: ...
@overload
def rms_norm(
    x: _NumPy,
    weight: _Floats,
    *,
    eps: SupportsFloat = 1e-06,
    residual: None = None,
    weight_offset: SupportsFloat = 0.0,
    gate: _Floats | None = None,
    out: _Floats | None = None,
    residual_out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def rms_norm(
    x: _Tensor,
    weight: _Floats,
    *,
    eps: SupportsFloat = 1e-06,
    residual: None = None,
    weight_offset: SupportsFloat = 0.0,
    gate: _Floats | None = None,
    out: _Floats | None = None,
    residual_out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Tensor: ...
@overload
def rms_norm(
    x: _NumPy,
    weight: _Floats,
    *,
    eps: SupportsFloat = 1e-06,
    residual: _Floats,
    weight_offset: SupportsFloat = 0.0,
    gate: _Floats | None = None,
    out: _Floats | None = None,
    residual_out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Array, _Array]: ...
@overload
def rms_norm(
    x: _Tensor,
    weight: _Floats,
    *,
    eps: SupportsFloat = 1e-06,
    residual: _Floats,
    weight_offset: SupportsFloat = 0.0,
    gate: _Floats | None = None,
    out: _Floats | None = None,
    residual_out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Tensor, _Tensor]: ...
@overload
def swiglu(
    gate: _NumPy,
    up: _Floats,
    *,
    activation: Literal["silu", "gelu", "gelu_tanh", "sigmoid"] = "silu",
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def swiglu(
    gate: _Tensor,
    up: _Floats,
    *,
    activation: Literal["silu", "gelu", "gelu_tanh", "sigmoid"] = "silu",
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Tensor: ...
@overload
def rope(
    x: _NumPy,
    positions: _Ints,
    *,
    theta: SupportsFloat = 10000.0,
    rotary_dim: SupportsIndex | None = None,
    interleaved: _Bool = False,
    inv_freq: _Floats | None = None,
    attention_factor: SupportsFloat = 1.0,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def rope(
    x: _Tensor,
    positions: _Ints,
    *,
    theta: SupportsFloat = 10000.0,
    rotary_dim: SupportsIndex | None = None,
    interleaved: _Bool = False,
    inv_freq: _Floats | None = None,
    attention_factor: SupportsFloat = 1.0,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Tensor: ...
def rope_frequencies(
    rotary_dim: SupportsIndex,
    *,
    rope_theta: SupportsFloat = 10000.0,
    rope_type: Literal["default", "linear", "dynamic", "yarn", "llama3"] = "default",
    factor: SupportsFloat = 1.0,
    original_max_position_embeddings: SupportsIndex | None = None,
    seq_len: SupportsIndex | None = None,
    low_freq_factor: SupportsFloat = 1.0,
    high_freq_factor: SupportsFloat = 4.0,
    beta_fast: SupportsFloat = 32.0,
    beta_slow: SupportsFloat = 1.0,
    truncate: _Bool = True,
    mscale: SupportsFloat | None = None,
    mscale_all_dim: SupportsFloat | None = None,
    attention_factor: SupportsFloat | None = None,
) -> tuple[npt.NDArray[np.float32], float]: ...
@overload
def sample(
    logits: _NumPy,
    *,
    seed: _PerRow,
    position: _PerRow,
    temperature: _PerRow = 1.0,
    top_k: _PerRow = 0,
    top_p: _PerRow = 1.0,
    min_p: _PerRow = 0.0,
    repetition_penalty: _PerRow = 1.0,
    presence_penalty: _PerRow = 0.0,
    frequency_penalty: _PerRow = 0.0,
    prompt_ids: _Ints | None = None,
    output_ids: _Ints | None = None,
    bias: _Floats | None = None,
    mask: _Ints | None = None,
    out: _Ints | None = None,
    num_threads: SupportsIndex | None = None,
) -> npt.NDArray[np.int64]: ...
@overload
def sample(
    logits: _Tensor,
    *,
    seed: _PerRow,
    position: _PerRow,
    temperature: _PerRow = 1.0,
    top_k: _PerRow = 0,
    top_p: _PerRow = 1.0,
    min_p: _PerRow = 0.0,
    repetition_penalty: _PerRow = 1.0,
    presence_penalty: _PerRow = 0.0,
    frequency_penalty: _PerRow = 0.0,
    prompt_ids: _Ints | None = None,
    output_ids: _Ints | None = None,
    bias: _Floats | None = None,
    mask: _Ints | None = None,
    out: _Ints | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Tensor: ...
@overload
def route(
    logits: _NumPy,
    top_k: SupportsIndex,
    *,
    scoring: Literal["softmax", "sigmoid"] = "softmax",
    renormalise: _Bool = True,
    bias: _Floats | None = None,
    out: tuple[_Floats, _Ints] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]: ...
@overload
def route(
    logits: _Tensor,
    top_k: SupportsIndex,
    *,
    scoring: Literal["softmax", "sigmoid"] = "softmax",
    renormalise: _Bool = True,
    bias: _Floats | None = None,
    out: tuple[_Floats, _Ints] | None = None,
    num_threads: SupportsIndex | None = None,
) -> tuple[_Tensor, _Tensor]: ...
@overload
def causal_conv1d(
    x: _NumPy,
    weight: _Floats,
    *,
    state: _Floats,
    bias: _Floats | None = None,
    cu_seqlens: _Ints | None = None,
    activation: Literal["silu"] | None = "silu",
    state_indices: _Ints | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def causal_conv1d(
    x: _Tensor,
    weight: _Floats,
    *,
    state: _Floats,
    bias: _Floats | None = None,
    cu_seqlens: _Ints | None = None,
    activation: Literal["silu"] | None = "silu",
    state_indices: _Ints | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Tensor: ...
@overload
def gated_delta_rule(
    q: _NumPy,
    k: _Floats,
    v: _Floats,
    g: _Floats,
    beta: _Floats,
    *,
    state: _Floats,
    cu_seqlens: _Ints | None = None,
    scale: SupportsFloat | None = None,
    state_indices: _Ints | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Array: ...
@overload
def gated_delta_rule(
    q: _Tensor,
    k: _Floats,
    v: _Floats,
    g: _Floats,
    beta: _Floats,
    *,
    state: _Floats,
    cu_seqlens: _Ints | None = None,
    scale: SupportsFloat | None = None,
    state_indices: _Ints | None = None,
    out: _Floats | None = None,
    num_threads: SupportsIndex | None = None,
) -> _Tensor: ...
def last_implementation() -> Literal["fused", "gather", "dense"] | None: ...
@overload
def paged_attention(
    q: _NumPy,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: Literal[False] = False,
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _Array: ...
@overload
def paged_attention(
    q: _NumPy,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: Literal[True],
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _OutAndLse: ...
@overload
def paged_attention(
    q: _NumPy,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: _Bool,
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _Array | _OutAndLse: ...
@overload
def paged_attention(
    q: _NumPy,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: _Bool = False,
    return_block_mass: Literal[True],
    **options: Unpack[_Options],
) -> tuple[_Array, ...]: ...
@overload
def paged_attention(
    q: _NumPy,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: _Bool = False,
    return_block_mass: _Bool,
    **options: Unpack[_Options],
) -> _Array | tuple[_Array, ...]: ...
@overload
def paged_attention(
    q: _Tensor,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: Literal[False] = False,
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _Tensor: ...
@overload
def paged_attention(
    q: _Tensor,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: Literal[True],
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> tuple[_Tensor, _Tensor]: ...
@overload
def paged_attention(
    q: _Tensor,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: _Bool,
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _Tensor | tuple[_Tensor, _Tensor]: ...
@overload
def paged_attention(
    q: _Tensor,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: _Bool = False,
    return_block_mass: Literal[True],
    **options: Unpack[_Options],
) -> tuple[_Tensor, ...]: ...
@overload
def paged_attention(
    q: _Tensor,
    k_cache: _Floats,
    v_cache: _Floats,
    block_tables: _Ints,
    seq_lens: _Ints,
    *,
    k_open: _Floats | None = None,
    v_open: _Floats | None = None,
    k_tail: _Floats | None = None,
    key_positions: _Ints | None = None,
    layout: _Layout = "NHD",
    return_lse: _Bool = False,
    return_block_mass: _Bool,
    **options: Unpack[_Options],
) -> _Tensor | tuple[_Tensor, ...]: ...
@overload
def attend(
    q: _NumPy,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: Literal[False] = False,
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _Array: ...
@overload
def attend(
    q: _NumPy,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: Literal[True],
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _OutAndLse: ...
@overload
def attend(
    q: _NumPy,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: _Bool,
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _Array | _OutAndLse: ...
@overload
def attend(
    q: _NumPy,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: _Bool = False,
    return_block_mass: Literal[True],
    **options: Unpack[_Options],
) -> tuple[_Array, ...]: ...
@overload
def attend(
    q: _NumPy,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: _Bool = False,
    return_block_mass: _Bool,
    **options: Unpack[_Options],
) -> _Array | tuple[_Array, ...]: ...
@overload
def attend(
    q: _Tensor,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: Literal[False] = False,
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _Tensor: ...
@overload
def attend(
    q: _Tensor,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: Literal[True],
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> tuple[_Tensor, _Tensor]: ...
@overload
def attend(
    q: _Tensor,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: _Bool,
    return_block_mass: Literal[False] = False,
    **options: Unpack[_Options],
) -> _Tensor | tuple[_Tensor, _Tensor]: ...
@overload
def attend(
    q: _Tensor,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: _Bool = False,
    return_block_mass: Literal[True],
    **options: Unpack[_Options],
) -> tuple[_Tensor, ...]: ...
@overload
def attend(
    q: _Tensor,
    tables: Iterable[BlockTable],
    *,
    layer: SupportsIndex = 0,
    key_positions: None = None,
    layout: Literal["NHD"] = "NHD",
    return_lse: _Bool = False,
    return_block_mass: _Bool,
    **options: Unpack[_Options],
) -> _Tensor | tuple[_Tensor, ...]: ...
def build_info() -> dict[str, Any]: ...
def dlpack_of(array: _Floats) -> _SupportsDLPack: ...
def read_environment_again() -> None: ...
def read_chunks(
    buffer: npt.NDArray[np.uint8],
    chunk_bytes: int,
    order: npt.NDArray[np.int64],
    num_threads: int,
) -> float: ...
def arithmetic_peak(kind: Literal["float32", "bfloat16"], num_threads: int) -> float: ...
