"""Quire against its peers on the CPU, in one run: same numbers, same threads, taking turns.

    python benchmarks/peers.py [--quick] [--long] [--json]

Decode: one token after 4096 and 16384 keys, cold. Prefill: 512 and 2048 tokens, causal, warm;
--long adds 8192. Batch 1, (32, 8) heads, head size 128, bfloat16, or what the note says; 1 and 2
threads. Every peer has its data in the layout it likes best, and must give what Quire gives, to
2 % (RMS of the difference over RMS), before anything is timed. A ratio is the peer's median time
over Quire's: above 1, Quire is faster. The exit status is 1 where a result is wrong, else 0.

Peers are optional; one that is missing, or that its release no longer lets Python drive, has a
line that says so:

    torch        scaled_dot_product_attention: contiguous, and after a gather of the blocks
    openvino     its PagedAttention operator
    ggml-python  llama.cpp's flash attention, ggml_flash_attn_ext

Threads that have finished go on looking for work in a loop, OpenMP's for some milliseconds, and
would take the cores from the library timed next. Told to sleep instead (OMP_WAIT_POLICY=passive),
they come back so late that torch and ggml lose a third to a half of their speed on two threads. So
before each turn nothing is run until no thread of the process is busy. Then the library runs for
30 ms untimed, which brings its threads to their cores, and for 30 ms timed: everybody is measured
as in a loop of calls. DISTURBED: other processes used more than a tenth of a processor meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import cycle
from pathlib import Path

import numpy as np
from peers_cases import Array, Case, Implementation, Inputs
from peers_ggml import GgmlFlashAttention
from peers_openvino import OpenVinoPagedAttention
from peers_quire import QuireFused
from peers_report import HEAD, Row, bests
from peers_torch import TorchContiguous, TorchGather

import quire

DECODE_KEYS, PREFILL_TOKENS, LONG_PREFILL, THREADS = (4096, 16384), (512, 2048), 8192, (1, 2)
# 16 keys left out of 16384 make some 2.3 %; ggml, which adds up in float16, is 1.2 % off there.
TOLERANCE = 0.02
TURN_SECONDS = 0.03
SECONDS, QUICK_SECONDS, LEAST_ROUNDS = 4.0, 0.5, 3
IDLE_STEP_SECONDS, MOST_IDLE_STEPS = 0.005, 100


@dataclass(frozen=True)
class Peer:
    """Who is compared: its package, how to make it for a case, and whether it reads blocks."""

    package: str
    make: Callable[[Inputs], Implementation]
    paged: bool


PEERS = {
    "torch SDPA, contiguous": Peer("torch", TorchContiguous, paged=False),
    "torch gather + SDPA": Peer("torch", TorchGather, paged=True),
    "OpenVINO PagedAttention": Peer("openvino", OpenVinoPagedAttention, paged=True),
    "llama.cpp flash_attn_ext": Peer("ggml-python", GgmlFlashAttention, paged=False),
}


def difference(got: Array, expected: Array) -> float:
    """RMS of the difference over RMS of what is expected."""
    return float(np.sqrt(np.square(got - expected).mean() / np.square(expected).mean()))


def reason(error: Exception) -> str:
    """The last line of its message, where libraries say what is the matter."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def peers_of(inputs: Inputs, missing: dict[str, str]) -> dict[str, Implementation]:
    """Every peer that can be made; why the others cannot goes to `missing`."""
    made = {}
    for name, peer in PEERS.items():
        if name in missing:
            continue
        try:
            made[name] = peer.make(inputs)
        except ModuleNotFoundError:
            missing[name] = f"not installed: pip install {peer.package}"
        except Exception as error:
            missing[name] = f"cannot be driven from Python: {reason(error)}"
    return made


def seconds_of_others() -> float:
    """Processor seconds all other processes have used; 0 where the system does not tell."""
    try:
        user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    except OSError:
        return 0.0
    ticks = int(user) + int(nice) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def wait_for_idle_threads() -> None:
    """Until the process uses no processor time while it sleeps; for half a second at most."""
    for _ in range(MOST_IDLE_STEPS):
        before = time.process_time()
        time.sleep(IDLE_STEP_SECONDS)
        if time.process_time() - before < IDLE_STEP_SECONDS / 10:
            return


