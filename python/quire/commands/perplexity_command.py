"""quire perplexity: how well a model foretells a text."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from quire.commands.exit_status import OK
from quire.commands.model_arguments import add_model, loaded_model
from quire.commands.terminal import ProgressLine

# As many as llama.cpp takes: the logits of a window are in memory together.
_CONTEXT = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The mean of -log p(token | tokens before it) over a text, in nats, and its exponential. A "
        "window slides over the text; of each window the tokens are scored that the one before it "
        "did not reach, so that each but the first ones has context - stride tokens before it at "
        "least."
    )
    add_model(parser)
    parser.add_argument("file", metavar="FILE", type=Path, help="text in UTF-8")
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help=f"tokens of a window (default {_CONTEXT}, or as many as the model has positions)",
    )
    parser.add_argument(
        "--stride", type=int, metavar="N", help="tokens between windows (default half a window)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a sentence")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from quire.perplexity import perplexity

    text = _text_of(arguments.file)
    model = loaded_model(arguments)
    context, stride = arguments.context, arguments.stride
    if context is None:
        context = min(_CONTEXT, model.max_positions)
    progress = ProgressLine("text", "tokens")
    found = perplexity(
        model,
        model.tokenizer.encode(text),
        context=context,
        stride=max(1, context // 2) if stride is None else stride,
        num_threads=arguments.num_threads,
        progress=progress.show,
    )
    progress.clear()
    print(json.dumps(found.as_dict(), allow_nan=False) if arguments.json else found)
    return OK


def _text_of(file: Path) -> str:
    """What stands in a file of UTF-8."""
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"file: got byte 0x{byte:02x} at {error.start} of {file}, expected text in UTF-8"
        ) from error
