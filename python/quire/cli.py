"""The command line: quire verify, quire bench, quire info."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields

from quire._core import __version__
from quire.bench_report import Comparison, read_report
from quire.benchmark import bench
from quire.config import show_config
from quire.plotting import figure_class
from quire.report import RMS_BAR
from quire.trace import Synthetic
from quire.verification import verify

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 where verify fails, 2 for a wrong argument.

    Raises:
        SystemExit: from argparse, for --help (0) and for an argument it cannot parse (2).
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"\nquire {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"quire {arguments.command}: error: {reason}", file=sys.stderr)
        return USAGE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quire", description="Paged KV cache and attention.")
    parser.add_argument("--version", action="version", version=f"quire {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_verify(commands.add_parser("verify", help="compare attention with a float64 reference"))
    _add_bench(commands.add_parser("bench", help="measure Quire on this machine"))
    info = commands.add_parser("info", help="version, compiler, instruction sets, threads")
    info.description = (
        "Prints version, compiler, instruction sets built, available and used, and threads."
    )
    info.set_defaults(run=_info)
    return parser


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Appends one token a step to a block table whose blocks are scattered, and compares fused "
        "and gather with the float64 reference, dense; dense itself is compared with plain NumPy, "
        "and the cache with what was written. Exit status: 0 passed, 1 a step's RMS is not below "
        "the bar or the cache is wrong, 2 a wrong argument."
    )
    parser.add_argument("--steps", type=int, default=200, help="decode steps (default 200)")
    source = parser.add_argument_group("input", "default: the trace of a real model, float16")
    add = source.add_argument
    add(
        "--trace",
        metavar="FILE",
        help="npz with q, k, v or layer{n}_q, layer{n}_k, layer{n}_v, float16 or float32, each "
        "[tokens, heads, head size]; q may hold only the last tokens",
    )
    add("--layer", type=int, help="which of several layers (default: the first; 4 of the shipped)")
    add("--synthetic", action="store_true", help="random numbers of the sizes that follow")
    add("--heads", type=_heads, metavar="HQ,HKV", help="query and KV heads (default 8,2)")
    add("--head-dim", type=int, metavar="D", help="head size of q and k (default 64)")
    add("--v-head-dim", type=int, metavar="DV", help="head size of v (default that of k)")
    add("--context", type=int, metavar="N", help="tokens before the first step (default 1848)")
    cache = parser.add_argument_group("cache and attention")
    add = cache.add_argument
    add("--batch", type=int, default=1, help="sequences, of different lengths (default 1)")
    add("--block-size", type=int, default=16, help="tokens of a block (default 16)")
    add("--dtype", default="float16", help="of the cache: float32, float16 (default), bfloat16")
    add("--sliding-window", type=int, metavar="W", help="attend to the last W tokens only")
    add("--softcap", type=float, metavar="C", help="scores become C * tanh(score / C)")
    add("--forks", action="store_true", help="fork tables between steps")
    add("--truncations", action="store_true", help="roll tables back between steps")
    add("--seed", type=int, default=0, help="of everything random (default 0)")
    add("--threads", type=int, help="default: all cores of this process")
    add("--bar", type=float, default=RMS_BAR, help=f"that RMS must stay below ({RMS_BAR:g})")
    output = parser.add_argument_group("output")
    output.add_argument("--plot", metavar="FILE.png", help="draw RMS per step on a log axis")
    output.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_verify)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Times decode, verify, prefill and writing on cold blocks in random order, each beside "
        "the roofs that no kernel can pass: as many bytes read as randomly placed chunks, as many "
        "FLOPs done in registers, as many bytes copied. Needs some 2 GiB of memory."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and smaller cases")
    add("--compare", metavar="FILE", help="the same cases as before: a file that --json wrote")
    add("--plot", metavar="FILE.png", help="draw each case under its roof, and as a part of it")
    add("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_bench)


def _heads(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"got {text}, expected two numbers such as 8,2")
    return int(parts[0]), int(parts[1])


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.plot:
        figure_class()  # a missing matplotlib is told now, not after the last step
    report = verify(
        arguments.steps,
        trace=_trace(arguments),
        layer=arguments.layer,
        batch=arguments.batch,
        block_size=arguments.block_size,
        dtype=arguments.dtype,
        sliding_window=arguments.sliding_window,
        softcap=arguments.softcap,
        forks=arguments.forks,
        truncations=arguments.truncations,
        seed=arguments.seed,
        num_threads=arguments.threads,
        bar=arguments.bar,
        progress=_show_progress,
    )
    print(json.dumps(report.as_dict(), allow_nan=False) if arguments.json else report)
    if arguments.plot:
        report.plot(arguments.plot)
        print(f"wrote {arguments.plot}", file=sys.stderr)
    return 0 if report.passed else FAILED


def _trace(arguments: argparse.Namespace) -> str | Synthetic | None:
    """The input asked for; sizes of synthetic input without --synthetic are a mistake."""
    given = {
        field.name: getattr(arguments, field.name)
        for field in fields(Synthetic)
        if getattr(arguments, field.name) is not None
    }
    if arguments.synthetic:
        if arguments.trace is not None:
            raise ValueError("--synthetic: got --trace too, expected one of the two")
        return Synthetic(**given)
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        raise ValueError(f"{option}: got it without --synthetic, expected both")
    path: str | None = arguments.trace
    return path


def _show_progress(done: int, total: int) -> None:
    """A bar on a terminal; elsewhere a line at each quarter."""
    if sys.stderr.isatty():
        filled = 40 * done // total
        end = "\n" if done == total else ""
        bar = "#" * filled + "." * (40 - filled)
        print(f"\r[{bar}] {done}/{total}", end=end, file=sys.stderr, flush=True)
    elif 4 * done // total > 4 * (done - 1) // total:
        print(f"step {done} of {total}", file=sys.stderr)


def _bench(arguments: argparse.Namespace) -> int:
    # what is wrong with a file, or missing, is told now, not after the last case
    before = read_report(arguments.compare) if arguments.compare else None
    if arguments.plot:
        figure_class("BenchReport.plot")
    report = bench(quick=arguments.quick, progress=_show_progress)
    comparison = None if before is None else Comparison(before, report)
    if arguments.json:
        ratios = {} if comparison is None else {"times_as_fast": comparison.ratios}
        print(json.dumps({**report.as_dict(), **ratios}, allow_nan=False))
    else:
        print(report if comparison is None else f"{report}\n\n{comparison}")
    if arguments.plot:
        report.plot(arguments.plot)
        print(f"wrote {arguments.plot}", file=sys.stderr)
    return 0


def _info(arguments: argparse.Namespace) -> int:
    show_config()
    return 0
