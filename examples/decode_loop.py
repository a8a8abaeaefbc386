"""Continuous batching: requests wait for room, join the batch, grow a token a step, and leave.

The model is a stand-in that makes queries, keys and values from a token; the rest is what an
inference engine does with Quire.

    python examples/decode_loop.py
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import quire

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, VOCABULARY = 8, 2, 64, 100
Floats = npt.NDArray[Any]


class Model:
    """One attention layer between random matrices."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)

        def matrix(*shape: int) -> Floats:
            return random.standard_normal(shape, np.float32)

        self.q = matrix(VOCABULARY, NUM_HEADS, HEAD_DIM)
        self.k = matrix(VOCABULARY, NUM_KV_HEADS, HEAD_DIM)
        self.v = matrix(VOCABULARY, NUM_KV_HEADS, HEAD_DIM)
        self.head = matrix(NUM_HEADS * HEAD_DIM, VOCABULARY)

    def next_token(self, attended: Floats) -> int:
        """The likeliest token after one row, [Hq, D]."""
        return int(np.argmax(attended.reshape(-1) @ self.head))


@dataclass
class Request:
    """A prompt, how many tokens to add to it, and those added so far."""

    prompt: list[int]
    max_new_tokens: int
    generated: list[int] = field(default_factory=list)

    def new_tokens(self) -> list[int]:
        """What the model has not seen yet: the prompt at first, then the last token."""
        return self.generated[-1:] or self.prompt

    def blocks_at_most(self, block_size: int) -> int:
        """Room that it may need before it leaves."""
        return -(-(len(self.prompt) + self.max_new_tokens) // block_size)


class Engine:
    """Runs requests together, as many as have room for certain."""

    def __init__(self, model: Model, num_blocks: int) -> None:
        self.model = model
        self.pool = quire.BlockPool(num_blocks, num_kv_heads=NUM_KV_HEADS, head_dim=HEAD_DIM)
        self.waiting: deque[Request] = deque()
        self.running: list[tuple[Request, quire.BlockTable]] = []

    def admit(self) -> None:
        """Let requests join while the pool could hold all of them to their ends."""
        block_size = self.pool.block_size
        promised = sum(request.blocks_at_most(block_size) for request, _ in self.running)
        while self.waiting:
            promised += self.waiting[0].blocks_at_most(block_size)
            if promised > self.pool.num_blocks:
                return
            self.running.append((self.waiting.popleft(), quire.BlockTable(self.pool)))

    def step(self) -> None:
        """One pass of the whole batch: prompts of those who joined, one token of the others."""
        model = self.model
        fresh = [request.new_tokens() for request, _ in self.running]
        tables = [table for _, table in self.running]
        tokens = np.concatenate(fresh)
        with quire.Step(tables, list(map(len, fresh))) as step:
            # a model of several layers asks for one after the other: step.attend(..., layer=i)
            attended = step.attend(model.q[tokens], model.k[tokens], model.v[tokens])
        for (request, _), end in zip(self.running, step.cu_seqlens_q[1:], strict=True):
            request.generated.append(model.next_token(attended[end - 1]))

    def retire(self) -> list[Request]:
        """Give back the blocks of requests that are done."""
        done, running = [], []
        for request, table in self.running:
            if len(request.generated) < request.max_new_tokens:
                running.append((request, table))
            else:
                table.free()
                done.append(request)
        self.running = running
        return done

    def run(self, requests: list[Request], log: Callable[[str], None] = print) -> None:
        """Serve all requests, telling who leaves when."""
        for request in requests:
            if request.blocks_at_most(self.pool.block_size) > self.pool.num_blocks:
                raise ValueError("Engine.run: got a request larger than the pool")
        self.waiting.extend(requests)
        step = 0
        while self.waiting or self.running:
            self.admit()
            self.step()
            step += 1
            stats = self.pool.stats()
            for request in self.retire():
                log(
                    f"step {step:2}: {len(request.prompt)} tokens of prompt, "
                    f"{len(request.generated)} new; {len(self.waiting)} waiting, "
                    f"{stats.used} of {stats.num_blocks} blocks were used"
                )


def main() -> None:
    """Six requests in a pool too small for all; each gets the tokens that it would get alone."""
    lengths = [(40, 12), (3, 20), (70, 5), (17, 30), (16, 16), (5, 8)]
    random = np.random.default_rng(1)
    prompts = [random.integers(VOCABULARY, size=prompt).tolist() for prompt, _ in lengths]
    model = Model()

    def requests() -> list[Request]:
        return [Request(p, new) for p, (_, new) in zip(prompts, lengths, strict=True)]

    together, alone = requests(), requests()
    engine = Engine(model, num_blocks=12)
    engine.run(together)
    engine.pool.check()
    print(f"{engine.pool.num_free} of {engine.pool.num_blocks} blocks are free again")

    for request in alone:
        Engine(model, num_blocks=12).run([request], log=lambda _: None)
    same = [request.generated for request in together] == [request.generated for request in alone]
    print("same tokens together and alone:", same)


if __name__ == "__main__":
    main()
