"""A request of an engine: a prompt and the answer so far, as text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from quire.counted import counted
from quire.text.stop_strings import StopStrings

if TYPE_CHECKING:
    from quire._core import TokenRequest
    from quire.text.text_stream import TextStream

#: Why an answer ended; None as long as it has not.
FinishReason = Literal["stop", "length", "cancelled"] | None


class TokenLogprobs(NamedTuple):
    """Natural logarithms of probabilities, of the logits as the model gave them.

    Attributes:
        token_id: the token that was chosen.
        logprob: its logarithm.
        top: (token id, logarithm) of the likeliest tokens, as many as were asked for, the likeliest
            first.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


class AnswerText:
    """The text of an answer as its tokens come, up to a stop string.

    Args:
        stream: turns tokens into text.
        stop: strings that end it.
        ends: tokens that end the answer and are no text of it.
    """

    def __init__(self, stream: TextStream, stop: Sequence[str], ends: Collection[int]) -> None:
        self._stream = stream
        self._stops = StopStrings(stop)
        self._ends = frozenset(ends)
        self._text = ""
        self._is_over = False
        self.num_tokens = 0  #: that have been taken

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stops.stopped is not None

    def take(self, tokens: Sequence[int]) -> None:
        """Goes on with these tokens, and takes none after the one that completes a stop string."""
        for token in tokens:
            if self.stopped:
                return
            if token not in self._ends:
                self._text += self._stops.feed(self._stream.feed(token))
            self.num_tokens += 1

    def finish(self) -> None:
        """No more tokens come."""
        if not self._is_over and not self.stopped:
            self._text += self._stops.feed(self._stream.finish())
            self._text += self._stops.finish()
        self._is_over = True

    def __str__(self) -> str:
        return self._text


class Request:
    """A prompt, and the answer to it as far as it has come. Made by Engine.submit.

    Any thread may read a request, and cancel it. As its tokens come, the text grows by whole
    characters; what may yet become a stop string is held back, and neither that nor what follows is
    ever part of it.

    Example:
        >>> request = engine.submit("def fib(n):", max_tokens=20, stop=["\\n\\n"])
        >>> while request.finish_reason is None:
        ...     engine.step()
        >>> print(request.text)
    """

    def __init__(
        self,
        tokens: TokenRequest,
        make_text: Callable[[], AnswerText],
        *,
        has_stops: bool,
        forget: Callable[[], object],
    ) -> None:
        self._tokens = tokens
        self._make_text = make_text  # called where somebody wants text, as not every model has it
        self._text: AnswerText | None = None
        self._has_stops = has_stops
        self._forget = forget  # called where no step will return this any more
        self._lock = threading.Lock()  # of the text, which grows when it is read, and at each step

    def __repr__(self) -> str:
        reason = self.finish_reason
        return (
            f"Request({self._tokens.id}, {counted(self._tokens.num_generated, 'token')} generated, "
            f"{'under way' if reason is None else reason})"
        )

    @property
    def id(self) -> int:
        """Counts the requests of an engine from 0."""
        return self._tokens.id

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens of the prompt."""
        return self._tokens.prompt_ids

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the answer so far, with those that ended it, also of a stop string."""
        return self._tokens.token_ids()

    @property
    def text(self) -> str:
        """The text of the answer so far, up to a stop string or token.

        Raises:
            ValueError: the model has no tokenizer.
        """
        with self._lock:
            return str(self._grown_text())

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """Of each token of the answer, where they were asked for; else empty."""
        told = self._tokens.logprobs
        ids = self._tokens.token_ids()
        return [
            TokenLogprobs(token, logprob, top)
            for token, (logprob, top) in zip(ids, told, strict=False)
        ]

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of the prompt that were found in the prefix cache when the request first ran."""
        return self._tokens.num_cached_tokens

    @property
    def finish_reason(self) -> FinishReason:
        """None as long as tokens come; "stop": a stop string or token, the model's own included;
        "length": max_tokens are there; "cancelled"."""
        return self._tokens.finish_reason

    def cancel(self) -> None:
        """Ends the answer where it stands; its blocks are free once a step has begun or ended.

        Does nothing to a request that has finished.
        """
        self._tokens.cancel()
        self._forget()

    def _look_for_stops(self) -> None:
        """After a step: ends the answer where a stop string is complete."""
        if self._has_stops:
            with self._lock:
                self._grown_text()

    def _grown_text(self) -> AnswerText:
        if self._text is None:
            self._text = self._make_text()
        text = self._text
        if text.stopped:
            return text
        is_finished = self._tokens.finish_reason is not None  # before its last tokens are asked for
        text.take(self._tokens.token_ids(text.num_tokens))
        if text.stopped:
            self._tokens.stop(text.num_tokens)
        elif is_finished:
            text.finish()
        return text
