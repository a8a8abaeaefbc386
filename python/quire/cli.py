"""The command line: quire verify, quire bench, quire info."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np

from quire.benchmark import bench
from quire.config import show_config
from quire.verification import RMS_BAR, VerifyReport, verify

FAILED, USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 where verify fails, 2 for a wrong argument."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        print(f"quire {arguments.command}: error: {error}", file=sys.stderr)
        return USAGE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quire", description="Paged KV cache and attention.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_verify(commands.add_parser("verify", help="compare attention with a float64 reference"))
    bench_parser = commands.add_parser("bench", help="measure decode on this machine")
    bench_parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    bench_parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    bench_parser.set_defaults(run=_bench)
    info_parser = commands.add_parser("info", help="version, instruction sets, threads")
    info_parser.set_defaults(run=_info)
    return parser


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Appends a token a step to a block table whose blocks are scattered, and compares fused "
        f"and gather with the float64 reference. Fails where a step's RMS is not below {RMS_BAR:g}."
    )
    add = parser.add_argument
    add("--steps", type=int, default=200, help="decode steps (default 200)")
    add("--trace", metavar="FILE", help="npz with q, k, v [tokens, heads, head size]")
    add("--layer", type=int, help="of a file with layer1_q, layer1_k, ...")
    add("--synthetic", action="store_true", help="random numbers of the sizes below")
    add("--heads", default="8,2", help="query heads, KV heads (default 8,2)")
    add("--head-dim", type=int, default=64, help="of q and k (default 64)")
    add("--v-head-dim", type=int, help="of v (default that of k)")
    add("--context", type=int, default=1848, help="tokens before the first step (default 1848)")
    add("--batch", type=int, default=1, help="sequences (default 1)")
    add("--block-size", type=int, default=16, help="tokens of a block (default 16)")
    add("--dtype", default="float16", help="of the cache: float32, float16 (default), bfloat16")
    add("--forks", action="store_true", help="fork tables between steps")
    add("--truncations", action="store_true", help="roll tables back between steps")
    add("--seed", type=int, default=0, help="of everything random (default 0)")
    add("--threads", type=int, help="of fused and gather (default: all cores)")
    add("--plot", metavar="FILE.png", help="draw RMS per step")
    add("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_verify)


def _heads(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--heads: got {text}, expected two numbers such as 8,2")
    return int(parts[0]), int(parts[1])


def _verify(arguments: argparse.Namespace) -> int:
    report = verify(
        arguments.steps,
        trace=arguments.trace,
        layer=arguments.layer,
        synthetic=arguments.synthetic,
        heads=_heads(arguments.heads),
        head_dim=arguments.head_dim,
        v_head_dim=arguments.v_head_dim,
        context=arguments.context,
        batch=arguments.batch,
        block_size=arguments.block_size,
        dtype=arguments.dtype,
        forks=arguments.forks,
        truncations=arguments.truncations,
        seed=arguments.seed,
        num_threads=arguments.threads,
        progress=_show_progress,
    )
    if arguments.plot:
        report.plot(arguments.plot)
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        _print_report(report)
        if arguments.plot:
            print(f"wrote {arguments.plot}")
    return 0 if report.passed else FAILED


def _show_progress(done: int, total: int) -> None:
    """A bar on a terminal; elsewhere a line at each quarter."""
    if sys.stderr.isatty():
        filled = 40 * done // total
        end = "\n" if done == total else ""
        bar = "#" * filled + "." * (40 - filled)
        print(f"\r[{bar}] {done}/{total}", end=end, file=sys.stderr, flush=True)
    elif 4 * done // total > 4 * (done - 1) // total:
        print(f"step {done} of {total}", file=sys.stderr)


def _print_report(report: VerifyReport) -> None:
    settings = report.settings
    print(
        f"{report.source}: {settings['context']} tokens of context, "
        f"{settings['steps']} decode steps, batch {settings['batch']}"
    )
    print(
        f"heads {settings['heads'][0]}:{settings['heads'][1]}, "
        f"head size {settings['head_dims'][0]}, block size {settings['block_size']}, "
        f"{settings['dtype']} cache in scattered blocks"
    )
    print()
    print(f"{'':8} {'RMS':>10} {'RMS':>10} {'step of':>8} {'largest':>10} {'time per':>10}")
    print(f"{'':8} {'median':>10} {'worst':>10} {'worst':>8} {'error':>10} {'step':>10}")
    for name, result in report.results.items():
        print(
            f"{name:8} {np.median(result.rms):10.2e} {np.max(result.rms):10.2e} "
            f"{result.worst_step:8d} {np.max(result.max_abs):10.2e} "
            f"{_microseconds(result.seconds):>10}"
        )
    print(f"{'dense':8} {'(float64 reference)':>41} {_microseconds(report.dense_seconds):>10}")
    print()
    print(f"cache contents: {'exact' if report.contents_exact else 'WRONG'}")
    verdict = "every step passes" if report.passed else "FAILED"
    print(f"{verdict}: the bar is RMS < {RMS_BAR:g}")


def _microseconds(seconds: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return f"{np.median(seconds) * 1e6:.0f} us"


def _bench(arguments: argparse.Namespace) -> int:
    rows = bench(quick=arguments.quick)
    if arguments.json:
        print(json.dumps([row.as_dict() for row in rows], indent=1))
        return 0
    print("decode, (32, 8) heads, head size 128, bfloat16, cold blocks in random order")
    print(f"{'keys':>7} {'batch':>6} {'threads':>8} {'fused':>10} {'of memory':>10} {'gather':>10}")
    for row in rows:
        print(
            f"{row.keys:7d} {row.batch:6d} {row.threads:8d} {row.fused * 1e6:7.0f} us "
            f"{row.of_ceiling:9.0%} {row.gather / row.fused:8.1f} x"
        )
    print("of memory: of the speed at which the same bytes are read as randomly placed chunks")
    print("gather: its time over that of fused")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    show_config()
    return 0
