"""quire generate: goes on with prompts, several in the same forward passes."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from quire.commands.exit_status import OK
from quire.commands.model_arguments import add_model, add_sampling, loaded_model, sampling_of
from quire.commands.terminal import ProgressLine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Goes on with each prompt, as it is: without a chat template. Of one prompt the words are "
        "printed as they come; several share forward passes, and each answer is printed under its "
        "prompt when it is complete."
    )
    add_model(parser)
    parser.add_argument(
        "prompts", nargs="+", metavar="PROMPT", help="text; - reads it from standard input"
    )
    add_sampling(parser, max_tokens=128)
    parser.add_argument(
        "--json", action="store_true", help="print an object for each prompt, a line each"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import quire

    prompts = [sys.stdin.read() if text == "-" else text for text in arguments.prompts]
    model = loaded_model(arguments)
    engine = quire.Engine(model, max_sequences=len(prompts), num_threads=arguments.num_threads)
    options = sampling_of(arguments)
    requests = [engine.submit(prompt, **options) for prompt in prompts]
    if len(prompts) == 1 and not arguments.json:
        for text in words_of(engine, requests[0]):
            print(text, end="", flush=True)
        print()
        return OK
    for prompt, request in finished_in_order(engine, prompts, requests):
        print(_json_of(prompt, request) if arguments.json else f"> {prompt}\n{request.text}\n")
    return OK


def words_of(engine: Any, request: Any) -> Any:
    """The text of a request as it comes, piece by piece; steps the engine until it is complete."""
    progress = PromptProgress(engine, [request])
    shown = 0
    while request.finish_reason is None:
        engine.step()
        progress.show()
        text = request.text
        if len(text) > shown:
            progress.clear()
            yield text[shown:]
            shown = len(text)
    progress.clear()


def finished_in_order(engine: Any, prompts: list[str], requests: list[Any]) -> Any:
    """Each prompt with its request when it, and all before it, are complete."""
    progress = PromptProgress(engine, requests)
    for prompt, request in zip(prompts, requests, strict=True):
        while request.finish_reason is None:
            engine.step()
            progress.show()
        progress.clear()
        yield prompt, request


class PromptProgress:
    """How many tokens of the prompts have been computed or found, on a terminal."""

    def __init__(self, engine: Any, requests: list[Any]) -> None:
        self._engine = engine
        self._before = self._done()
        self._total = sum(len(request.prompt_ids) for request in requests)
        self._line = ProgressLine("prompt", "tokens")

    def show(self) -> None:
        """As much as is done now."""
        self._line.show(min(self._total, self._done() - self._before), self._total)

    def clear(self) -> None:
        """Before other text is written."""
        self._line.clear()

    def _done(self) -> int:
        stats = self._engine.stats()
        done: int = stats.computed_tokens + stats.cached_tokens
        return done


def _json_of(prompt: str, request: Any) -> str:
    said = {
        "prompt": prompt,
        "text": request.text,
        "token_ids": [int(token) for token in request.token_ids],
        "num_prompt_tokens": len(request.prompt_ids),
        "num_cached_tokens": request.num_cached_tokens,
        "finish_reason": request.finish_reason,
    }
    return json.dumps(said, ensure_ascii=False, allow_nan=False)
