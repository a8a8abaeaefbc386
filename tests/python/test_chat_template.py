"""Chat templates: the text that transformers makes of them, and templates that mean harm."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from text_cases import CHATML, LLAMA

from quire.text import Tokenizer

tokenizers: Any = pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

# Made for this test, in the ways that the families' own templates are written.
TEMPLATES = {
    "chatml": CHATML,
    "llama 3": """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" + system + "<|eot_id|>" }}
{%- if tools is not none and tools %}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """\
{{ bos_token }}{% for message in messages %}
  {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate: user, assistant, user') }}
  {% endif %}
  {% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + ' [/INST]' }}
  {% elif message['role'] == 'assistant' %}
{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}
  {% else %}
    {{- raise_exception('Only user and assistant roles are supported!') -}}
  {% endif %}
{% endfor %}""",
    "gemma": """\
{{ bos_token }}
{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}
{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
    "what is not said": """\
{% for message in messages %}
{{ message.role }} {{ message.content is defined }} {{ message.content | default('nothing') }}
{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}
{% endfor %}
{{ tools is none }} {{ (tools or []) | length }}""",
    "loops, namespaces and macros": """\
{%- macro say(message) -%}{{ message.role | upper }}: {{ message.content }}{%- endmacro -%}
{%- set seen = namespace(count=0, last=none) -%}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}{%- continue -%}{%- endif -%}
  {%- if seen.count >= 2 -%}{%- break -%}{%- endif -%}
  {%- set seen.count = seen.count + 1 -%}{%- set seen.last = message.role -%}
  {{ say(message) }}|{{ messages | length }}
{% endfor -%}
{{ seen.count }} {{ seen.last }} {{ strftime_now('%Y') | length }} {{ missing is defined }}
{{ {'a<b': ['é', 1.5, none, true]} | tojson }} {{ tools is none }}
{{ enable_thinking | default(7) }}
""",
}

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": " <b>&amp; 'x' "}, {"role": "assistant", "content": "y\n"}],
    [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "日本 🙂"},
    ],
    [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi"}],
]
CALLING = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": {"a": 1}}]},
    {"role": "user", "content": "Well?"},
]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"é": "<int>"}}}


def tokenizer_with(template: str | None) -> Tokenizer:
    backend = tokenizers.Tokenizer.from_file(str(LLAMA / "tokenizer.json"))
    templates = {} if template is None else {"default": template}
    return Tokenizer(backend, chat_templates=templates, special_tokens=SPECIAL)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(LLAMA / "tokenizer.json"), chat_template=TEMPLATES[name], **SPECIAL
    )
    ours = tokenizer_with(TEMPLATES[name])
    made = 0
    for conversation in [*CONVERSATIONS, *([CALLING] if name == "what is not said" else [])]:
        for prompt in (True, False):
            for tools in (None, [TOOL]):
                try:
                    expected = theirs.apply_chat_template(
                        conversation, tools=tools, add_generation_prompt=prompt, tokenize=False
                    )
                except Exception as refused:  # of jinja2, by raise_exception
                    with pytest.raises(ValueError, match=str(refused)):
                        ours.apply_chat_template(conversation, tools=tools)
                    continue
                made += 1
                assert expected == ours.apply_chat_template(
                    conversation, tools=tools, add_generation_prompt=prompt
                )
    assert made >= 8


def test_chatml() -> None:
    text = tokenizer_with(CHATML).apply_chat_template(CONVERSATIONS[0], add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_variables_of_the_call_come_before_those_of_the_model() -> None:
    tokenizer = tokenizer_with("{{ bos_token }} {{ eos_token }} {{ enable_thinking }}")
    options = {"enable_thinking": False, "eos_token": "E"}
    assert tokenizer.apply_chat_template(CONVERSATIONS[0], **options) == "<s> E False"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ ('' | attr('__cl' + 'ass__')).__mro__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ '{a.__class__}'.format_map({'a': messages}) }}",
        "{% set x = namespace(__class__=1) %}",
        "{% set x = namespace() %}{% set x.__class__ = 1 %}",
        "{{ messages.append(1) }}",
        "{{ messages.clear() }}",
        "{{ messages[0].update(role='system') }}",
        "{{ messages[0].pop('role') }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% include 'other' %}",
        "{% import 'os' as os %}",
        "{{ open('x') }}",
        "{{ 1 / 0 }}",
        "{{ missing.attribute }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_hostile_templates(template: str) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(ValueError, match=r"apply_chat_template: the model's template: [A-Z]"):
        tokenizer_with(template).apply_chat_template(messages)
    assert messages == [{"role": "user", "content": "Hi"}]


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_with(CHATML)
    for messages in ([], "Hi", {"role": "user"}):
        with pytest.raises(ValueError, match=r"messages: got .*, expected a list of at least one"):
            tokenizer.apply_chat_template(messages)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"messages\[1\]: got str, expected a mapping with role"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}, "b"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="got a model without a chat template"):
        tokenizer_with(None).apply_chat_template(CONVERSATIONS[0])
    with pytest.raises(ValueError, match=r"chat_template: line 2: .*, expected a Jinja template"):
        tokenizer_with("\n{% if %}").apply_chat_template(CONVERSATIONS[0])
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "quire.text.chat_template")
    with pytest.raises(
        ImportError, match=r"needs jinja2, expected: pip install 'quire-kv\[text\]'"
    ):
        tokenizer_with(CHATML).apply_chat_template(CONVERSATIONS[0])


def test_what_a_template_sees_is_json() -> None:
    tokenizer = tokenizer_with("{{ messages | tojson }}")
    message = {"role": "user", "content": [{"type": "text", "text": "é</s>"}]}
    assert json.loads(tokenizer.apply_chat_template([message])) == [message]
