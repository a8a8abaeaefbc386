"""Quire: a paged KV cache and fused attention engine.

Keys and values live in fixed-size blocks of one pool; a block table maps a sequence's tokens to
blocks; attention reads the scattered blocks where they lie.

    >>> import numpy as np, quire
    >>> pool = quire.BlockPool(64, num_kv_heads=2, head_dim=64)
    >>> table = quire.BlockTable(pool)
    >>> k = v = np.ones((20, 2, 64), np.float32)
    >>> table.append(k, v)
    >>> quire.attend(np.ones((1, 8, 64), np.float32), [table]).shape
    (1, 8, 64)
"""

from quire._core import (
    BlockPool,
    BlockTable,
    Model,
    OutOfBlocks,
    PoolStats,
    PrefixCache,
    PrefixCacheStats,
    QuireError,
    Step,
    __version__,
    attend,
    build_info,
    last_implementation,
    load_model,
    load_table,
    merge_states,
    pack_tables,
    paged_attention,
    write_kv,
)
from quire.config import show_config
from quire.engine import Engine
from quire.engine_stats import EngineStats
from quire.prefix_event import PrefixEvent
from quire.report import VerifyReport
from quire.request import Request, TokenLogprobs
from quire.table_report import BlockReport, TableReport
from quire.verification import verify

__all__ = [
    "BlockPool",
    "BlockReport",
    "BlockTable",
    "Engine",
    "EngineStats",
    "Model",
    "OutOfBlocks",
    "PoolStats",
    "PrefixCache",
    "PrefixCacheStats",
    "PrefixEvent",
    "QuireError",
    "Request",
    "Step",
    "TableReport",
    "TokenLogprobs",
    "VerifyReport",
    "__version__",
    "attend",
    "build_info",
    "last_implementation",
    "load_model",
    "load_table",
    "merge_states",
    "pack_tables",
    "paged_attention",
    "show_config",
    "verify",
    "write_kv",
]
