"""What PrefixCache.on_event tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PrefixEvent:
    """A node of a prefix cache is there, or has gone: the tokens of a block, or fewer at an end.

    Attributes:
        kind: "stored" or "removed". A node is stored again when a hole gets a block, and removed
            once, after all that stand below it.
        node: its number, until it is removed; later another node may have it.
        parent: the node whose tokens stand before these; None at the beginning of a sequence.
        token_ids: at most block_size of them.
        namespace: of a node without a parent; None of others, which are in that of their parent.
        block: of the pool; None where the tokens only lead to others, as their block was dropped.

    Example:
        >>> known = {}
        >>> def follow(event):
        ...     before = known.get(event.parent, ())
        ...     if event.kind == "stored":
        ...         known[event.node] = before + event.token_ids
        ...     else:
        ...         del known[event.node]
        >>> cache.on_event(follow)
    """

    kind: Literal["stored", "removed"]
    node: int
    parent: int | None
    token_ids: tuple[int, ...]
    namespace: str | None
    block: int | None
