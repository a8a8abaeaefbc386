"""vLLM's KVCacheManager protocol on Quire: which blocks a request finds, gets, and leaves behind.

A scheduler asks get_computed_blocks what of a prompt is known already, allocate_slots for room for
the tokens of the next step, and frees what has finished. Quire's tables and its prefix cache keep
the books: blocks are shared by reference, full ones stay matchable after their request, and leave
when somebody needs them.

    python examples/kv_cache_manager.py
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import quire


@dataclass
class Request:
    """A request as a scheduler has it; its tokens grow while it runs."""

    request_id: str
    all_token_ids: list[int]
    num_computed_tokens: int = 0
    cache_salt: str = ""  # requests with different ones share nothing

    @property
    def num_tokens(self) -> int:
        """Those of the prompt and those generated."""
        return len(self.all_token_ids)


@dataclass(frozen=True)
class KVCacheBlocks:
    """Blocks of one group of layers, which is all that this manager has."""

    blocks: tuple[list[int], ...]

    def get_block_ids(self) -> tuple[list[int], ...]:
        """A list of block ids for each group."""
        return self.blocks


class KVCacheManager:
    """Gives blocks to requests, and lets those that begin alike share them."""

    def __init__(self, pool: quire.BlockPool, *, enable_caching: bool = True) -> None:
        self.pool = pool
        self.cache = quire.PrefixCache(pool) if enable_caching else None
        self.tables: dict[str, quire.BlockTable] = {}

    @property
    def usage(self) -> float:
        """The part of the blocks that requests hold."""
        stats = self.pool.stats()
        return 1 - (stats.free + stats.cached) / stats.num_blocks

    def get_computed_blocks(self, request: Request) -> tuple[KVCacheBlocks, int, int]:
        """Blocks that are known already, and how many tokens they have: whole blocks, and never the
        last token, whose logits are wanted. The third is of groups that are cached with gaps.

        The request holds them from now on; vLLM's takes them only in allocate_slots.
        """
        self.free(request)
        if self.cache is None:
            return KVCacheBlocks(([],)), 0, 0
        try:
            table = self.cache.match(request.all_token_ids, namespace=request.cache_salt)
        except quire.OutOfBlocks:  # no room to copy a block that only begins alike
            return KVCacheBlocks(([],)), 0, 0
        table.truncate(len(table) // self.pool.block_size * self.pool.block_size)
        self.tables[request.request_id] = table
        return KVCacheBlocks((table.blocks.tolist(),)), len(table), 0

    def allocate_slots(
        self,
        request: Request,
        num_new_tokens: int,
        num_new_computed_tokens: int = 0,
        new_computed_blocks: KVCacheBlocks | None = None,
        num_lookahead_tokens: int = 0,
    ) -> KVCacheBlocks | None:
        """Room for the tokens to be computed, or None: then nothing has changed.

        Full blocks become matchable at once, as in vLLM, before they are written: whoever matches
        them reads them in a later step, or behind the writes of this one.
        """
        if num_new_tokens < 1:
            raise ValueError(f"allocate_slots: num_new_tokens: got {num_new_tokens}, expected 1")
        computed = request.num_computed_tokens + num_new_computed_tokens
        table = self.tables.get(request.request_id)
        table = quire.BlockTable(self.pool) if table is None else table
        before = table.blocks.tolist()
        need = computed + num_new_tokens + num_lookahead_tokens - len(table)
        try:
            table.extend(max(need, 0))
        except quire.OutOfBlocks:
            return None
        self.tables[request.request_id] = table
        if self.cache is not None:
            finished = min(computed + num_new_tokens, request.num_tokens)
            whole = finished // self.pool.block_size * self.pool.block_size
            token_ids = request.all_token_ids[:whole]
            self.cache.insert(token_ids, table, namespace=request.cache_salt)
        return KVCacheBlocks(([block for block in table.blocks.tolist() if block not in before],))

    def get_block_ids(self, request_id: str) -> tuple[list[int], ...]:
        """All blocks of a request."""
        return (self.tables[request_id].blocks.tolist(),)

    def get_num_common_prefix_blocks(self, running_request_id: str) -> list[int]:
        """Blocks that all requests begin with. quire.attend finds them by itself."""
        own = self.tables[running_request_id].blocks
        for table in self.tables.values():
            own = own[: len(table.blocks)]
            differ = np.flatnonzero(own != table.blocks[: len(own)])
            own = own[: differ[0]] if len(differ) else own
        return [len(own)]

    def reset_prefix_cache(self) -> bool:
        """Forgets what is cached, unless a request holds blocks."""
        if self.tables or self.cache is None:
            return False
        self.cache.clear()
        return True

    def free(self, request: Request) -> None:
        """Gives the request's blocks back; full ones stay matchable."""
        table = self.tables.pop(request.request_id, None)
        if table is not None:
            table.free()


def main() -> None:
    """Two prompts of 55 and 53 tokens that begin with the same 48, in blocks of 16."""
    pool = quire.BlockPool(10, num_kv_heads=1, head_dim=8, dtype="float32")
    manager = KVCacheManager(pool)
    common = list(range(48))
    first = Request("0", common + [100] * 7)
    second = Request("1", common + [200] * 5)
    for request in (first, second):
        found, known, _ = manager.get_computed_blocks(request)
        new = manager.allocate_slots(request, request.num_tokens - known, known, found)
        assert new is not None
        request.num_computed_tokens = request.num_tokens
        print(
            f"{request.num_tokens} tokens: {known} known, {len(new.get_block_ids()[0])} new blocks"
        )
    shared = manager.get_num_common_prefix_blocks("0")[0]
    print(f"{shared} blocks are shared, {pool.num_used} of {pool.num_blocks} used")

    huge = Request("2", list(range(1000, 1160)))
    print("room for 160 tokens:", manager.allocate_slots(huge, 160) is not None)
    manager.free(first)
    manager.free(second)
    print("room for 160 tokens:", manager.allocate_slots(huge, 160) is not None)
    manager.free(huge)
    found, known, _ = manager.get_computed_blocks(first)
    print(f"{known} tokens of the first prompt are left in the cache")
    manager.free(first)
    assert pool.num_free == pool.num_blocks - pool.stats().cached
    pool.check()


if __name__ == "__main__":
    main()
