"""Rendered prompts equal transformers' own, over templates written in the style of public model families.

transformers takes seconds to import, so it is the oracle of this module only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from histrio.errors import RequestError
from histrio_api.text.template import ChatTemplate

TEMPLATES = sorted((Path(__file__).parent / "templates").glob("*.jinja"))
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather <b>now</b> & later – 日本",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich"}}}
USER = {"role": "user", "content": '  What\'s <this> & "that"?\nSecond line 日本 🙂 '}
ASSISTANT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nAn answer. "}

CHATS: dict[str, list[dict[str, Any]]] = {
    "user": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "turns": [USER, ASSISTANT, {"role": "user", "content": "More"}],
    "system turns": [{"role": "system", "content": ""}, USER, ASSISTANT, USER, ASSISTANT, USER],
    "ends with assistant": [USER, ASSISTANT],
    "tool round": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"degrees": 21.5}', "tool_call_id": "call_1"},
    ],
    "reasoning": [USER, {"role": "assistant", "content": "Yes.", "reasoning_content": "Let me see"}],
}


@pytest.fixture(scope="module")
def oracle() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        from transformers.utils.chat_template_utils import render_jinja_template
    return render_jinja_template


def ours(source: str, chat: list[dict[str, Any]], **variables: Any) -> str | None:
    """The rendered prompt, or None if the template refuses."""
    messages = [_with_aliases(message) for message in json.loads(json.dumps(chat))]
    try:
        return ChatTemplate({"default": source}, SPECIAL).render(messages, **variables)
    except RequestError:
        return None


def theirs(oracle: Any, source: str, chat: list[dict[str, Any]], **variables: Any) -> str | None:
    try:
        rendered, _ = oracle([json.loads(json.dumps(chat))], chat_template=source, **SPECIAL, **variables)
    except Exception:
        return None
    return str(rendered[0])


def _with_aliases(message: dict[str, Any]) -> dict[str, Any]:
    """As `to_template_messages` gives it."""
    reasoning = message.get("reasoning_content")
    return message if reasoning is None else message | {"reasoning": reasoning, "thinking": reasoning}


@pytest.mark.timeout(120, method="thread")  # the first test imports transformers, seconds on a busy machine
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_chat_renders_as_transformers_renders_it(path: Path, oracle: Any) -> None:
    source = path.read_text(encoding="utf-8")
    rendered = []
    for name, chat in CHATS.items():
        for add in (True, False):
            for tools in (None, TOOLS):
                expected = theirs(oracle, source, chat, tools=tools, add_generation_prompt=add)
                got = ours(source, chat, tools=tools, add_generation_prompt=add)
                assert got == expected, (name, add, tools is not None)
                rendered.append(got)
    assert len({text for text in rendered if text}) >= 6, "too few different prompts to mean anything"


def test_variables_reach_the_template_as_in_transformers(oracle: Any) -> None:
    source = next(path for path in TEMPLATES if path.stem == "qwen3_tools").read_text(encoding="utf-8")
    plain = ours(source, CHATS["user"], add_generation_prompt=True)
    quiet = ours(source, CHATS["user"], add_generation_prompt=True, enable_thinking=False)
    assert quiet == theirs(oracle, source, CHATS["user"], add_generation_prompt=True, enable_thinking=False)
    assert quiet != plain


def test_another_environment_would_be_noticed(oracle: Any) -> None:
    """Control: jinja's defaults (no block trimming, HTML-safe `tojson`) give other prompts."""
    import jinja2

    source = next(path for path in TEMPLATES if path.stem == "llama3").read_text(encoding="utf-8")
    environment = jinja2.Environment()
    environment.globals["strftime_now"] = lambda pattern: "today"
    default = environment.from_string(source).render(
        messages=CHATS["system"], tools=TOOLS, date_string="1 Jan", **SPECIAL
    )
    assert default != theirs(oracle, source, CHATS["system"], tools=TOOLS, date_string="1 Jan")
