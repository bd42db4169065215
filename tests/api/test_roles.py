"""Roles go to the template if it takes them; old spellings of tools and answers sent back are understood."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from histrio.errors import RequestError
from histrio_api.request.functions import with_tools
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.messages import ChatMessage, FunctionCall
from histrio_api.schemas.tools import FunctionDefinition, NamedTool, ToolDefinition, ToolName
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.messages import to_template_messages
from histrio_api.text.template import ChatTemplate
from histrio_api.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tests.api.conftest import Endpoint

ANY = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
SOME = (
    "{% for m in messages %}{% if m.role in ('user', 'critic') %}<{{ m.role }}>{{ m.content }}"
    "{% elif m.role == 'judge' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
)


def roles_of(template: str, *roles: str) -> list[str]:
    messages = [ChatMessage(role=role, content="x") for role in roles]
    return [each["role"] for each in to_template_messages(messages, ChatTemplate({"default": template}, {}).takes_role)]


def test_a_role_goes_to_a_template_that_takes_it() -> None:
    assert roles_of(ANY, "critic", "user") == ["critic", "user"]
    assert roles_of(SOME, "critic") == ["critic"]
    for template, role in ((SOME, "witness"), (SOME, "judge"), (ANY, ""), (ANY, "a<|end|>"), (ANY, "a" * 33)):
        with pytest.raises(RequestError, match="no such role") as caught:
            roles_of(template, "user", role)
        assert caught.value.param == "messages[1].role"


def test_roles_that_templates_need_not_have_are_read_as_others() -> None:
    assert roles_of(ANY, "developer", "function") == ["system", "tool"]
    assert roles_of(ANY + "{# developer #}", "developer") == ["developer"]


def test_no_more_than_some_roles_are_tried() -> None:
    template = ChatTemplate({"default": ANY}, {})
    taken = [template.takes_role(f"role{at}") for at in range(80)]
    assert taken == [True] * 64 + [False] * 16
    assert template.takes_role("role0")
    assert template.takes_role("user")


def test_an_answer_is_taken_back_with_content_that_is_null(endpoint: Endpoint) -> None:
    hello = {"role": "user", "content": "Hi"}
    answer = {"role": "assistant", "content": None, "reasoning_content": "Hm."}
    assert endpoint.chat(messages=[hello, answer, hello]).status_code == 200
    prompt = endpoint.tokenizer.decode(endpoint.gateway.submissions[-1].ids, skip_special=False)
    assert "<|im_start|>assistant\n<|im_end|>" in prompt
    refused = endpoint.chat(messages=[hello, {"role": "assistant", "content": None}])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages[1].content"), "control"


def test_an_earlier_function_call_is_a_call_of_a_tool() -> None:
    call = FunctionCall(name="f", arguments="{}")
    messages = [
        ChatMessage(role="assistant", function_call=call),
        ChatMessage(role="function", name="f", content="1"),
    ]
    calling, result = to_template_messages(messages, ChatTemplate({"default": ANY}, {}).takes_role)
    assert calling["tool_calls"] == [{"id": "", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    assert result == {"role": "tool", "name": "f", "content": "1"}


F = FunctionDefinition(name="f")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"functions": [F]}, {"tools": [ToolDefinition(function=F)]}),
        ({"functions": [F], "function_call": "none"}, {"tools": [ToolDefinition(function=F)], "tool_choice": "none"}),
        (
            {"functions": [F], "function_call": ToolName(name="f")},
            {"tools": [ToolDefinition(function=F)], "tool_choice": NamedTool(function=ToolName(name="f"))},
        ),
        ({"function_call": "auto"}, {}),
    ],
)
def test_functions_become_tools(given: dict[str, Any], expected: dict[str, Any]) -> None:
    old, new = ChatRequest(messages=[], **given), ChatRequest(messages=[], **expected)
    found = with_tools(old)
    assert (found.tools, found.tool_choice) == (new.tools, new.tool_choice)
    assert with_tools(new) is new


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"functions": [F], "tools": [ToolDefinition(function=F)]}, "functions"),
        ({"function_call": "auto", "tool_choice": "none"}, "function_call"),
    ],
)
def test_both_spellings_are_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        with_tools(ChatRequest(messages=[], **given))
    assert caught.value.param == param


def test_the_function_reaches_the_prompt(tmp_path: Path) -> None:
    template = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
    write_tokenizer(tmp_path, chat_template=template)
    gateway = ScriptedGateway(served_model(tmp_path), lambda submission, choice: saying([5]))
    body = {"messages": [{"role": "user", "content": "x"}], "functions": [{"name": "probe_function"}]}
    with running_endpoint(gateway) as url:
        for fields in ({}, {"function_call": "none"}):
            assert httpx.post(f"{url}/v1/chat/completions", json=body | fields).status_code == 200
    prompts = [Tokenizer.load(tmp_path).decode(each.ids) for each in gateway.submissions]
    assert ["probe_function" in prompt for prompt in prompts] == [True, False]
