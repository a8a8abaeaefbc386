"""A decoder of transformers with Quire's cache and attention, beside its own.

    python benchmarks/transformers_generate.py [--quick] [--plain] [--dtype bfloat16] [--threads 2]

Its own is "sdpa", PyTorch's attention, over a DynamicCache. The model is a Llama with random
weights and the attention of one of 1B (Llama 3.2): width 2048, 32 query and 8 KV heads of 64, but
2 layers, with MLPs of 2048 and a vocabulary of 1000, so that attention is a larger part of a pass.
Each case is a batch of prompts of one length:

    prefill   one pass over the prompts, up to 16,384 tokens of all; once for each side, the faster
              of two where it is short. Longer ones are not read: random rows stand in the caches
    decode    passes of one token each, in turns of four with either side; the fastest of each, as
              what else a machine does only adds to them
    beams     the same, with rows reordered at random after each pass, as beam search does
    padded    decode where the prompts have a random part of the length, padded on the left

A ratio above 1 is Quire's. Memory is the keys and values at the end, and what a process of its own
grows by at most while it reads the prompts, and 8 tokens more (its peak, over the model alone).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import quire.transformers

BLOCK_SIZE, VOCABULARY, TURN = 16, 1000, 4
CASES = [(b, n) for b in (1, 8, 32) for n in (512, 2048, 8192)]
QUICK = [(1, 512), (1, 2048), (8, 512), (8, 2048), (32, 512)]
SHORT_SECONDS = 8.0
MOST_READ = 16384  # tokens of all prompts


def new_model(dtype: str) -> Any:
    """The same at every call."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=2048,
        intermediate_size=2048,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=16384,
    )
    return transformers.LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()


class Side:
    """A batch on its way through the model, with one attention and its cache."""

    def __init__(self, model: Any, attention: str, ids: Any, mask: Any, more: int) -> None:
        self.model, self.attention, self.ids, self.mask = model, attention, ids, mask
        model.set_attn_implementation(attention)
        if attention == "quire":
            blocks = -(-(ids.shape[1] + more) // BLOCK_SIZE) + 2
            filled = {"prefix_cache": True} if ids.numel() > MOST_READ else {}
            self.cache = quire.transformers.cache(model, num_blocks=blocks * len(ids), **filled)
        else:
            self.cache = transformers.DynamicCache(config=model.config)

    def step(self, tokens: Any) -> float:
        """A pass over new tokens [B, n]; its seconds."""
        self.model.set_attn_implementation(self.attention)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        begin = time.perf_counter()
        logits = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            logits_to_keep=1,
        ).logits
        seconds = time.perf_counter() - begin
        self.next = logits[:, -1].argmax(-1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        return seconds

    def prefill(self) -> float:
        """Seconds of the prompts' pass."""
        return self.step(self.ids)

    def fill(self) -> None:
        """Random keys and values of all tokens but the last, in place of a pass over them."""
        config, (batch, length) = self.model.config, self.ids.shape
        random = torch.Generator().manual_seed(3)
        heads, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, length - 1, heads, size)
        rows = [
            [torch.randn(shape, generator=random).to(self.model.dtype) for _ in range(batch)]
            for _ in range(2)
        ]
        if self.attention == "quire":
            (pool,), (prefixes,) = self.cache.pools, self.cache.prefix_caches
            for ids, k, v in zip(self.ids, *rows, strict=True):
                table = quire.BlockTable(pool)
                table.append(k, v)
                prefixes.insert(ids[:-1], table)
            del table
            self.cache.start(self.ids, self.mask)
            prefixes.clear()
        else:
            k, v = (torch.stack(of_rows, 1).transpose(2, 3) for of_rows in rows)
            for layer in range(shape[0]):
                self.cache.update(k[layer].contiguous(), v[layer].contiguous(), layer)
        del rows
        self.next = self.ids[:, -1:]

    def decode(self) -> float:
        """Seconds of one token's pass."""
        return self.step(self.next)

    def reordered(self, rows: Any) -> float:
        """Seconds of a pass and of the reordering after it."""
        seconds = self.decode()
        begin = time.perf_counter()
        self.cache.reorder_cache(rows)
        return seconds + time.perf_counter() - begin

    def kept_bytes(self) -> int:
        """Of keys and values: blocks in use, or tensors."""
        if self.attention == "quire":
            pools = self.cache.pools
            return sum(pool.nbytes // pool.num_blocks * pool.num_used for pool in pools)
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers)


