"""The two small real models, and what transformers computes with them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

import quire

FOLDER = Path(__file__).parent.parent / "data" / "models"
MODELS = ["pystdlib-llama", "pystdlib-qwen3_5"]


class Reference:
    """A model in float32, four prompts, and 64 greedy tokens of each."""

    def __init__(self, name: str) -> None:
        self.folder = FOLDER / name
        arrays = np.load(self.folder / "reference.npz")
        self.prompts: list[list[int]] = [arrays[f"p{i}_ids"].tolist() for i in range(4)]
        self.greedy: list[list[int]] = [arrays[f"p{i}_greedy"].tolist() for i in range(4)]

    @cached_property
    def model(self) -> quire.Model:
        return quire.load_model(self.folder, weights="float32")
