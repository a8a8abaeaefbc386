"""Several prompts at once through one engine: a batch that others join, shared prefixes, pressure.

    python examples/engine_batch.py [PATH]

PATH is a model, as quire.load_model takes it; by default a small one that knows Python's standard
library. Token ids stand for text here: the engine needs no tokenizer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import quire

SMALL = Path(__file__).resolve().parent.parent / "tests/data/models/pystdlib-llama"


def prompts_of(model: quire.Model) -> list[list[int]]:
    """Five, the last three of which begin alike."""
    numbers = np.random.default_rng(0)

    def tokens(n: int) -> list[int]:
        return [int(token) for token in numbers.integers(0, model.vocab_size, n)]

    shared = tokens(40)
    return [tokens(5), tokens(30), shared + tokens(3), shared + tokens(4), shared + tokens(5)]


def main() -> None:
    model = quire.load_model(sys.argv[1] if len(sys.argv) > 1 else SMALL)
    prompts = prompts_of(model)
    options = {"max_tokens": 12, "ignore_eos": True}

    # Steps by hand: whoever comes later joins the batch.
    engine = quire.Engine(model, num_blocks=256, max_batch_tokens=64)
    requests = [engine.submit(prompt, **options) for prompt in prompts[:3]]
    while engine.has_unfinished:
        answered = engine.step()
        if len(requests) < len(prompts) and requests[2].token_ids:
            requests += [engine.submit(prompt, **options) for prompt in prompts[3:]]
        print(f"step {engine.stats().steps}: {[request.id for request in answered]}")
    print("found in the prefix cache:", [request.num_cached_tokens for request in requests])

    # All at once in a pool that holds hardly two of them: some wait, some are preempted.
    longer = {**options, "max_tokens": 40}
    small = quire.Engine(model, num_blocks=7, prefix_cache=False)
    under_pressure = small.generate(prompts, **longer)
    lengths = [len(request.token_ids) for request in under_pressure]
    print(f"answers of {lengths} tokens, with preemptions: {small.stats().preemptions > 0}")


if __name__ == "__main__":
    main()
