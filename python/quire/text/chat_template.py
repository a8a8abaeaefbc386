"""Chat templates: Jinja programs that come with models, run in a sandbox.

The environment is that of transformers, for which these templates are written
(huggingface.co/docs/transformers, "Writing a chat template"): blocks are trimmed, loops may break
and continue, and there are tojson, raise_exception, strftime_now and generation blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class ChatTemplate:
    """One template, ready to be filled in.

    A template is anybody's program: it has no access to attributes that begin with an underscore,
    cannot change what it is given, and sees of Python only what is passed to it.

    Args:
        source: Jinja text.

    Raises:
        ValueError: it is no template; the message has its line.
    """

    def __init__(self, source: str) -> None:
        environment = _Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationBlock, loopcontrols],
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(
            raise_exception=_raise_exception,
            strftime_now=lambda form: datetime.now().strftime(form),
            namespace=_Namespace,
        )
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ValueError(
                f"chat_template: line {error.lineno}: {error.message}, expected a Jinja template"
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        **variables: Any,
    ) -> str:
        """The text of a conversation.

        Raises:
            ValueError: what the template refuses by raise_exception, does wrong, or must not do.
        """
        try:
            text: str = self._template.render(
                # what is not said is undefined, as templates ask
                messages=[
                    {key: value for key, value in message.items() if value is not None}
                    for message in messages
                ],
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        # a template can fail in any way that a program can
        except Exception as error:
            raise ValueError(
                f"apply_chat_template: the model's template: {type(error).__name__}: {error}"
            ) from error
        return text


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox that ends in an error, not in an undefined value, which prints as nothing."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__} is unsafe")


class _GenerationBlock(Extension):
    """{% generation %} ... {% endgeneration %} marks what a model said, for training; here it is
    only text."""

    tags = {"generation"}  # noqa: RUF012 - a set is what Extension declares

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """A namespace without attributes that begin with an underscore, which could replace its own."""

    def __init__(*arguments: Any, **attributes: Any) -> None:
        self, *given = arguments
        values = dict(*given, **attributes)
        for name in values:
            _check_attribute(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"namespace attribute {name!r} is unsafe")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter writes <, > and & for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
