"""Models that say for whom each part of an answer is: the client sees what is for it, and the calls of its tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from histrio_api.testing import Script, ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.tokenizer import Tokenizer

MODEL = "test/scripted"
TEMPLATE = """{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>
{% if m.role == 'assistant' %}{% if m.content %}>>>all
{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}>>>{{ c.function.name }}
{{ c.function.arguments }}{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<assistant>
>>>{% endif %}"""
HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def addressing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[openai.OpenAI, list[str], ScriptedGateway]]:
    """A client, a list for what the model says, and the gateway."""
    folder: Path = tmp_path_factory.mktemp("addressing")
    write_tokenizer(folder, chat_template=TEMPLATE)
    tokenizer = Tokenizer.load(folder)
    says: list[str] = []

    def script(submission: Any, choice: int) -> Script:
        return saying(tokenizer.encode(says[-1], add_special=False))

    gateway = ScriptedGateway(served_model(folder), script)
    with running_endpoint(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client, says, gateway


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "text", "calls"),
    [
        ("all\nHello >>> you", "Hello >>> you", []),
        ('add\n{"a": 1}', "", [("add", '{"a": 1}')]),
        ('all\nI add.>>>add\n{"a": 1}>>>add\n{"a": 2}', "I add.", [("add", '{"a": 1}'), ("add", '{"a": 2}')]),
    ],
)
def test_a_chat_has_what_is_for_its_client(
    addressing: tuple[openai.OpenAI, list[str], ScriptedGateway],
    said: str,
    text: str,
    calls: list[tuple[str, str]],
    stream: bool,
) -> None:
    client, says, _ = addressing
    says.append(said)
    found_text, found = "", [("", "")]
    answer: Any = client.chat.completions.create(model=MODEL, messages=HELLO, tools=TOOLS, stream=stream)
    for choice in [chunk.choices[0] for chunk in (answer if stream else [answer])]:
        message = choice.delta if stream else choice.message
        found_text += message.content or ""
        for call in message.tool_calls or []:
            found += [(call.function.name, "")] if call.function.name else []
            found[-1] = (found[-1][0], found[-1][1] + (call.function.arguments or ""))
    assert (found_text.strip(), found[1:]) == (text, calls)


def test_without_tools_nothing_is_a_call(addressing: tuple[openai.OpenAI, list[str], ScriptedGateway]) -> None:
    client, says, gateway = addressing
    for said, text in (("all\nHello", "Hello"), ("Hello", "Hello"), ("add\n{}", "add\n{}")):
        says.append(said)
        answer = client.chat.completions.create(model=MODEL, messages=HELLO)
        assert answer.choices[0].message.content == text
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    prompt = Tokenizer.load(gateway.model.path).decode(gateway.submissions[-1].ids)
    assert prompt.endswith("<assistant>\n>>>")
