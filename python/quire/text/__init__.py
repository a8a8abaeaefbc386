"""Text of models: tokenizers, chat templates, words as they come, and stop strings.

    >>> from quire.text import load_tokenizer
    >>> tokenizer = load_tokenizer("SmolLM2-135M-Instruct.gguf")
    >>> tokenizer.decode(tokenizer.encode("The capital of France"))
    'The capital of France'

Needs the libraries tokenizers and, for chat templates, jinja2: pip install 'quire-kv[text]'.
"""

from quire.text.load_tokenizer import load_tokenizer
from quire.text.stop_strings import StopStrings
from quire.text.text_stream import TextStream
from quire.text.tokenizer import Tokenizer

__all__ = ["StopStrings", "TextStream", "Tokenizer", "load_tokenizer"]
