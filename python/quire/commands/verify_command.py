"""quire verify: attention of this machine against a float64 reference."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields

from quire.commands.exit_status import FAILED, OK
from quire.commands.terminal import show_progress
from quire.plotting import figure_class
from quire.report import RMS_BAR
from quire.trace import Synthetic
from quire.verification import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
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
        progress=show_progress,
    )
    print(json.dumps(report.as_dict(), allow_nan=False) if arguments.json else report)
    if arguments.plot:
        report.plot(arguments.plot)
        print(f"wrote {arguments.plot}", file=sys.stderr)
    return OK if report.passed else FAILED


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


def _heads(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"got {text}, expected two numbers such as 8,2")
    return int(parts[0]), int(parts[1])
