"""Which files a model's tokenizer is made of."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from quire.text.folder_tokenizer import folder_tokenizer
from quire.text.gguf_tokenizer import gguf_tokenizer
from quire.text.tokenizer import Tokenizer


def load_tokenizer(path: str | PathLike[str]) -> Tokenizer:
    """The tokenizer of a model.

    Args:
        path: a Hugging Face folder with tokenizer.json, and maybe tokenizer_config.json,
            special_tokens_map.json, added_tokens.json and chat_template.jinja; or a GGUF file.

    Returns:
        The same tokens as transformers' AutoTokenizer of the folder.

    Raises:
        FileNotFoundError: no such file, or a folder without tokenizer.json.
        ValueError: what is in the files is no tokenizer, or one of a kind that is not known.
        ImportError: the library tokenizers is missing; the message says what to install.
        TypeError: no path.

    Example:
        >>> load_tokenizer("SmolLM2-135M-Instruct.gguf").encode("The capital of France")
        [504, 3575, 282, 4649]
    """
    if not isinstance(path, (str, PathLike)):
        raise TypeError(
            f"load_tokenizer: path: got {type(path).__name__}, expected a str or os.PathLike"
        )
    place = Path(fspath(path))
    if place.is_dir():
        return folder_tokenizer(place)
    if not place.exists():
        raise FileNotFoundError(
            f"load_tokenizer: path: got {place}, expected a folder or a GGUF file"
        )
    from quire._core import gguf_metadata

    return gguf_tokenizer(gguf_metadata(place))
