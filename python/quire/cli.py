"""The command line: quire verify, bench, info; generate, chat, perplexity."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from quire._core import __version__
from quire.commands import (
    bench_command,
    chat_command,
    generate_command,
    perplexity_command,
    verify_command,
)
from quire.commands.exit_status import INTERRUPTED, OK, USAGE
from quire.config import show_config

_COMMANDS = {
    "generate": (generate_command, "go on with prompts, several at once"),
    "chat": (chat_command, "talk with a model"),
    "perplexity": (perplexity_command, "how well a model foretells a text"),
    "verify": (verify_command, "compare attention with a float64 reference"),
    "bench": (bench_command, "measure Quire on this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 where verify fails, 2 for a wrong argument,
    130 where it was interrupted.

    Raises:
        SystemExit: from argparse, for --help (0) and for an argument it cannot parse (2).
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"\nquire {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has enough, as head does after some lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
        return OK
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"quire {arguments.command}: error: {reason}", file=sys.stderr)
        return USAGE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quire", description="Language models on a paged KV cache with fused attention."
    )
    parser.add_argument("--version", action="version", version=f"quire {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (command, about) in _COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=about))
    info = commands.add_parser("info", help="version, compiler, instruction sets, threads")
    info.description = (
        "Prints version, compiler, instruction sets built, available and used, and threads."
    )
    info.set_defaults(run=_info)
    return parser


def _info(arguments: argparse.Namespace) -> int:
    show_config()
    return OK