def run_for_a_while(implementation: Implementation, copies: Iterator[int]) -> list[float]:
    """Seconds of each run that TURN_SECONDS allow; of one at least."""
    times: list[float] = []
    while sum(times) < TURN_SECONDS:
        copy = next(copies)
        begin = time.perf_counter()
        implementation.run(copy)
        times.append(time.perf_counter() - begin)
    return times


def medians(
    implementations: dict[str, Implementation], copies: int, seconds: float
) -> dict[str, float]:
    """Median seconds of a run of each; they take turns, each over its copies round and round."""
    times: dict[str, list[float]] = {name: [] for name in implementations}
    copies_of = {name: cycle(range(copies)) for name in implementations}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        rounds += 1
        for name, implementation in implementations.items():
            wait_for_idle_threads()
            run_for_a_while(implementation, copies_of[name])
            times[name] += run_for_a_while(implementation, copies_of[name])
    return {name: float(np.median(values)) for name, values in times.items()}


def compare(
    case: Case, threads: int, ours: QuireFused, peers: dict[str, Implementation], quick: bool
) -> list[Row]:
    """Check all, then time those that are right. A peer that fails leaves `peers`."""
    ours.use_threads(threads)
    expected = ours.rows(ours.run(0))
    differences: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name, peer in list(peers.items()):
        try:
            peer.use_threads(threads)
            differences[name] = difference(peer.rows(peer.run(0)), expected)
        except Exception as error:
            failures[name] = f"failed: {reason(error)}"
            del peers[name]
    right = {name: peers[name] for name, value in differences.items() if value <= TOLERANCE}
    begin, of_others = time.perf_counter(), seconds_of_others()
    times = medians({"": ours, **right}, case.copies, QUICK_SECONDS if quick else SECONDS)
    others = (seconds_of_others() - of_others) / (time.perf_counter() - begin)

    notes = dict(failures)
    for name, value in differences.items():
        notes[name] = f"{peers[name].note if name in right else 'WRONG'}; differs by {value:.2%}"
    return [
        Row(
            peer=name,
            paged=peer.paged,
            case=case,
            threads=threads,
            seconds=times.get(name),
            ours=times[""],
            others=others,
            wrong=name in differences and name not in right,
            note=notes[name],
        )
        for name, peer in PEERS.items()
        if name in notes
    ]


def rows_of(case: Case, quick: bool, missing: dict[str, str]) -> Iterator[list[Row]]:
    """The rows of a case for each number of threads, as they are measured."""
    inputs = Inputs(case)
    ours, peers = QuireFused(inputs), peers_of(inputs, missing)
    for threads in THREADS if peers else ():
        yield compare(case, threads, ours, peers, quick)


def all_cases(*, long: bool) -> list[Case]:
    """Decode, then prefill."""
    prefills = (*PREFILL_TOKENS, LONG_PREFILL) if long else PREFILL_TOKENS
    return [Case(1, keys) for keys in DECODE_KEYS] + [Case(n, n) for n in prefills]


def versions() -> dict[str, str]:
    """Of Quire and the packages that are installed."""
    found = {"quire": quire.__version__}
    for package in dict.fromkeys(peer.package for peer in PEERS.values()):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> int:
    """Print a line for each peer and case, then the best of each case."""
    parser = argparse.ArgumentParser(description="Quire against its peers on the CPU.")
    parser.add_argument("--quick", action="store_true", help="the shorter decode and prefill only")
    parser.add_argument("--long", action="store_true", help=f"also prefill {LONG_PREFILL}: minutes")
    parser.add_argument("--json", action="store_true", help="everything as JSON, nothing else")
    options = parser.parse_args()
    cases = all_cases(long=options.long)
    if options.quick:
        cases = [Case(1, DECODE_KEYS[0]), Case(PREFILL_TOKENS[0], PREFILL_TOKENS[0])]

    def show(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    show(", ".join(f"{name} {version}" for name, version in versions().items()))
    show(HEAD)
    rows: list[Row] = []
    missing: dict[str, str] = {}
    for case in cases:
        for group in rows_of(case, options.quick, missing):
            rows += group
            show("\n".join(str(row) for row in group))
    for name, why in missing.items():
        show(f"{name:25} {why}")
    best = list(bests(rows))
    for entry in best:
        show(str(entry))
    if options.json:
        lists = {"rows": [row.as_dict() for row in rows], "best": [one.as_dict() for one in best]}
        print(json.dumps({"versions": versions(), "missing": missing, **lists}, indent=2))
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
