"""A tokenizer: text to tokens and back, and conversations to text by the model's template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex

from quire.text.text_libraries import text_library
from quire.text.text_stream import TextStream, TokenBytes

if TYPE_CHECKING:
    from quire.text.chat_template import ChatTemplate


class Tokenizer:
    """Turns text into token ids and token ids into text.

    Made by load_tokenizer. Different threads may use one at the same time.

    Args:
        backend: a tokenizers.Tokenizer. chat_templates: Jinja text by name; "default" is what
            conversations take, "tool_use" those with tools. special_tokens: text by its role, as
            "bos_token"; templates see all of them.
    """

    def __init__(
        self,
        backend: Any,
        *,
        chat_templates: Mapping[str, str] | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._backend = backend
        self._chat_templates = dict(chat_templates or {})
        self._compiled: dict[str, ChatTemplate] = {}
        self.special_tokens = dict(special_tokens or {})

    def __repr__(self) -> str:
        template = "with" if self._chat_templates else "without"
        return f"Tokenizer({self.vocab_size} tokens, {template} a chat template)"

    @property
    def vocab_size(self) -> int:
        """Tokens, those that were added included. A model may have more rows of logits."""
        size: int = self._backend.get_vocab_size(with_added_tokens=True)
        return size

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text; None where there is none."""
        return self._id_of("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text; None where there is none."""
        return self._id_of("eos_token")

    @property
    def chat_template(self) -> str | None:
        """Jinja text; None for a model that is not made for conversations."""
        return self._chat_templates.get("default")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text.

        Args:
            text: any; special tokens that are written out in it become those tokens.
            add_special_tokens: whether what the model expects around a text is added, as a bos
                token. False for what apply_chat_template gives, which has it already.

        Raises:
            TypeError: not a string. ValueError: lone surrogates, which no UTF-8 has.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode: text: got {type(text).__name__}, expected a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"encode: text: got a lone surrogate at {error.start}, expected Unicode text"
            ) from error
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(
        self, token_ids: Iterable[SupportsIndex], *, skip_special_tokens: bool = True
    ) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD, ids without a token nothing.

        Raises:
            ValueError: a negative id, or one of more than 31 bits. TypeError: no ints.
        """
        if isinstance(token_ids, str) or not isinstance(token_ids, Iterable):
            raise TypeError(
                f"decode: token_ids: got {type(token_ids).__name__}, expected token ids in a list"
            )
        ids: list[int] = []
        for place, token in enumerate(token_ids):
            if not isinstance(token, SupportsIndex):
                raise TypeError(
                    f"decode: token_ids: got {type(token).__name__} at index {place}, expected an "
                    "int"
                )
            ids.append(index(token))
            self._token_of("decode", ids[-1])
        text: str = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def stream(self, *, skip_special_tokens: bool = True, continues: bool = False) -> TextStream:
        """What decode gives, as tokens come: TextStream.feed for each, TextStream.finish at last.

        Args:
            skip_special_tokens: whether special tokens are no text.
            continues: whether the tokens go on from other text, so that a blank before the first
                word, which some tokenizers drop, is kept.

        Raises:
            ValueError: a tokenizer whose decoder is not known here, by name.
        """

        def token_of(token: int) -> str:
            if skip_special_tokens and token in self._special_ids:
                return ""
            return self._token_of("stream", token)

        return TextStream(self._token_bytes, token_of, continues=continues)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """A conversation as the text that the model was trained on.

        Args:
            messages: each with "role" and mostly "content", in order.
            add_generation_prompt: whether the beginning of an answer follows.
            tools: JSON schemas of functions that the model may call.
            variables: more that the template reads, as enable_thinking.

        Returns:
            Text to encode with add_special_tokens=False: special tokens are written out in it.

        Raises:
            ValueError: no template, no messages, or what the template refuses.
            TypeError: messages that are no mappings. ImportError: jinja2 is missing.

        Example:
            >>> tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}])
            '<|im_start|>user\\nHi<|im_end|>\\n'
        """
        name = "tool_use" if tools and "tool_use" in self._chat_templates else "default"
        if name not in self._chat_templates:
            raise ValueError("apply_chat_template: got a model without a chat template")
        if isinstance(messages, (str, Mapping)) or not messages:
            raise ValueError(
                f"apply_chat_template: messages: got {messages!r}, expected a list of at least one"
            )
        for place, message in enumerate(messages):
            if not isinstance(message, Mapping):
                raise TypeError(
                    f"apply_chat_template: messages[{place}]: got {type(message).__name__}, "
                    "expected a mapping with role and content"
                )
        if name not in self._compiled:
            text_library("jinja2", "apply_chat_template")  # it is for conversations alone
            from quire.text.chat_template import ChatTemplate

            self._compiled[name] = ChatTemplate(self._chat_templates[name])
        return self._compiled[name].render(
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            **{**self.special_tokens, **variables},
        )

    def _id_of(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        found: int | None = None if token is None else self._backend.token_to_id(token)
        return found

    def _token_of(self, asked: str, token: int) -> str:
        if not 0 <= token < 1 << 31:
            raise ValueError(f"{asked}: token: got {token}, expected a token id")
        text: str | None = self._backend.id_to_token(token)
        # of the rows of logits beyond the vocabulary, to which models are padded, there is no text
        return text or ""

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        decoder = self._backend.decoder
        return TokenBytes(None if decoder is None else json.loads(decoder.__getstate__()))

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self._backend.get_added_tokens_decoder()
        return frozenset(token for token, text in added.items() if text.special)
