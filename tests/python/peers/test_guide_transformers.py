"""Every block of the guide runs, one after the other, and what it asserts holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "transformers.md"


@pytest.mark.filterwarnings("ignore")  # what torch and transformers warn of is theirs
def test_the_guide() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
