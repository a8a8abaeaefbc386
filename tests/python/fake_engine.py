"""A model and an engine for tests of what is around them: they say what they are told to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from quire.text import StopStrings, Tokenizer


class FakeModel:
    """Foretells each token of a text it has seen with certainty, or all tokens alike."""

    max_positions = 4096

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int = 4096) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.windows: list[list[int]] = []

    def logits(self, token_ids: Any, *, num_threads: int | None = None) -> Any:
        """Row i speaks of what it has seen: the first token and the place of the window."""
        ids = np.asarray(token_ids)
        self.windows.append(ids.tolist())
        rows = np.zeros((len(ids), self.vocab_size), np.float32)
        rows[np.arange(len(ids)), ids] = np.arange(len(ids))  # tokens again, the surer the later
        return rows


class FakeRequest:
    """A request whose answer is given."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int], answer: str, options: Any):
        self.prompt_ids = prompt_ids
        self.options = options
        self.finish_reason: str | None = None
        self.num_cached_tokens = 0
        self.token_ids: list[int] = []
        self.text = ""
        self._left = tokenizer.encode(answer)[: options["max_tokens"]]
        self._complete = len(self._left) < options["max_tokens"]
        self._stream = tokenizer.stream(continues=True)
        self._stops = StopStrings(options["stop"])

    def cancel(self) -> None:
        self.finish_reason = self.finish_reason or "cancelled"

    def advance(self) -> None:
        """A token more."""
        if self._left:
            self.token_ids.append(self._left.pop(0))
            self.text += self._stops.feed(self._stream.feed(self.token_ids[-1]))
        if self._stops.stopped is not None:
            self.finish_reason = "stop"
        elif not self._left:
            self.text += self._stops.feed(self._stream.finish()) + self._stops.finish()
            self.finish_reason = "stop" if self._complete else "length"


class FakeEngine:
    """Answers each prompt with the next of the given answers, a token a step."""

    def __init__(self, model: FakeModel, answers: list[str], **options: Any) -> None:
        self.tokenizer = model.tokenizer
        self.options = options
        self.requests: list[FakeRequest] = []
        self.steps = 0
        self._answers = list(answers)
        # an error that the step of this number raises
        self.interrupt_at: int | None = None

    def submit(self, prompt: Any, **options: Any) -> FakeRequest:
        assert self.tokenizer is not None
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        self.requests.append(FakeRequest(self.tokenizer, ids, self._answers.pop(0), options))
        return self.requests[-1]

    def step(self) -> list[FakeRequest]:
        self.steps += 1
        if self.steps == self.interrupt_at:
            raise KeyboardInterrupt
        running = [request for request in self.requests if request.finish_reason is None]
        for request in running:
            request.advance()
        return running

    def stats(self) -> Any:
        return SimpleNamespace(computed_tokens=self.steps, cached_tokens=0)
