"""Arguments that commands with a model share, and the model that they name."""

from __future__ import annotations

import argparse
from typing import Any

from quire.commands.terminal import waiting_for


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model and how it is loaded."""
    add = parser.add_argument
    add("path", metavar="PATH", help="a Hugging Face folder, or a GGUF file")
    add(
        "--weights",
        metavar="FORMAT",
        help="packs the weights as float32, float16, bfloat16, int8 or int4 (default: as they are "
        "stored)",
    )
    add("--num-threads", type=int, metavar="N", help="default: all cores of this process")


def add_sampling(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """How tokens are chosen and when an answer ends."""
    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add(
        "--max-tokens",
        type=int,
        default=max_tokens,
        metavar="N",
        help=f"of an answer at most (default {max_tokens})",
    )
    add(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 (default): the likeliest token each time",
    )
    add("--top-k", type=int, default=0, metavar="K", help="of the K likeliest tokens alone")
    add("--top-p", type=float, default=1.0, metavar="P", help="of the likeliest that make up P")
    add("--min-p", type=float, default=0.0, metavar="P", help="of those of P times the likeliest")
    add("--seed", type=int, default=0, metavar="N", help="of everything random (default 0)")
    add(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="ends the answer before this text; may be given several times",
    )


def sampling_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What Engine.submit takes of it."""
    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop")
    return {name: getattr(arguments, name) for name in names}


def loaded_model(arguments: argparse.Namespace) -> Any:
    """The model, which has a tokenizer.

    Raises:
        ValueError: it has none. What load_model raises.
    """
    import quire

    with waiting_for(f"loading {arguments.path}"):
        model = quire.load_model(
            arguments.path, weights=arguments.weights, num_threads=arguments.num_threads
        )
        tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError(
            f"path: got {arguments.path} without a tokenizer, expected a model with one"
        )
    return model
