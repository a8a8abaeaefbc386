"""Answers many prompts at once with one model: strings in, text out.

What is computed and decided is C++ (cpp/quire/engine/), which speaks token ids alone; here they
become text and back, and stop strings end answers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

from quire._core import Model, TokenEngine
from quire.engine_stats import EngineStats
from quire.request import AnswerText, Request


class Engine:
    """Answers many prompts at once with one model.

    Each step takes some tokens of many requests through the model in one forward pass: prompts
    whole or in chunks, answers a token each. A request's tokens depend on its prompt and options
    alone, however it was batched, cut, found in the prefix cache, or preempted: to the bit where
    build_info()["chunk_invariant"] is true and dtype keeps no open blocks.

    Where blocks run out, cached prefixes go first, least recently used; then the request that loses
    least gives its blocks up, keeps its tokens, and goes on when there is room. The oldest request
    never has to.

    Args:
        model: what load_model returned.
        num_blocks: blocks of the pool. None: as many as max_sequences sequences of full length
            need, at most what half of the available memory holds; stats() says how many, and why.
        dtype: of keys and values in the pool, as BlockPool's.
        block_size: tokens of a block.
        prefix_cache: whether requests share computed beginnings. A model with recurrent states does
            not, whatever is asked for: stats() says so.
        max_batch_tokens: that a step takes through the model.
        max_sequences: requests that run at the same time, others wait; of a model with recurrent
            states at most as many as have theirs in a quarter of the available memory.
        draft: how several tokens of an answer are guessed at once: "none".
        num_threads: None: QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores that there are.

    Raises:
        ValueError: a number below 1, or an unknown draft. TypeError. MemoryError: no room for the
        pool.

    Example:
        >>> model = quire.load_model("tests/data/models/pystdlib-llama")
        >>> engine = quire.Engine(model)
        >>> [request.text for request in engine.generate(["def add(a, b):"], max_tokens=8)]
        ['\\n    return a + b\\n']
    """

    def __init__(
        self,
        model: Model,
        *,
        num_blocks: SupportsIndex | None = None,
        dtype: Any = "bfloat16",
        block_size: SupportsIndex = 16,
        prefix_cache: bool = True,
        max_batch_tokens: SupportsIndex = 512,
        max_sequences: SupportsIndex = 256,
        draft: str = "none",
        num_threads: SupportsIndex | None = None,
    ) -> None:
        self._engine = TokenEngine(
            model,
            num_blocks=num_blocks,
            dtype=dtype,
            block_size=block_size,
            prefix_cache=prefix_cache,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            draft=draft,
            num_threads=num_threads,
        )
        self._model = model
        self._lock = threading.Lock()  # of what follows
        self._under_way: dict[int, Request] = {}

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"Engine({self._model!r}, {stats.waiting} waiting, {stats.running} running, "
            f"{stats.finished} finished)"
        )

    @property
    def model(self) -> Model:
        """The model that answers."""
        return self._model

    def submit(
        self,
        prompt: str | Iterable[SupportsIndex] | Any,
        *,
        max_tokens: SupportsIndex = 128,
        temperature: SupportsFloat = 0.0,
        top_k: SupportsIndex = 0,
        top_p: SupportsFloat = 1.0,
        min_p: SupportsFloat = 0.0,
        repetition_penalty: SupportsFloat = 1.0,
        presence_penalty: SupportsFloat = 0.0,
        frequency_penalty: SupportsFloat = 0.0,
        stop: str | Sequence[str | int] = (),
        ignore_eos: bool = False,
        seed: SupportsIndex = 0,
        logprobs: SupportsIndex = 0,
        namespace: str = "",
    ) -> Request:
        """Queues a prompt, which steps will answer. From any thread, at any time.

        Args:
            prompt: a string, which the model's tokenizer cuts, with the tokens that the model
                expects around a text; or token ids, a list of ints or an array of int32 or int64.
            max_tokens: of the answer.
            temperature, top_k, top_p, min_p: as quire.ops.sample; temperature 0 is the likeliest
                token each time.
            repetition_penalty, presence_penalty, frequency_penalty: likewise, also at temperature
                0.
            stop: strings that end the text, which does not have them, or token ids; one or several.
            ignore_eos: whether the answer goes on after the model's own end.
            seed: of the draws. The same seed, prompt and options give the same answer, whatever
                else the engine does.
            logprobs: of how many likeliest tokens, beside the chosen one, to tell probabilities.
            namespace: requests share cached prefixes with others of the same one alone.

        Raises:
            ValueError: an option out of its range, an empty prompt, more tokens than the model has
            positions, or text where the model has no tokenizer. IndexError: an unknown token id.
            OutOfBlocks: a request that would not fit if it were the only one. TypeError.
        """
        strings, tokens = _split_stops(stop)
        if strings:
            self._tokenizer("submit: stop")
        ids = self._ids_of(prompt)
        with self._lock:  # so that no step returns a request that is not known here yet
            request = Request(
                self._engine.submit(
                    ids,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    min_p=min_p,
                    repetition_penalty=repetition_penalty,
                    presence_penalty=presence_penalty,
                    frequency_penalty=frequency_penalty,
                    stop_token_ids=tokens,
                    ignore_eos=ignore_eos,
                    seed=seed,
                    logprobs=logprobs,
                    namespace=namespace,
                ),
                lambda: AnswerText(self._tokenizer("text").stream(continues=True), strings, tokens),
                has_stops=bool(strings),
                forget=lambda: self._under_way.pop(request.id, None),
            )
            self._under_way[request.id] = request
        return request

    def step(self) -> list[Request]:
        """One forward pass.

        Returns:
            The requests that got a token, the oldest first; none where nothing is to be done.

        Raises:
            ValueError: a request whose logits are not finite; the message names it. Whatever is
            raised, KeyboardInterrupt included, has changed no request: they keep their tokens, and
            the next step goes on from there.
        """
        answered = self._engine.step()
        with self._lock:
            found = [self._under_way.get(tokens.id) for tokens in answered]
        requests = [
            request for request in found if request is not None
        ]  # None: cancelled meanwhile
        for request in requests:
            request._look_for_stops()
            if request.finish_reason is not None:
                self._under_way.pop(request.id, None)
        return requests

    def generate(
        self, prompts: Iterable[str | Iterable[SupportsIndex] | Any], **options: Any
    ) -> list[Request]:
        """Answers prompts, all of them, in their order.

        Args:
            prompts: as submit takes them, several.
            options: those of submit, for all of them.

        Raises:
            As submit and step; all requests of this call are cancelled then.
        """
        if isinstance(prompts, str):
            raise TypeError(
                f"Engine.generate: prompts: got the string {prompts!r}, expected several in a list"
            )
        if not isinstance(prompts, Iterable):
            raise TypeError(
                f"Engine.generate: prompts: got {type(prompts).__name__}, expected several in a "
                "list"
            )
        requests: list[Request] = []
        try:
            for prompt in prompts:
                requests.append(self.submit(prompt, **options))
            while any(request.finish_reason is None for request in requests):
                self.step()
        except BaseException:
            for request in requests:
                request.cancel()
            raise
        return requests

    @property
    def has_unfinished(self) -> bool:
        """Whether a step would have something to do: requests to answer, or blocks to free."""
        return self._engine.has_unfinished

    def stats(self) -> EngineStats:
        """What it has done so far, and what it holds. Never waits for a step."""
        return EngineStats(**self._engine.stats())

    def check(self) -> None:
        """Verifies that requests, tables and blocks agree. O(slots of the pool).

        Raises:
            RuntimeError: the first thing that does not hold, which is a bug of Quire.
        """
        self._engine.check()

    def _ids_of(self, prompt: Any) -> Any:
        """Those of a string; else the prompt, which is checked as it is queued."""
        if isinstance(prompt, (bytes, bytearray)):  # whose items are ints, but no token ids
            raise TypeError(
                f"Engine.submit: prompt: got {type(prompt).__name__}, expected a str or token ids"
            )
        if not isinstance(prompt, str):
            return prompt
        return self._tokenizer("submit: prompt").encode(prompt)

    def _tokenizer(self, needed_for: str) -> Any:
        """Asked for only where there is text, as the libraries for that are optional."""
        tokenizer = self._model.tokenizer
        if tokenizer is None:
            raise ValueError(
                f"Engine.{needed_for}: got a model without a tokenizer, expected one with text; "
                "token ids need none"
            )
        return tokenizer


def _split_stops(stop: Any) -> tuple[list[str], list[Any]]:
    """Strings and token ids; strings are checked, ids are as they are queued."""
    if isinstance(stop, (str, int, np.integer)):
        stop = [stop]
    if isinstance(stop, (bytes, bytearray)) or not isinstance(stop, Iterable):
        raise TypeError(
            f"Engine.submit: stop: got {type(stop).__name__}, expected a str, a token id, or a "
            "list of them"
        )
    stops = list(stop)
    for place, item in enumerate(stops):
        if isinstance(item, str) and not item:
            raise ValueError(
                f"Engine.submit: stop: got an empty string at index {place}, expected text"
            )
    strings = [item for item in stops if isinstance(item, str)]
    return strings, [item for item in stops if not isinstance(item, str)]
