"""The libraries that text needs, which are optional: each is asked for where it is first used."""

from __future__ import annotations

import importlib
from typing import Any


def text_library(name: str, asked: str) -> Any:
    """The module of this name.

    Args:
        name: "tokenizers" or "jinja2", or a module of one of them. asked: who needs it.

    Raises:
        ImportError: it is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        raise ImportError(
            f"{asked}: needs {library}, expected: pip install 'quire-kv[text]'"
        ) from error
