"""How well a model foretells a text: the mean negative log-likelihood of its tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Rows of logits that are summed at once: what float64 copies of them take is small beside them.
_ROWS = 64


@dataclass(frozen=True)
class Perplexity:
    """What a text came to."""

    num_tokens: int  # that were scored: all but the first
    nats: float  # the mean of -log p(token | tokens before it)
    context: int  # tokens of a window at most
    stride: int  # tokens between the beginnings of windows
    num_windows: int

    @property
    def perplexity(self) -> float:
        """exp(nats): among so many equally likely tokens the model is as unsure; inf past 1e308."""
        try:
            return math.exp(self.nats)
        except OverflowError:
            return math.inf

    def as_dict(self) -> dict[str, float]:
        """All of it by name."""
        return {**asdict(self), "perplexity": self.perplexity}

    def __str__(self) -> str:
        return (
            f"perplexity {self.perplexity:.4f}, {self.nats:.6f} nats a token over "
            f"{self.num_tokens} tokens; {self.num_windows} windows of {self.context}, "
            f"stride {self.stride}"
        )


def perplexity(
    model: Any,
    token_ids: Sequence[int],
    *,
    context: int,
    stride: int,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """The perplexity of tokens, by windows that slide over them.

    A window of `context` tokens begins each `stride` tokens; in each, those are scored that none
    before it reached. So a token beyond the first window has context - stride tokens before it at
    least, and with a context of all tokens there is one window (huggingface.co/docs/transformers,
    "Perplexity of fixed-length models").

    Args:
        model: whose logits(token_ids, num_threads=) gives float32 [n, vocab_size].
        token_ids: at least 2.
        context: 2 to model.max_positions. stride: 1 to context - 1.
        num_threads: as for model.logits. progress: is told how many tokens of how many are done.

    Raises:
        ValueError: numbers out of these ranges.
    """
    ids = np.asarray(token_ids, np.int64)
    _check("token_ids", "tokens", len(ids), 2, None)
    _check("context", "", context, 2, model.max_positions)
    _check("stride", "", stride, 1, context - 1)
    total, reached, windows = 0.0, 1, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        logits = model.logits(ids[begin:end], num_threads=num_threads)
        # the row of a token foretells the one after it
        rows = logits[reached - begin - 1 : end - begin - 1]
        total += math.fsum(_nats(rows, ids[reached:end]))
        reached, windows = end, windows + 1
        if progress is not None:
            progress(end, len(ids))
        if end == len(ids):
            break
    num_tokens = len(ids) - 1
    return Perplexity(num_tokens, total / num_tokens, min(context, len(ids)), stride, windows)


def _nats(rows: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> list[float]:
    """-log softmax of each row at its target, in float64."""
    found: list[float] = []
    for begin in range(0, len(rows), _ROWS):
        part = rows[begin : begin + _ROWS].astype(np.float64)
        part -= part.max(axis=1, keepdims=True)
        chosen = part[np.arange(len(part)), targets[begin : begin + _ROWS]]
        found += (np.log(np.exp(part).sum(axis=1)) - chosen).tolist()
    return found


def _check(name: str, unit: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        given = f"{value} {unit}".strip()
        wanted = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"perplexity: {name}: got {given}, expected {wanted}")
