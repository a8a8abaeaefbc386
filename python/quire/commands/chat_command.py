"""quire chat: a conversation, by the model's chat template."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from quire.commands.exit_status import OK
from quire.commands.generate_command import words_of
from quire.commands.model_arguments import add_model, add_sampling, loaded_model, sampling_of

_PROMPT = "> "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Answers line by line, words as they come. Ctrl-C stops an answer, which stays in the "
        "conversation as far as it came; /new begins another conversation; Ctrl-D or /exit ends."
    )
    add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told to be")
    add_sampling(parser, max_tokens=1024)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import quire

    model = loaded_model(arguments)
    if model.tokenizer.chat_template is None:
        raise ValueError(
            f"path: got {arguments.path} without a chat template, expected a model that is made "
            "for conversations; quire generate goes on with any text"
        )
    engine = quire.Engine(model, max_sequences=1, num_threads=arguments.num_threads)
    options = sampling_of(arguments)
    system = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    messages = list(system)
    while (line := _read()) is not None:
        if line.strip() == "/exit":
            break
        if line.strip() == "/new":
            messages = list(system)
        elif line.strip():
            messages.append({"role": "user", "content": line})
            answer = _answer(engine, model, messages, options)
            if answer is None:
                messages.pop()
            else:
                messages.append({"role": "assistant", "content": answer})
    return OK


def _read() -> str | None:
    """A line; None at the end. Ctrl-C takes back what was typed, as in a shell."""
    while True:
        try:
            return input(_PROMPT if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                print()
            return None
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print("\n(Ctrl-D or /exit ends)")


def _answer(
    engine: Any, model: Any, messages: list[dict[str, str]], options: dict[str, Any]
) -> str | None:
    """Prints the answer as it comes; returns as much of it as came, None where none has room."""
    text = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    # special tokens are written out by the template
    prompt = model.tokenizer.encode(text, add_special_tokens=False)
    room = model.max_positions - len(prompt)
    if room < 1:
        print(
            f"(that makes {len(prompt)} tokens, and the model has {model.max_positions} positions: "
            "/new begins another conversation)",
            file=sys.stderr,
        )
        return None
    request = engine.submit(prompt, **{**options, "max_tokens": min(options["max_tokens"], room)})
    said = ""
    try:
        for words in words_of(engine, request):
            said += words
            print(words, end="", flush=True)
    except KeyboardInterrupt:
        request.cancel()
    print()
    return said
