"""The guides to other libraries' interfaces run as they stand, each from its first block on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

GUIDES = Path(__file__).resolve().parents[3] / "docs" / "guides"


@pytest.mark.parametrize("name", ["flashinfer.md", "vllm.md"])
def test_every_block_runs(name: str) -> None:
    pytest.importorskip("torch")
    blocks = re.findall(r"```python\n(.*?)```", (GUIDES / name).read_text(), re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)


def test_the_guide_names_all_of_flashinfer() -> None:
    import quire.flashinfer as flashinfer

    text = (GUIDES / "flashinfer.md").read_text()
    missing = {name for name in flashinfer.__all__ if f"`{name}`" not in text}
    assert missing <= {"single_prefill_with_kv_cache_return_lse"}
