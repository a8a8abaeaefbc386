"""An engine's tokens a second in batches, and what of a step is not the model's.

    python benchmarks/engine_batches.py [PATH] [--weights F] [--threads N] [--tokens N] [--rounds N]

PATH is a model, as load_model takes it; by default the small one of tests/data/models. Requests
with prompts of random tokens, none of which begin alike, answer so many tokens each, all at once;
the prompts' own step is not counted. Of several rounds the fastest counts, as others may use
the machine too. The last table takes 64 requests: all that a step spends outside the forward pass,
which is choosing requests, making their room, choosing tokens, and freeing blocks.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass
from pathlib import Path

import quire

SMALL = Path(__file__).resolve().parent.parent / "tests/data/models/pystdlib-llama"
BATCHES = (1, 8, 32)
PROMPT = 16


@dataclass(frozen=True)
class Decoding:
    """Seconds of the decode steps of a batch, by part, and how many tokens they made."""

    tokens: int
    seconds: float
    schedule: float
    forward: float
    choose: float
    settle: float

    @property
    def per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def overhead(self) -> float:
        """The share of all but the model."""
        return 1 - self.forward / self.seconds


def decode(engine: quire.Engine, batch: int, tokens: int, seed: int) -> Decoding:
    """So many requests from their second token to their last."""
    numbers = random.Random(seed)
    vocabulary = engine.model.vocab_size
    requests = [
        engine.submit(
            [numbers.randrange(vocabulary) for _ in range(PROMPT)],
            max_tokens=tokens,
            ignore_eos=True,
        )
        for _ in range(batch)
    ]
    while not all(request.token_ids for request in requests):
        engine.step()
    before = engine.stats()
    begin = time.perf_counter()
    while engine.has_unfinished:
        engine.step()
    seconds = time.perf_counter() - begin
    after = engine.stats()
    return Decoding(
        after.generated_tokens - before.generated_tokens,
        seconds,
        after.schedule_seconds - before.schedule_seconds,
        after.forward_seconds - before.forward_seconds,
        after.choose_seconds - before.choose_seconds,
        after.settle_seconds - before.settle_seconds,
    )


def fastest(model: quire.Model, batch: int, options: argparse.Namespace) -> Decoding:
    engine = quire.Engine(
        model,
        max_batch_tokens=max(512, PROMPT * batch),
        prefix_cache=False,
        num_threads=options.threads,
    )
    rounds = [decode(engine, batch, options.tokens, seed) for seed in range(options.rounds)]
    return max(rounds, key=lambda decoding: decoding.per_second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", default=SMALL)
    parser.add_argument("--weights", help="as load_model's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = quire.load_model(options.path, weights=options.weights, num_threads=options.threads)
    print(f"{model!r}, prompts of {PROMPT} tokens, answers of {options.tokens}")
    print("batch   tokens/s   ms a step   outside the model")
    for batch in BATCHES:
        run = fastest(model, batch, options)
        steps = run.tokens / batch
        print(
            f"{batch:5d}{run.per_second:11.0f}{1000 * run.seconds / steps:12.3f}"
            f"{100 * run.overhead:18.1f} %"
        )
    run = fastest(model, 64, options)
    steps = run.tokens / 64
    print(f"\na step of 64 requests: {1e6 * run.seconds / steps:.0f} us")
    parts = {
        "forward": run.forward,
        "schedule": run.schedule,
        "choose": run.choose,
        "settle": run.settle,
    }
    rest = run.seconds - sum(parts.values())
    for name, seconds in {**parts, "Python": rest}.items():
        print(f"{name:10s}{1e6 * seconds / steps:10.1f} us{100 * seconds / run.seconds:8.2f} %")


if __name__ == "__main__":
    main()
