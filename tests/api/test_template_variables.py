"""What clients say of reasoning becomes the variable that the chat template has, or is named as ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from histrio.errors import RequestError
from histrio_api.request.fields import split_fields
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.template_variables import template_variables
from histrio_api.schemas.chat import ChatRequest
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "Hi"}]
SWITCHED = {"enable_thinking", "other"}
DEEPSEEK = {"thinking"}
GPT_OSS = {"reasoning_effort"}


def variables_of(known: set[str], *, is_strict: bool = False, **fields: Any) -> tuple[dict[str, Any], list[str]]:
    ignored = IgnoredFields(is_strict=is_strict)
    chat, _ = split_fields({"messages": HELLO} | fields, ChatRequest, frozenset(), ignored=ignored)
    return template_variables(known, chat, ignored), ignored.paths


@pytest.mark.parametrize(
    ("known", "fields", "expected"),
    [
        (SWITCHED, {"enable_thinking": False}, {"enable_thinking": False}),
        (SWITCHED, {"thinking": True}, {"enable_thinking": True}),
        (SWITCHED, {"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        (SWITCHED, {"think": False}, {"enable_thinking": False}),
        (SWITCHED, {"reasoning": {"enabled": False}}, {"enable_thinking": False}),
        (SWITCHED, {"reasoning_effort": "none"}, {"enable_thinking": False}),
        (SWITCHED, {"chat_template_kwargs": {"other": [1]}}, {"other": [1]}),
        (SWITCHED, {"think": True, "chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}),
        (DEEPSEEK, {"enable_thinking": True}, {"thinking": True}),
        (DEEPSEEK, {"thinking": {"type": "enabled"}}, {"thinking": True}),
        (GPT_OSS, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (GPT_OSS, {"reasoning_effort": "none"}, {"reasoning_effort": "none"}),
        (GPT_OSS, {"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (GPT_OSS, {"think": "medium"}, {"reasoning_effort": "medium"}),
        (SWITCHED, {"reasoning": {"exclude": True}}, {}),
    ],
)
def test_a_wish_becomes_the_variable_that_the_template_has(
    known: set[str], fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert variables_of(known, is_strict=True, **fields) == (expected, [])


@pytest.mark.parametrize(
    ("known", "fields", "path"),
    [
        (SWITCHED, {"reasoning_effort": "high"}, "reasoning_effort"),
        (SWITCHED, {"reasoning": {"effort": "low"}}, "reasoning.effort"),
        (SWITCHED, {"thinking": {"type": "adaptive"}}, "thinking"),
        (SWITCHED, {"chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs.thinking"),
        (GPT_OSS, {"enable_thinking": False}, "enable_thinking"),
        (GPT_OSS, {"think": True}, "think"),
        (set(), {"reasoning_effort": "none"}, "reasoning_effort"),
        (set(), {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ],
)
def test_a_wish_without_a_variable_is_named(known: set[str], fields: dict[str, Any], path: str) -> None:
    assert variables_of(known, **fields) == ({}, [path])
    with pytest.raises(RequestError) as caught:
        variables_of(known, is_strict=True, **fields)
    assert caught.value.param == path


@pytest.mark.parametrize(
    ("known", "fields", "param"),
    [
        (SWITCHED, {"enable_thinking": True, "think": False}, "think"),
        (SWITCHED, {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "enable_thinking"),
        (GPT_OSS, {"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        (GPT_OSS, {"reasoning_effort": 3}, "reasoning_effort"),
        (SWITCHED, {"enable_thinking": "yes"}, "enable_thinking"),
    ],
)
def test_wishes_that_contradict_each_other_or_are_none_are_refused(
    known: set[str], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        variables_of(known, **fields)
    assert caught.value.param == param


def test_the_prompt_has_what_was_asked_for_and_the_header_what_was_not(tmp_path: Path) -> None:
    template = "{{ reasoning_effort | default('medium') }}: {{ messages[0].content }}"
    write_tokenizer(tmp_path, chat_template=template)
    gateway = ScriptedGateway(served_model(tmp_path), lambda submission, choice: saying([5]))
    tokenizer = Tokenizer.load(tmp_path)
    with running_endpoint(gateway) as url:
        for fields, prompt, header in (
            ({}, "medium: Hi", None),
            ({"reasoning_effort": "low"}, "low: Hi", None),
            ({"reasoning": {"effort": "low"}, "enable_thinking": True}, "low: Hi", "enable_thinking"),
        ):
            answer = httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO} | fields)
            assert answer.headers.get("x-histrio-ignored") == header
            assert tokenizer.decode(gateway.submissions[-1].ids) == prompt
