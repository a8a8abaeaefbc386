"""A decode loop with continuous batching: sequences join, fork, grow a token a step, and leave.

The model is a stand-in that makes queries, keys and values from a token; everything else is what an
inference engine does with Quire.
"""

from __future__ import annotations

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
            return random.standard_normal(shape).astype(np.float32)

        self.q = matrix(VOCABULARY, NUM_HEADS, HEAD_DIM)
        self.k = matrix(VOCABULARY, NUM_KV_HEADS, HEAD_DIM)
        self.v = matrix(VOCABULARY, NUM_KV_HEADS, HEAD_DIM)
        self.head = matrix(NUM_HEADS * HEAD_DIM, VOCABULARY)

    def next_tokens(self, attended: Floats) -> npt.NDArray[np.int64]:
        """The likeliest token after each row."""
        logits = attended.reshape(len(attended), -1) @ self.head
        return np.asarray(np.argmax(logits, axis=1), np.int64)


def prefill(model: Model, table: quire.BlockTable, prompt: list[int]) -> int:
    """Write a whole prompt, attend with all of its tokens at once, return the next token."""
    table.append(model.k[prompt], model.v[prompt])
    cu_seqlens_q = np.array([0, len(prompt)])
    attended = quire.attend(model.q[prompt], [table], cu_seqlens_q=cu_seqlens_q)
    return int(model.next_tokens(attended)[-1])


def decode(model: Model, tables: list[quire.BlockTable], tokens: list[int]) -> list[int]:
    """One step of the whole batch: a token of each sequence in, the next of each out."""
    for table, token in zip(tables, tokens, strict=True):
        table.append(model.k[token : token + 1], model.v[token : token + 1])
    return [int(token) for token in model.next_tokens(quire.attend(model.q[tokens], tables))]


def main() -> None:
    """Two prompts; the first is forked into two samples half way; the second leaves early."""
    model = Model()
    pool = quire.BlockPool(64, num_kv_heads=NUM_KV_HEADS, head_dim=HEAD_DIM, dtype="float32")
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18], [40, 41, 42]]
    tables = [quire.BlockTable(pool) for _ in prompts]
    tokens = [prefill(model, *pair) for pair in zip(tables, prompts, strict=True)]
    texts = [[token] for token in tokens]
    for step in range(20):
        if step == 10:
            tables.append(tables[0].fork())
            tokens.append((tokens[0] + 1) % VOCABULARY)  # the other sample takes another token
            texts.append([*texts[0][:-1], tokens[-1]])
        if step == 15:
            tables.pop(1).free()
            tokens.pop(1)
            print("left:    ", texts.pop(1))
        tokens = decode(model, tables, tokens)
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
    for text in texts:
        print("sequence:", text)
    stats = pool.stats()
    print(f"{stats.used} blocks used, {stats.shared} shared, {stats.copies_on_write} copied")
    pool.check()


if __name__ == "__main__":
    main()
