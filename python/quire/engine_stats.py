"""What an engine has done so far, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass

from quire._core import PoolStats, PrefixCacheStats
from quire.counted import counted


@dataclass(frozen=True, repr=False)
class EngineStats:
    """What an engine has done so far, and what it holds.

    Attributes:
        waiting: requests without blocks. running: those with blocks. finished: those that ended.
        prompt_tokens: of requests that have begun. cached_tokens: of these, found in the prefix
            cache.
        computed_tokens: that went through the model, those again that were lost in between.
        generated_tokens: of all answers.
        preemptions: how often a request had to give its blocks up. tokens_to_recompute: what was
            lost by that, at most: the prefix cache may have kept some.
        steps: forward passes. failed_steps: those that raised, and changed nothing.
        schedule_seconds: spent in choosing requests and making room; forward_seconds: in the model;
            choose_seconds: in choosing tokens; settle_seconds: in keeping prefixes and freeing
            blocks.
        max_sequences: that run at the same time; fewer than were asked for where the recurrent
            states of so many would not fit into a quarter of the memory that was available.
        state_bytes: of the recurrent states of each; 0: the model has none.
        num_blocks_reason: why the pool has so many blocks.
        prefix_cache_reason: "on", or why there is none.
        pool: PoolStats. prefix_cache: PrefixCacheStats, with misses by reason.

    Example:
        >>> engine.stats().preemptions
        0
    """

    waiting: int
    running: int
    finished: int
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    generated_tokens: int
    preemptions: int
    tokens_to_recompute: int
    steps: int
    failed_steps: int
    schedule_seconds: float
    forward_seconds: float
    choose_seconds: float
    settle_seconds: float
    max_sequences: int
    state_bytes: int
    num_blocks_reason: str
    prefix_cache_reason: str
    pool: PoolStats
    prefix_cache: PrefixCacheStats

    @property
    def step_seconds(self) -> float:
        """Of all steps, in all their parts."""
        own = self.schedule_seconds + self.choose_seconds + self.settle_seconds
        return own + self.forward_seconds

    def __repr__(self) -> str:
        seconds = self.step_seconds
        share = self.forward_seconds / seconds if seconds > 0 else 0.0
        pool = self.pool
        lines = [
            f"requests   {self.waiting} waiting, {self.running} running, {self.finished} finished",
            f"tokens     {self.prompt_tokens} of prompts, {self.cached_tokens} of them cached; "
            f"{self.generated_tokens} generated, {self.computed_tokens} computed",
            f"steps      {self.steps} in {seconds:.3f} s, {100 * share:.1f} % of it in the model; "
            f"{self.failed_steps} failed",
            f"pressure   {counted(self.preemptions, 'preemption')}, "
            f"{self.tokens_to_recompute} tokens to compute again",
            f"blocks     {pool.used} of {pool.num_blocks} used, {pool.cached} of them only cached; "
            f"{self.num_blocks_reason}",
            f"prefixes   {self.prefix_cache_reason}; {self.prefix_cache}",
        ]
        return "\n".join(lines)
