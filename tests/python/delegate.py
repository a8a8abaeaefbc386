"""Arrays that only DLPack gets at."""

from __future__ import annotations

from typing import Any


class Delegate:
    """Hands out an array's own capsules, and nothing else of it."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)
