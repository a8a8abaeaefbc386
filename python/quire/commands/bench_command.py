"""quire bench: what attention and the cache do on this machine, under its roofs."""

from __future__ import annotations

import argparse
import json
import sys

from quire.commands.exit_status import OK
from quire.commands.terminal import show_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from quire.bench_report import Comparison, read_report
    from quire.benchmark import bench
    from quire.plotting import figure_class

    # what is wrong with a file, or missing, is told now, not after the last case
    before = read_report(arguments.compare) if arguments.compare else None
    if arguments.plot:
        figure_class("BenchReport.plot")
    report = bench(quick=arguments.quick, progress=show_progress)
    comparison = None if before is None else Comparison(before, report)
    if arguments.json:
        ratios = {} if comparison is None else {"times_as_fast": comparison.ratios}
        print(json.dumps({**report.as_dict(), **ratios}, allow_nan=False))
    else:
        print(report if comparison is None else f"{report}\n\n{comparison}")
    if arguments.plot:
        report.plot(arguments.plot)
        print(f"wrote {arguments.plot}", file=sys.stderr)
    return OK
