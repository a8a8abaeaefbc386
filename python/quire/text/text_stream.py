"""Text out of tokens as they come, by bytes: a character is given out when all of it has come.

Decoders of tokenizers turn a token into bytes in one of two ways. "ByteLevel" writes each byte as
one printable character (GPT-2, "Language models are unsupervised multitask learners", 2019).
SentencePiece writes text, with U+2581 for a blank, and bytes that no token covers as <0x0A>.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Any

# Bytes that are printable characters of Latin-1 stand for themselves in a ByteLevel vocabulary, the
# others, in rising order, for the characters from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_OF_CHARACTER = {chr(byte): byte for byte in _PRINTABLE}
BYTE_OF_CHARACTER |= {chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """What each token is in bytes, of one tokenizer.

    Args:
        decoder: the "decoder" of a tokenizer.json, or None for tokens that are text as they are.

    Raises:
        ValueError: a decoder of another kind, by name.
    """

    def __init__(self, decoder: dict[str, Any] | None) -> None:
        self._steps: list[Callable[[bytes], bytes]] = []
        self._byte_level = False
        self._byte_tokens = False
        #: The blanks at the beginning of a text that belong to no word of it.
        self.leading_blanks = 0
        steps = [] if decoder is None else [decoder]
        if decoder is not None and decoder["type"] == "Sequence":
            steps = decoder["decoders"]
        fused = False
        for step in steps:
            kind = step["type"]
            if kind == "ByteLevel":
                self._byte_level = True
            elif kind == "ByteFallback":
                self._byte_tokens = True
            elif kind == "Fuse":
                fused = True
            elif kind == "Replace" and "String" in step["pattern"]:
                self._replace(step["pattern"]["String"], step["content"])
            elif kind == "Metaspace":
                self._replace(step["replacement"], " ")
                self.leading_blanks = int(step.get("prepend_scheme", "always") != "never")
            elif kind == "Strip" and fused and step["content"] == " " and step["stop"] == 0:
                self.leading_blanks = step["start"]
            else:
                raise ValueError(
                    f"stream: decoder: got {step}, expected ByteLevel, ByteFallback, Fuse, "
                    "Replace of a string, Metaspace, or Strip of leading blanks after Fuse"
                )

    def of(self, token: str) -> bytes:
        """The bytes of a token of the vocabulary."""
        if self._byte_level:
            try:
                return bytes(BYTE_OF_CHARACTER[character] for character in token)
            except KeyError:  # a token that was added to the vocabulary is text as it is
                return token.encode()
        if self._byte_tokens and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        text = token.encode()
        for step in self._steps:
            text = step(text)
        return text

    def _replace(self, old: str, new: str) -> None:
        self._steps.append(lambda text: text.replace(old.encode(), new.encode()))


class TextStream:
    """The text of tokens as they come: never half a character, and never another one later.

    All that it gives together is what Tokenizer.decode gives of the same tokens. Bytes that are not
    UTF-8 become U+FFFD as Unicode recommends (chapter 3.9, "substitution of maximal subparts");
    only there decoders that know <0x0A> differ, which turn whole runs of such tokens into U+FFFD.

    Made by Tokenizer.stream.
    """

    def __init__(
        self, token_bytes: TokenBytes, token_of: Callable[[int], str], *, continues: bool
    ) -> None:
        self._bytes = token_bytes
        self._token_of = token_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._blanks_to_drop = 0 if continues else token_bytes.leading_blanks

    def feed(self, token_id: int) -> str:
        """The characters that this token completes, maybe none.

        Raises:
            ValueError: a negative id, or one of more than 31 bits.
        """
        return self._without_leading_blanks(
            self._utf8.decode(self._bytes.of(self._token_of(token_id)))
        )

    def finish(self) -> str:
        """What is left at the end: U+FFFD for the beginning of a character, or nothing."""
        return self._without_leading_blanks(self._utf8.decode(b"", final=True))

    def _without_leading_blanks(self, text: str) -> str:
        while text and self._blanks_to_drop:
            if not text.startswith(" "):
                self._blanks_to_drop = 0
                break
            text = text[1:]
            self._blanks_to_drop -= 1
        return text
