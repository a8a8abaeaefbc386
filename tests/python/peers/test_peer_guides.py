"""The guides to other libraries' interfaces name all that there is. That their code runs is tested
with all other pages, in test_docs.py."""

from __future__ import annotations

from pathlib import Path

GUIDES = Path(__file__).resolve().parents[3] / "docs" / "guides"


def test_the_guide_names_all_of_flashinfer() -> None:
    import quire.flashinfer as flashinfer

    text = (GUIDES / "flashinfer.md").read_text()
    missing = {name for name in flashinfer.__all__ if f"`{name}`" not in text}
    assert missing <= {"single_prefill_with_kv_cache_return_lse"}
