"""What a chat template takes, and what its tool calls look like, is told from what it renders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from histrio.errors import RequestError
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.calls.families.known import FORMATS
from histrio_api.text.template import ChatTemplate

TURN = "{{ '<' + m.role + '>' + (m.content or '') }}"
HERMES = '<tool_call>{{ {"name": c.function.name, "arguments": c.function.arguments} | tojson }}</tool_call>'
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
ASKED = {"role": "user", "content": "q"}
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


def calling(call: str, offer: str = "{{ tools | tojson }}", turn: str = TURN) -> str:
    """A template whose calls read like this."""
    return (
        "{% if tools %}" + offer + "{% endif %}{% for m in messages %}" + turn + "{% for c in m.tool_calls or [] %}"
        "{% set a = c.function.arguments %}" + call + "{% endfor %}{% endfor %}"
    )


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, {})


def is_hermes(found: ChatTemplate) -> bool:
    """Whether its calls are told to be those of Hermes, among all forms that are known."""
    written = found.written_call
    taken = None if written is None else next((each for each in FORMATS if each.recognises(written)), None)
    return taken is not None and taken.name == "hermes"


def rendered(source: str, *messages: dict[str, Any], **fields: Any) -> str:
    return template(source).render(messages, **fields)


NOT_HERMES = {
    "keys and values": "<tool_call>{{ c.function.name }}{% for k, v in a.items() %}<arg_key>{{ k }}</arg_key>"
    "<arg_value>{{ v }}</arg_value>{% endfor %}</tool_call>",
    "a list": '<tool_calls>[{{ {"name": c.function.name, "arguments": a} | tojson }}]</tool_calls>',
    "parameters": '<tool_call>{{ {"name": c.function.name, "parameters": a} | tojson }}</tool_call>',
    "an element": '<tool_call><invoke name="{{ c.function.name }}">{{ a | tojson }}</invoke></tool_call>',
    "name before": "<tool_call>{{ c.function.name }}\n{{ a | tojson }}</tool_call>",
    "python": "<tool_call>{{ {'name': c.function.name, 'arguments': a} }}</tool_call>",
    "arguments alone": "{{ a | tojson }}{# <tool_call>{}</tool_call> #}",
}


@pytest.mark.parametrize("kind", NOT_HERMES)
def test_other_calls_than_hermes_are_not_taken_for_it(kind: str) -> None:
    example = '{{ "<tool_call>{\\"name\\": …, \\"arguments\\": …}</tool_call>" }}{{ tools | tojson }}'
    assert not is_hermes(template(calling(NOT_HERMES[kind], example)))
    assert is_hermes(template(calling(HERMES, example))), "control"


def test_a_template_that_writes_no_earlier_calls_is_taken_at_its_word() -> None:
    example = '{{ "Answer with <tool_call>{…}</tool_call>" }}{{ tools | tojson }}'
    assert is_hermes(template(calling("", example)))
    assert not is_hermes(template(calling("")))
    assert not is_hermes(template(calling("", example.replace("{…}", "<function=f>"))))


def test_calls_of_tools_that_are_not_written_are_none() -> None:
    assert not is_hermes(template(calling(HERMES, offer="")))
    assert not is_hermes(template(calling(HERMES, offer="{{ raise_exception('no tools') }}")))
    assert is_hermes(template(calling(HERMES.replace("c.function.arguments", "a if a is string else a | tojson"))))
    two = ChatTemplate({"default": TURN, "tool_use": calling(HERMES)}, {})
    assert is_hermes(two), "the one for tools is asked"


PARTS_ALONE = "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
EACH_PART = "{% for p in m.content %}[{{ p.text }}]{% endfor %}"
LISTS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
    + EACH_PART
    + "{% endif %}{% endfor %}"
)
USERS_LISTS = (
    "{% for m in messages %}{% if m.role == 'user' and m.content is not string %}"
    + EACH_PART
    + "{% else %}{{ '<' + m.content + '>' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (LISTS, "<system>[one][two]<user>[one][two]"),
        (USERS_LISTS, "<one\ntwo>[one][two]"),
        ("{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}", "<one\ntwo><one\ntwo>"),
        ("{% for m in messages %}<{{ m.content }}>{% endfor %}", "<one\ntwo><one\ntwo>"),
        ("{% for m in messages %}<{{ m.content | tojson }}>{% endfor %}", r'<"one\ntwo"><"one\ntwo">'),
        (PARTS_ALONE, "[one][two]" * 2),
    ],
)
def test_lists_of_parts_reach_the_roles_that_take_them(source: str, text: str) -> None:
    assert rendered(source, {"role": "system", "content": PARTS}, {"role": "user", "content": PARTS}) == text


def test_a_text_becomes_a_part_only_where_it_would_be_lost() -> None:
    assert rendered(LISTS, ASKED) == "<user>q"
    assert rendered(PARTS_ALONE, ASKED) == "[q]"


IS_NONE = "{{ m.role }}{% if m.content is none %}(none){% else %}{{ m.content }}{% endif %}"


@pytest.mark.parametrize(
    ("turn", "text"),
    [
        (IS_NONE, "userqassistant(none)"),
        ("{{ m.role + m.content }}", "userqassistant"),
        ("{{ m.role }}{{ m.content }}", "userqassistant"),
        ("{{ m.role }}{{ m.content | trim }}", "userqassistant"),
        ("{{ m.role }}{{ m.content if m.content is string else m.content | tojson }}", "userqassistant"),
        ("{{ m.role }}{% if m.content %}{{ m.content }}{% endif %}", "userqassistant"),
    ],
)
def test_no_content_beside_calls_is_null_for_templates_that_know_it(turn: str, text: str) -> None:
    source = calling("{{ a | tojson }}", turn=turn)
    assert rendered(source, ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}) == text + '{"x": 1}'


@pytest.mark.parametrize("call", ["{{ '(' + a + ')' }}", "({{ a }})", "({{ a if a is string else a | tojson }})"])
def test_arguments_are_texts_for_templates_that_take_no_objects(call: str) -> None:
    assert (
        rendered(calling(call), {"role": "assistant", "content": "", "tool_calls": [CALL]}) == '<assistant>({"x": 1})'
    )


@pytest.mark.parametrize("call", ["{% for k, v in a.items() %}{{ k }}={{ v }}{% endfor %}", "{{ a | items | list }}"])
def test_arguments_that_are_no_object_are_shown_by_templates_that_go_through_them(call: str) -> None:
    broken = CALL | {"function": {"name": "add", "arguments": '{"x": '}}
    assert '{"x": ' in rendered(calling(call), {"role": "assistant", "content": "", "tool_calls": [broken]})


def test_a_refusal_is_that_of_the_form_that_the_template_takes() -> None:
    source = "{{ raise_exception('only users') if messages[0].role != 'user' else 'ok' }}"
    with pytest.raises(RequestError, match="only users"):
        rendered(source, {"role": "system", "content": PARTS})


def test_names_that_a_template_sets_are_none_of_its_variables() -> None:
    source = (
        "{% for m in messages %}{% set content = m.content %}{{ content }}{% endfor %}{{ content }}"
        "{% if thinking is not defined %}{% set thinking = false %}{% endif %}{{ thinking }}"
        "{% set date = date | default('today') %}{{ date }}{{ effort }}"
        "{% macro show(part) %}{{ part if part is defined }}{% endmacro %}{% set part = 1 %}{{ show(part) }}"
    )
    assert template(source).variables == {"thinking", "date", "effort"}


@pytest.fixture(scope="module")
def other_calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("other_calls")
    write_tokenizer(folder, chat_template=calling(NOT_HERMES["name before"]))
    gateway = ScriptedGateway(served_model(folder), lambda submission, choice: saying([5]))
    with running_endpoint(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_tools_are_a_400_that_says_what_is_missing(other_calls: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "add"}}]
    chat: Any = {"model": "test/scripted", "messages": [ASKED]}
    with pytest.raises(openai.BadRequestError, match="tool-parser") as caught:
        other_calls.chat.completions.create(tools=tools, **chat)
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
    other_calls.chat.completions.create(tools=tools, tool_choice="none", **chat)