def prompts(batch: int, length: int, padded: bool) -> tuple[Any, Any]:
    """Random ids and their mask."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (batch, length), generator=random)
    lengths = torch.randint(length // 8, length + 1, (batch, 1), generator=random)
    lengths[0] = length
    mask = torch.arange(length) >= length - lengths if padded else torch.ones_like(ids)
    return ids, mask.long()


def in_turns(sides: list[Side], turns: int, run: Callable[[Side], float]) -> list[float]:
    """The least seconds of each side; the first turn warms up."""
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(turns + 1):
        for side, measured in zip(sides, seconds, strict=True):
            measured += [run(side) for _ in range(TURN)] if turn else [run(side)]
    return [min(measured[1:]) for measured in seconds]


def report(name: str, batch: int, length: int, seconds: list[float]) -> None:
    """A line: what its own attention takes, what Quire takes, and the ratio."""
    own, ours = (1000 * s for s in seconds)
    print(
        f"{name:8} {batch:5} {length:6} {own:10.2f} {ours:10.2f} ms {own / ours:8.2f}", flush=True
    )


def measure(model: Any, batch: int, length: int, turns: int, *, plain: bool) -> None:
    """All lines of a case; plain: neither beams nor padded prompts."""
    more = TURN * (2 * turns + 2) + 2
    plain = plain or batch == 1
    is_read = batch * length <= MOST_READ
    for padded in (False,) if plain or not is_read else (False, True):
        ids, mask = prompts(batch, length, padded)
        sides = [Side(model, attention, ids, mask, more) for attention in ("sdpa", "quire")]
        if not is_read:
            for side in sides:
                side.fill()
        elif not padded:
            first = [side.prefill() for side in sides]
            if max(first) < SHORT_SECONDS:
                again = [Side(model, side.attention, ids, mask, more).prefill() for side in sides]
                first = [min(pair) for pair in zip(first, again, strict=True)]
            report("prefill", batch, length, first)
        else:
            for side in sides:
                side.prefill()
        seconds = in_turns(sides, turns, Side.decode)
        report("padded" if padded else "decode", batch, length, seconds)
        own, ours = (side.kept_bytes() / 2**20 for side in sides)
        print(f"{'':8} {batch:5} {length:6} {own:10.1f} {ours:10.1f} MiB{own / ours:8.2f}")
        if not plain and not padded:
            rows = torch.randint(batch, (batch,), generator=torch.Generator().manual_seed(2))
            seconds = in_turns(sides, turns, partial(Side.reordered, rows=rows))
            report("beams", batch, length, seconds)


def memory(line: str) -> float:
    """MiB that the kernel tells of this process."""
    text = Path("/proc/self/status").read_text()
    return float(text.split(line + ":")[1].split()[0]) / 1024


def peak(attention: str, batch: int, length: int, dtype: str) -> None:
    """Print the MiB that this process grows by at most, over the model alone."""
    side = Side(new_model(dtype), attention, *prompts(batch, length, False), 16)
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what it has now
    before = memory("VmRSS")
    side.prefill()
    for _ in range(8):
        side.decode()
    print(memory("VmHWM") - before)


def peak_of(attention: str, batch: int, length: int, arguments: argparse.Namespace) -> float:
    """The same, of a process of its own."""
    command = [sys.executable, __file__, "--peak", attention, str(batch), str(length)]
    command += ["--dtype", arguments.dtype, "--threads", str(arguments.threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


@torch.no_grad()
def main() -> None:
    """Measure the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--plain", action="store_true", help="neither beams nor padded prompts")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["QUIRE_NUM_THREADS"] = str(arguments.threads)
    if arguments.peak:
        attention, batch, length = arguments.peak
        peak(attention, int(batch), int(length), arguments.dtype)
        return
    model = new_model(arguments.dtype)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"{arguments.dtype}, {arguments.threads} threads")
    print(f"{'':8} batch length {'sdpa':>10} {'quire':>10} {'ratio':>11}")
    for batch, length in QUICK if arguments.quick else CASES:
        turns = 3 if arguments.quick else 6
        measure(model, batch, length, turns, plain=arguments.plain)
        if batch * length > MOST_READ:
            continue
        own, ours = (peak_of(side, batch, length, arguments) for side in ("sdpa", "quire"))
        print(f"peak     {batch:5} {length:6} {own:10.1f} {ours:10.1f} MiB{own / ours:8.2f}")


if __name__ == "__main__":
    main()
