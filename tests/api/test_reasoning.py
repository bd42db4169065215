"""Reasoning: what stands between `<think>` and `</think>` is told apart from the answer, and no grammar binds it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histrio.contracts.honours import Honours
from histrio.messages import Reasoning
from histrio.plugins.registry import installed_plugins
from histrio_api.service import service
from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.reasoning import MarkedReasoning
from histrio_api.text.reasoning_formats import FORMATS
from histrio_api.text.template import ChatTemplate
from histrio_api.text.tokenizer import Tokenizer
from histrio_grammars.backend import Llguidance

TEMPLATE = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
OPENS = "{{ messages[0].content }}<a>{% if thinking %}<think>\n{% endif %}{# </think> #}"
HELLO: Any = [{"role": "user", "content": "Hello"}]
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def parse(reasoning: Reasoning, pieces: list[str]) -> tuple[str, str]:
    parser = MarkedReasoning(reasoning)
    found = [*(parser.push(piece) for piece in pieces), parser.flush()]
    return "".join(reasoning for reasoning, _ in found), "".join(answer for _, answer in found)


CASES: list[tuple[Reasoning, str, tuple[str, str]]] = [
    ("maybe", "<think>\nLet me see.\n\nSo.\n</think>\n\nHello", ("Let me see.\n\nSo.", "Hello")),
    ("maybe", "\n<think>a</think>b", ("a", "b")),
    ("maybe", "<think>\n\n</think>\n\n\nb", ("", "\nb")),
    ("maybe", "<thin", ("", "<thin")),
    ("maybe", "</think>\n\nHello </think>", ("", "Hello </think>")),
    ("maybe", "</think", ("", "</think")),
    ("maybe", "\n\n<think>a</think>", ("", "\n\n<think>a</think>")),
    ("maybe", "Hello <think>a</think>", ("", "Hello <think>a</think>")),
    ("already", "\nhm\n</thin>\n</think>\n\nHello </think>", ("hm\n</thin>", "Hello </think>")),
    ("already", "cut short\n</th", ("cut short\n</th", "")),
    ("already", "cut short\n", ("cut short", "")),
    ("never", "<think>a</think>\n\nb", ("", "<think>a</think>\n\nb")),
]


@pytest.mark.parametrize(("reasoning", "text", "expected"), CASES)
def test_reasoning_is_told_from_the_answer(reasoning: Reasoning, text: str, expected: tuple[str, str]) -> None:
    assert parse(reasoning, [text]) == expected


@given(st.sampled_from(CASES), st.lists(st.integers(0, 60), max_size=12))
def test_it_does_not_matter_how_the_answer_is_cut(case: Any, cuts: list[int]) -> None:
    reasoning, text, expected = case
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert parse(reasoning, [text[start:end] for start, end in pairwise(bounds)]) == expected


WRAPPED = [
    ("command", "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>a <b<|END_RESPONSE|>", "hm", "a <b"),
    ("command", "<|START_RESPONSE|><|START_RESP", "", "<|START_RESP"),
    ("command", "<|ST<|END_RESPONSE|>ART_RESPONSE|>", "", "<|START_RESPONSE|>"),
    (
        "kimi-k3",
        "<|open|>think<|sep|>hm<|close|>think<|sep|><|open|>response<|sep|>Yes<|close|>response<|sep|><|open|>tools",
        "hm",
        "Yes<|open|>tools",
    ),
    ("apertus", "<|inner_prefix|>hm<|inner_suffix|>Yes", "hm", "Yes"),
    ("hunyuan", "<think:opensource>hm</think:opensource>Yes", "hm", "Yes"),
    ("minimax-m3", "<mm:think>\nhm</mm:think>\n\nYes", "hm", "Yes"),
    ("apriel", "Here are my reasoning steps:\nhm\n[BEGIN FINAL RESPONSE]\nYes\n[END FINAL RESPONSE]", "hm", "Yes\n"),
    ("functionary-v3.2", "all\nYes >>> all\n>>>all\nNo >", "", "Yes >>> all\nNo >"),
    ("functionary-v3.2", "al", "", "al"),
]
"""Reasoning format, answer, and what of it is reasoning and what is said."""


@pytest.mark.parametrize(("name", "answer", "reasoning", "said"), WRAPPED)
def test_marks_around_what_is_said_are_left_out_however_it_is_cut(
    name: str, answer: str, reasoning: str, said: str
) -> None:
    (chosen,) = [each for each in FORMATS if each.name == name]
    cuts = [[answer], list(answer), *([answer[:at], answer[at:]] for at in range(1, len(answer)))]
    for pieces in cuts:
        parser = chosen.parser("maybe", False)
        found = [*(parser.push(each) for each in pieces), parser.flush()]
        assert ("".join(each for each, _ in found), "".join(each for _, each in found)) == (reasoning, said)
    plain = MarkedReasoning("maybe")
    assert plain.push(answer)[1] + plain.flush()[1] == answer, "a control: another format leaves all as it is"


@pytest.mark.parametrize(
    ("source", "knows", "unasked"),
    [
        ("{{ messages[0].content }}", False, False),
        (TEMPLATE, True, True),
        (OPENS, True, False),
        (OPENS.replace("{% if thinking %}", "").replace("{% endif %}", ""), True, False),
        ("{{ messages[0].content.split('</think>')[-1] }}<a>", True, True),
    ],
)
def test_a_template_tells_whether_the_model_reasons(source: str, knows: bool, unasked: bool) -> None:
    template = ChatTemplate({"default": source}, {})
    taken = next((each for each in FORMATS if each.recognises(template.written_answer)), None)
    assert (taken is not None, taken is not None and template.reasons_unasked("<think>")) == (knows, unasked)


class Thinker:
    """An endpoint over a gateway that says what a test writes, and enforces all grammars as far as it says."""

    def __init__(self, folder: Path, gateway: ScriptedGateway, url: str) -> None:
        self.gateway = gateway
        self.tokenizer = Tokenizer.load(folder)
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.http = httpx.Client(base_url=url, timeout=30)

    def says(self, text: str) -> None:
        ids = self.tokenizer.encode(text, add_special=False)
        self.gateway.script = lambda submission, choice: saying(ids, num_logprobs=submission.ask.num_logprobs)

    def chat(self, stream: bool, **fields: Any) -> tuple[Any, Any, list[str], str]:
        """reasoning_content, content, names of called tools, finish_reason."""
        body = {"model": "test/scripted", "messages": HELLO} | fields
        if not stream:
            answer = self.http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            (choice,) = answer.json()["choices"]
            message = choice["message"]
            names = [call["function"]["name"] for call in message.get("tool_calls", [])]
            return message.get("reasoning_content"), message["content"], names, choice["finish_reason"]

        reasoning, content, names, reason = "", "", [], ""
        with self.http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                reasoning += choice["delta"].get("reasoning_content") or ""
                content += choice["delta"].get("content") or ""
                calls = choice["delta"].get("tool_calls") or []
                names += [call["function"]["name"] for call in calls if "name" in call["function"]]
                reason = choice["finish_reason"] or reason
        return reasoning or None, content or None, names, reason


def thinker(folder: Path, template: str) -> Iterator[Thinker]:
    write_tokenizer(folder, chat_template=template)
    kinds = ["json_schema", "regex", "structural_tag"]
    model = msgspec.structs.replace(served_model(folder), honours=Honours(grammar_kinds=kinds))
    gateway = ScriptedGateway(model, lambda submission, choice: saying([5]))
    with running_endpoint(gateway) as url:
        made = Thinker(folder, gateway, url)
        with made.client, made.http:
            yield made


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thinker]:
    yield from thinker(tmp_path_factory.mktemp("qwen"), TEMPLATE)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thinker]:
    yield from thinker(tmp_path_factory.mktemp("asked"), OPENS)


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_has_its_reasoning_beside_its_content(qwen: Thinker, stream: bool) -> None:
    qwen.says("<think>\nHm, hm.\n</think>\n\nHello!")
    assert qwen.chat(stream) == ("Hm, hm.", "Hello!", [], "stop")
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert qwen.chat(stream, **off) == (None, "<think>\nHm, hm.\n</think>\n\nHello!", [], "stop")
    qwen.says("<think>\nHm")
    assert qwen.chat(stream) == ("Hm", None, [], "stop")
    qwen.says("Hello!")
    assert qwen.chat(stream) == (None, "Hello!", [], "stop")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("without", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
def test_an_answer_may_be_given_without_its_reasoning(qwen: Thinker, stream: bool, without: dict[str, Any]) -> None:
    qwen.says("<think>\nHm, hm.\n</think>\n\nHello!")
    assert qwen.chat(stream, **without) == (None, "Hello!", [], "stop")
    qwen.says(f"<think>\nHm.\n</think>\n\n{CALL}")
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert qwen.chat(stream, tools=tools, **without) == (None, None, ["f"], "tool_calls")
    assert qwen.chat(stream, tools=tools, include_reasoning=True)[0] == "Hm.", "control"


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_looked_for_behind_the_reasoning_only(qwen: Thinker, stream: bool) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    qwen.says(f"<think>\n{CALL.replace('f', 'g')}\n</think>\n\n{CALL}")
    reasoning, content, names, reason = qwen.chat(stream, tools=tools)
    assert (reasoning, content, names, reason) == (CALL.replace("f", "g"), None, ["f"], "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_that_the_prompt_opened_is_one(asked: Thinker, stream: bool) -> None:
    asked.says("Hm.\n</think>\n\nHello!")
    on = {"chat_template_kwargs": {"thinking": True}}
    assert asked.chat(stream, **on) == ("Hm.", "Hello!", [], "stop")
    assert asked.chat(stream) == (None, "Hm.\n</think>\n\nHello!", [], "stop")


def test_log_probabilities_of_reasoning_come_with_the_rest(qwen: Thinker) -> None:
    qwen.says("<think>\nHm.\n</think>\n\nHello!")
    answer = qwen.client.chat.completions.create(model="test/scripted", messages=HELLO, logprobs=True)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(each.token for each in logprobs.content or []) == "<think>\nHm.\n</think>\n\nHello!"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "fields", "left"),
    [
        ("<think>\nHm, ümläut.\n</think>\n\nHellö!", {}, "Hellö!"),
        ("<think>\n\n</think>\n\nHello!", {}, "Hello!"),
        (f"<think>\nHm.\n</think>\n\n{CALL}", {"tools": [{"type": "function", "function": {"name": "f"}}]}, CALL),
        ("<think>\nHm", {}, ""),
        ("<thin", {}, "<thin"),
        ("<thin|", {"stop": ["|"]}, "<thin"),
        ("<think>a|b", {"stop": ["|"]}, ""),
    ],
)
def test_hidden_reasoning_has_no_log_probabilities(
    qwen: Thinker, stream: bool, said: str, fields: dict[str, Any], left: str
) -> None:
    qwen.says(said)

    def scored(**more: Any) -> str:
        asked: dict[str, Any] = {"model": "test/scripted", "messages": HELLO, "logprobs": True} | fields
        answer: Any = qwen.client.chat.completions.create(**asked, stream=stream, extra_body=more)
        choices = [each.choices[0] for each in answer] if stream else [answer.choices[0]]
        entries = [entry for each in choices for entry in (each.logprobs and each.logprobs.content) or []]
        return b"".join(bytes(entry.bytes) for entry in entries).decode()

    assert scored(include_reasoning=False) == scored(reasoning={"exclude": True}) == left
    assert scored() == said.partition("|")[0], "control"


@pytest.mark.timeout(60)  # starts a process that checks grammars
def test_the_grammar_knows_of_the_reasoning(qwen: Thinker, asked: Thinker) -> None:
    opened = [*HELLO, {"role": "assistant", "content": "<think>\nSo"}]
    closed = [*HELLO, {"role": "assistant", "content": "<think>\nSo</think>\n\n{"}]
    goes_on = {"continue_final_message": True, "add_generation_prompt": False}
    cases: list[tuple[Thinker, dict[str, Any], Reasoning]] = [
        (qwen, {}, "maybe"),
        (qwen, {"chat_template_kwargs": {"enable_thinking": False}}, "never"),
        (qwen, {"messages": opened} | goes_on, "already"),
        (qwen, {"messages": closed} | goes_on, "never"),
        (qwen, {"add_generation_prompt": False}, "never"),
        (asked, {}, "never"),
        (asked, {"chat_template_kwargs": {"thinking": True}}, "already"),
        (qwen, {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "maybe"),
    ]
    for served, fields, reasoning in cases:
        form = {} if "tools" in fields else {"response_format": SCHEMA}
        body = {"model": "test/scripted", "messages": HELLO} | form | fields
        answer = served.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        grammar = served.gateway.submissions[-1].ask.grammar
        assert grammar is not None
        assert grammar.reasoning == reasoning, fields


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Thinker]:
    """Served with a grammar backend that knows of no reasoning."""

    class Installed:
        grammars = [Llguidance()]  # noqa: RUF012
        tool_formats = installed_plugins().tool_formats
        reasoning_formats = installed_plugins().reasoning_formats

    Installed.grammars[0].capabilities = ()
    monkeypatch.setattr(service, "installed_plugins", Installed)
    yield from thinker(tmp_path, TEMPLATE)


@pytest.mark.timeout(60)  # starts a process that checks grammars
def test_a_form_behind_reasoning_is_a_400_where_the_grammar_backend_cannot(plain: Thinker) -> None:
    body = {"model": "test/scripted", "messages": HELLO, "response_format": SCHEMA}
    answer = plain.http.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_parameter")
    assert error["param"] == "response_format.json_schema.schema"
    assert "'llguidance' does not declare 'reasoning'" in error["message"]
    assert plain.gateway.submissions == []
    for control in ({"chat_template_kwargs": {"enable_thinking": False}}, {"response_format": {"type": "text"}}):
        assert plain.http.post("/v1/chat/completions", json=body | control).status_code == 200, control


@pytest.mark.timeout(60)  # starts a process that checks grammars
def test_a_plain_prompt_may_open_reasoning_itself(qwen: Thinker, endpoint: Any) -> None:
    ids = qwen.tokenizer.encode("x<think>\n", add_special=False)
    cases: list[tuple[Any, Reasoning]] = [
        ("x", "never"),
        ("x<think>\n", "already"),
        (ids, "already"),
        (["a <think>", ids], "already"),
        ("<think>\n</think>", "never"),
    ]
    for prompt, reasoning in cases:
        body = {"model": "test/scripted", "prompt": prompt, "regex": "a+"}
        assert qwen.http.post("/v1/completions", json=body).status_code == 200
        grammar = qwen.gateway.submissions[-1].ask.grammar
        assert grammar is not None
        assert grammar.reasoning == reasoning, prompt
    mixed = {"model": "test/scripted", "prompt": ["a <think>", "b"]}
    refused = qwen.http.post("/v1/completions", json=mixed | {"regex": "a+"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
    assert qwen.http.post("/v1/completions", json=mixed).status_code == 200, "a control: without a form it is nothing"
