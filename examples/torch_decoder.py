"""A decoder in PyTorch whose keys and values lie in Quire's blocks: a Step for each pass.

Two prompts are read together and get eight tokens each; PyTorch's own attention over the whole
sequences, without a cache, gives the same ones.

    python examples/torch_decoder.py
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import quire

LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 3, 8, 2, 32, 100
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Layer(nn.Module):
    """Attention and a small network, each beside the stream. Positions are left out."""

    def __init__(self) -> None:
        super().__init__()
        width = HEADS * HEAD_DIM
        self.qkv = nn.Linear(width, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
        self.out = nn.Linear(width, width)
        self.network = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, width), nn.SiLU())

    def forward(self, x: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Rows [T, width] of all sequences, one after the other."""
        heads = self.qkv(nn.functional.rms_norm(x, x.shape[-1:])).unflatten(-1, (-1, HEAD_DIM))
        x = x + self.out(attend(*heads.split([HEADS, KV_HEADS, KV_HEADS], dim=1)).flatten(1))
        return x + self.network(x)


class Decoder(nn.Module):
    """Tokens [T] to logits [T, VOCABULARY]; attend(layer, q, k, v) is somebody else's affair."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HEADS * HEAD_DIM)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(HEADS * HEAD_DIM, VOCABULARY)

    def forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        x = self.embedding(tokens)
        for i, layer in enumerate(self.layers):
            x = layer(x, lambda q, k, v, i=i: attend(i, q, k, v))
        return self.head(x)


def cached_pass(model: Decoder, tables: list[quire.BlockTable], new: list[list[int]]) -> Tensor:
    """Logits after the last new token of each sequence, whose tables grow by the new tokens."""
    lengths = [len(tokens) for tokens in new]
    with quire.Step(tables, lengths) as step:

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = torch.empty_like(q)  # Quire writes into the tensor's memory
            step.attend(q, k, v, layer=layer, out=out)
            return out

        logits = model(torch.cat([torch.tensor(tokens) for tokens in new]), attend)
    return logits[torch.tensor(list(accumulate(lengths))) - 1]


def plain_attention(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention of one sequence, all of whose tokens are there."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


@torch.no_grad()
def main() -> None:
    """Generate with the cache, compare with whole passes."""
    torch.manual_seed(0)
    model = Decoder()
    pool = quire.BlockPool(
        16, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, num_layers=LAYERS, dtype="float32"
    )
    tables = [quire.BlockTable(pool) for _ in range(2)]
    sequences = [torch.randint(VOCABULARY, (n,)).tolist() for n in (37, 5)]
    new, worst = [list(tokens) for tokens in sequences], 0.0
    for _ in range(8):
        logits = cached_pass(model, tables, new)
        for tokens, row in zip(sequences, logits, strict=True):
            expected = model(torch.tensor(tokens), plain_attention)[-1]
            worst = max(worst, float((row - expected).abs().max()))
            assert int(row.argmax()) == int(expected.argmax())
            tokens.append(int(row.argmax()))
        new = [tokens[-1:] for tokens in sequences]
    print(f"{pool.num_used} of {pool.num_blocks} blocks are in use by {tables}")
    print("same tokens as without a cache:", worst < 1e-4)


if __name__ == "__main__":
    main()
