"""Anthropic's Messages API, held by its wire format: what is sent, what comes back, whole and as events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from histrio.contracts.gateway import Delta
from histrio.messages import Extras, RequestState
from histrio_api.testing import Gate, ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.tokenizer import Tokenizer

TEMPLATE = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
HELLO: Any = [{"role": "user", "content": "Hello"}]
TOOLS: Any = [{"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}]
CALL = '\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
KEY = "s3cret"


class Served:
    """An endpoint over a script, with Qwen3's template."""

    def __init__(self, http: httpx.Client, gateway: ScriptedGateway, tokenizer: Tokenizer) -> None:
        self.http, self.gateway, self.tokenizer = http, gateway, tokenizer

    def says(self, text: str) -> None:
        ids = self.tokenizer.encode(text, add_special=False)
        self.gateway.script = lambda submission, choice: saying(ids)

    def says_at_once(self, *pieces: str) -> None:
        """One delta for each piece, however many tokens it has."""
        deltas = [Delta(self.tokenizer.encode(each, add_special=False), RequestState.DECODING) for each in pieces]
        self.gateway.script = lambda submission, choice: [*deltas, Delta([2], RequestState.FINISHED_EOS)]

    def ask(self, path: str = "", **fields: Any) -> httpx.Response:
        given = {"model": "test/scripted", "messages": HELLO, "max_tokens": 400} | fields
        return self.http.post(f"/v1/messages{path}", json=given)

    def answer(self, **fields: Any) -> dict[str, Any]:
        response = self.ask(**fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def events(self, **fields: Any) -> list[dict[str, Any]]:
        """Those of a stream, but for pings."""
        return [each for each in events_of(self.ask(stream=True, **fields).text) if each["type"] != "ping"]

    @property
    def prompt(self) -> str:
        """Of the last request."""
        return self.tokenizer.decode(self.gateway.submissions[-1].ids, skip_special=False)


def events_of(text: str) -> list[dict[str, Any]]:
    """Each has a line with its type, and one with its data."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        first, second = block.split("\n")
        data = json.loads(second.removeprefix("data: "))
        assert first == f"event: {data['type']}"
        events.append(data)
    return events


def folded(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the events of a stream make, as a client puts it together."""
    message: dict[str, Any] = {}
    written = ""
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                written = ""
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                if delta["type"] == "input_json_delta":
                    written += delta["partial_json"]
                else:
                    field = delta["type"].removesuffix("_delta")
                    block[field] += delta[field]
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
            case "content_block_stop" if written:
                message["content"][event["index"]]["input"] = json.loads(written)
            case kind:
                assert kind in ("content_block_stop", "message_stop")
    return message


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("messages")
    write_tokenizer(folder, chat_template=TEMPLATE)
    gateway = ScriptedGateway(served_model(folder, 2048), lambda submission, choice: saying([]))
    with (
        running_endpoint(gateway, **{"keep-alive-s": 0.05, "max-body-bytes": 100_000}) as url,
        httpx.Client(base_url=url) as http,
    ):
        yield Served(http, gateway, Tokenizer.load(folder, bos_id=0))


@pytest.fixture
def served(shared: Served) -> Served:
    shared.says("Hi there!")
    shared.gateway.submissions.clear()
    return shared


def test_a_whole_answer_has_every_field_of_a_message(served: Served) -> None:
    response = served.ask()
    answer = response.json()
    assert answer.pop("id") == response.headers["x-request-id"]
    assert response.headers["x-request-id"].startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "test/scripted",
        "content": [{"type": "text", "text": "Hi there!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len(served.gateway.submissions[-1].ids),
            "output_tokens": len(served.tokenizer.encode("Hi there!", add_special=False)) + 1,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
        },
    }


def test_a_stream_has_typed_events_in_their_order(served: Served) -> None:
    served.gateway.script = lambda submission, choice: saying(served.tokenizer.encode("Hi", add_special=False))
    events = served.events()
    deltas = [each for each in events if each["type"] == "content_block_delta"]
    assert [each["type"] for each in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * len(deltas),
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["stop_reason"] is None
    assert events[1]["content_block"] == {"type": "text", "text": ""}
    assert "".join(each["delta"]["text"] for each in deltas) == "Hi"


ANSWERS: list[tuple[str, list[dict[str, Any]], str]] = [
    ("Hi", [{"type": "text", "text": "Hi"}], "end_turn"),
    ("\n", [{"type": "text", "text": "\n"}], "end_turn"),
    ("", [], "end_turn"),
    (
        "<think>\nLet me see.\n</think>\n\nSo.",
        [
            {"type": "thinking", "thinking": "Let me see.", "signature": ""},
            {"type": "text", "text": "So."},
        ],
        "end_turn",
    ),
    (CALL, [{"type": "tool_use", "name": "add", "input": {"a": 1}}], "tool_use"),
    (
        f"Both.{CALL}{CALL}",
        [{"type": "text", "text": "Both.\n"}, *[{"type": "tool_use", "name": "add", "input": {"a": 1}}] * 2],
        "tool_use",
    ),
    (
        f"One.{CALL}\nTwo.",
        [
            {"type": "text", "text": "One.\n"},
            {"type": "tool_use", "name": "add", "input": {"a": 1}},
            {"type": "text", "text": "\nTwo."},
        ],
        "tool_use",
    ),
    (CALL.replace('{"a": 1}', "[1]"), [{"type": "tool_use", "name": "add", "input": {"arguments": [1]}}], "tool_use"),
]


@pytest.mark.parametrize(("said", "blocks", "reason"), ANSWERS)
def test_an_answer_is_taken_apart_into_blocks_whole_and_streamed_alike(
    served: Served, said: str, blocks: list[dict[str, Any]], reason: str
) -> None:
    served.says(said)
    whole, streamed = served.answer(tools=TOOLS), folded(served.events(tools=TOOLS))
    for message in (whole, streamed):
        ids = [block.pop("id") for block in message["content"] if block["type"] == "tool_use"]
        assert all(each.startswith("toolu_") for each in ids)
        assert len(ids) == len(set(ids))
        assert (message["content"], message["stop_reason"]) == (blocks, reason)
    assert whole | {"id": ""} == streamed | {"id": ""}


@pytest.mark.parametrize("num_chars", range(1, len('{"a": 1}}\n</tool_call>')))
def test_the_rest_of_a_call_stays_in_its_block_where_text_comes_with_it(served: Served, num_chars: int) -> None:
    served.says_at_once(CALL[:-num_chars], f"{CALL[-num_chars:]}Done.{CALL}")
    call = {"type": "tool_use", "id": "", "name": "add", "input": {"a": 1}}
    content = folded(served.events(tools=TOOLS))["content"]
    assert [each | ({"id": ""} if "id" in each else {}) for each in content] == [
        call,
        {"type": "text", "text": "Done.\n"},
        call,
    ]


def test_calls_and_texts_of_one_piece_stay_in_their_order(served: Served) -> None:
    served.says_at_once(f"One.{CALL}\nTwo.{CALL}\nThree.")
    for content in (folded(served.events(tools=TOOLS))["content"], served.answer(tools=TOOLS)["content"]):
        assert [each["type"] for each in content] == ["text", "tool_use", "text", "tool_use", "text"]
        assert [each["text"] for each in content[::2]] == ["One.\n", "\nTwo.\n", "\nThree."]


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_sequence_is_told(served: Served, stream: bool) -> None:
    def told(**fields: Any) -> tuple[str, str | None, str]:
        answer = folded(served.events(**fields)) if stream else served.answer(**fields)
        return answer["stop_reason"], answer["stop_sequence"], answer["content"][0]["text"]

    served.says("one two three")
    assert told(stop_sequences=["x", "wo", " three"]) == ("stop_sequence", "wo", "one t")
    assert told(stop_sequences=["x"]) == ("end_turn", None, "one two three"), "control"


def test_an_answer_may_be_as_long_as_the_context_allows_though_more_is_asked_for(served: Served) -> None:
    limit = served.gateway.model.max_sequence_length
    served.answer(max_tokens=7)
    assert served.gateway.submissions[-1].max_new_tokens == 7
    served.answer(max_tokens=100_000)
    submission = served.gateway.submissions[-1]
    assert submission.max_new_tokens == limit - len(submission.ids)
    served.gateway.script = lambda submission, choice: [Delta([5, 6], RequestState.FINISHED_MAX_LENGTH, Extras())]
    assert served.answer(max_tokens=2)["stop_reason"] == "max_tokens"
    assert served.answer(max_tokens=100_000)["stop_reason"] == "model_context_window_exceeded"


@pytest.mark.parametrize("num_cached", [0, 4])
def test_tokens_from_the_prefix_cache_are_counted_apart(served: Served, num_cached: int) -> None:
    last = Delta([5, 2], RequestState.FINISHED_EOS, Extras(num_cached_tokens=num_cached))
    served.gateway.script = lambda submission, choice: [last]
    usage, events = served.answer()["usage"], served.events()
    num_prompt_tokens = len(served.gateway.submissions[-1].ids)
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (num_prompt_tokens - num_cached, num_cached)
    assert events[-2]["usage"] == usage
    assert events[0]["message"]["usage"]["input_tokens"] == num_prompt_tokens


def test_turns_become_the_prompt_of_the_same_chat(served: Served) -> None:
    marked = {"cache_control": {"type": "ephemeral"}}
    history: Any = [
        {"role": "user", "content": [{"type": "text", "text": "What is 1 + 2?"} | marked]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "A sum.", "signature": "abc"},
                {"type": "redacted_thinking", "data": "abc"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}},
                {"type": "tool_use", "id": "toolu_2", "name": "add", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "three"} | marked,
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "four"}]},
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    response = served.ask(system=[{"type": "text", "text": "Be brief."} | marked], messages=history, tools=TOOLS)
    assert response.status_code == 200, response.text
    prompt = served.prompt
    calls = [
        {"id": "toolu_1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}},
        {"id": "toolu_2", "type": "function", "function": {"name": "add", "arguments": {}}},
    ]
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1 + 2?"},
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "A sum.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "three"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "four"},
        {"role": "user", "content": "Well?"},
    ]
    tools = [
        {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
    ]
    asked = {"model": "test/scripted", "messages": chat, "tools": tools}
    assert served.http.post("/v1/chat/completions", json=asked).status_code == 200
    assert prompt == served.prompt
    assert "Let me see." in prompt
    assert set(response.headers["x-histrio-ignored"].split(", ")) == {
        "system[].cache_control",
        "messages[].content[].cache_control",
        "messages[].content[].signature",
        "messages[].content[].data",
    }
    counted = served.ask("/count_tokens", system="Be brief.", messages=history, tools=TOOLS)
    assert counted.json() == {"input_tokens": len(served.gateway.submissions[-1].ids)}
    assert served.ask("/count_tokens").json() != counted.json(), "control"


def test_an_answer_that_was_begun_goes_on(served: Served) -> None:
    served.answer(messages=[*HELLO, {"role": "assistant", "content": "I am"}])
    assert served.prompt.endswith("I am")
    served.answer(messages=[*HELLO, {"role": "assistant", "content": "I am"}, *HELLO])
    assert served.prompt.endswith("assistant\n"), "control"


def test_thinking_switches_the_templates_variable(served: Served) -> None:
    prompts = {}
    for kind in ("enabled", "adaptive", "disabled", None):
        response = served.ask(thinking=kind and {"type": kind, "budget_tokens": 1024})
        assert response.status_code == 200, response.text
        assert response.headers.get("x-histrio-ignored") == (kind and "thinking.budget_tokens")
        prompts[kind] = served.prompt
    assert prompts["enabled"] == prompts["adaptive"] == prompts[None]
    assert prompts["disabled"] != prompts[None]
    assert prompts["disabled"].rstrip().endswith("</think>")


def test_thinking_is_named_where_the_template_has_no_switch(endpoint: Any) -> None:
    given = {"model": "test/scripted", "messages": HELLO, "max_tokens": 5, "thinking": {"type": "enabled"}}
    answer = endpoint.http.post("/v1/messages", json=given)
    assert (answer.status_code, answer.headers["x-histrio-ignored"]) == (200, "thinking")


def test_sampling_fields_are_those_of_chats(served: Served) -> None:
    served.answer(temperature=0.5, top_p=0.9, top_k=5, metadata={"user_id": "me"}, seed=3)
    ask = served.gateway.submissions[-1].ask
    assert (ask.sampling, ask.seed) == ({"temperature": 0.5, "top_p": 0.9, "top_k": 5}, 3)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": KEY}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [IMAGE]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens: the field is required"),
    ({"max_tokens": 0}, "max_tokens: "),
    ({"messages": []}, "messages: at least one message"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]: a block of type image "),
    ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0]: a block of type "),
    ({"messages": [{"role": "user", "content": [{"type": KEY}]}]}, "messages[0].content[0]: a block of this type "),
    ({"messages": [{"role": "user", "content": [RESULT]}]}, "messages[0].content[0].content[0]: a block of type image"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text: the field is"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role: "),
    ({"system": [IMAGE]}, "system[0]: a block of type image"),
    ({"temperature": 9}, "temperature: "),
    ({"stop_sequences": [""]}, "stop_sequences: "),
    ({"n": 2}, "n is not supported by /v1/messages"),
    ({"stop": "x"}, "stop is not supported by /v1/messages"),
    ({"mcp_servers": [{"url": KEY}]}, "mcp_servers: not supported"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type: only tools of type custom"),
    ({"tools": [{"name": "add"}]}, "tools[0].input_schema: the field is required"),
    ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "tool_choice.name: the field is required"),
    ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name: none of the request's tools"),
    ({"tools": TOOLS, "tool_choice": {"type": "any"}}, "tool_choice: not supported by"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_cannot_be_served_is_refused_by_name(served: Served, fields: dict[str, Any], message: str) -> None:
    response = served.ask(**fields)
    assert response.status_code == 400
    error = response.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert error["error"]["message"].startswith(message)
    assert KEY not in response.text
    assert not served.gateway.submissions


def test_errors_have_anthropics_shape_on_these_urls_alone(served: Served) -> None:
    http = served.http
    for response, status, kind in (
        (served.ask(model="other"), 404, "not_found_error"),
        (http.get("/v1/messages"), 405, "invalid_request_error"),
        (http.get("/v1/messages/batches"), 404, "not_found_error"),
        (http.post("/v1/messages", content="{"), 400, "invalid_request_error"),
        (http.post("/v1/messages", content=b"[" * 200_000), 413, "request_too_large"),
        (http.post("/v1/messages", headers={"origin": "https://elsewhere.example"}), 403, "permission_error"),
    ):
        assert response.status_code == status
        assert response.json()["type"] == "error"
        assert response.json()["error"].keys() == {"type", "message"}
        assert response.json()["error"]["type"] == kind
    assert http.get("/v1/messagesque").json()["error"]["code"] == "unknown_url", "control: OpenAI's"


def test_an_error_in_a_stream_is_its_last_event(served: Served) -> None:
    served.gateway.script = lambda submission, choice: [*saying([5])[:1], RuntimeError("a bug")]
    last = served.events()[-1]
    assert last == {"type": "error", "error": {"type": "api_error", "message": last["error"]["message"]}}
    assert "a bug" not in last["error"]["message"]


def test_a_stream_that_waits_carries_pings(served: Served) -> None:
    gate = Gate()
    served.gateway.script = lambda submission, choice: [gate, *saying([5])]
    given = {"model": "test/scripted", "messages": HELLO, "max_tokens": 5, "stream": True}
    text = ""
    with served.http.stream("POST", "/v1/messages", json=given) as response:
        for piece in response.iter_text():
            text += piece
            if "ping" in text:
                gate.open()
    kinds = [each["type"] for each in events_of(text)]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-1] == "message_stop"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": KEY}, 200),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}, 200),
        ({"x-api-key": "other"}, 401),
        ({"x-api-key": ""}, 401),
        ({}, 401),
    ],
)
def test_a_key_may_come_in_either_header(shared: Served, headers: dict[str, str], status: int) -> None:
    given = {"model": "test/scripted", "messages": HELLO, "max_tokens": 5}
    with running_endpoint(shared.gateway, **{"api-keys": [KEY]}) as url:
        response = httpx.post(f"{url}/v1/messages", json=given, headers=headers)
    assert response.status_code == status
    if status == 401:
        assert response.json()["error"]["type"] == "authentication_error"


def test_the_official_client_reads_answers_and_streams(served: Served) -> None:
    served.says(f"Both.{CALL}")
    given: Any = {"model": "test/scripted", "max_tokens": 50, "messages": HELLO, "tools": TOOLS}
    with anthropic.Anthropic(base_url=str(served.http.base_url), api_key="none", max_retries=0) as client:
        whole: Any = client.messages.create(**given)
        assert [block.type for block in whole.content] == ["text", "tool_use"]
        assert (whole.content[1].input, whole.stop_reason) == ({"a": 1}, "tool_use")
        with client.messages.stream(**given) as stream:
            streamed: Any = stream.get_final_message()
        assert streamed.content[1].input == {"a": 1}
        assert streamed.usage.output_tokens == whole.usage.output_tokens
        result: Any = {"type": "tool_result", "tool_use_id": streamed.content[1].id, "content": "3"}
        history: Any = [
            *HELLO,
            {"role": "assistant", "content": streamed.content},
            {"role": "user", "content": [result]},
        ]
        assert client.messages.count_tokens(model="test/scripted", messages=history, tools=TOOLS).input_tokens > 10
        with pytest.raises(anthropic.BadRequestError, match="at least one message"):
            client.messages.create(**given | {"messages": []})


@pytest.mark.anyio
@pytest.mark.slow_start
@pytest.mark.timeout(90)  # starts a replica, and a process that checks grammars
@pytest.mark.parametrize("stream", [False, True])
async def test_calls_and_forms_are_enforced_whatever_the_model_says(random_weights: Any, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"on": {"type": "boolean"}},
        "required": ["on"],
        "additionalProperties": False,
    }
    tools = [{"name": "switch", "input_schema": schema}, {"name": "other", "input_schema": schema}]
    given = {"model": "toy", "messages": HELLO, "max_tokens": 3000, "thinking": {"type": "disabled"}, "stream": stream}
    async with random_weights(TEMPLATE) as toy, httpx.AsyncClient(base_url=toy.url, timeout=60) as http:

        async def answer(**fields: Any) -> dict[str, Any]:
            response = await http.post("/v1/messages", json=given | {"temperature": 1, "seed": 1} | fields)
            assert response.status_code == 200, response.text
            if not stream:
                whole: dict[str, Any] = response.json()
                return whole
            return folded([each for each in events_of(response.text) if each["type"] != "ping"])

        one = await answer(tools=tools, tool_choice={"type": "tool", "name": "switch"})
        assert [(block["type"], block["name"]) for block in one["content"]] == [("tool_use", "switch")]
        assert one["content"][0]["input"] in ({"on": True}, {"on": False})
        assert one["stop_reason"] == "tool_use"

        single = await answer(tools=tools, tool_choice={"type": "any", "disable_parallel_tool_use": True})
        assert [block["type"] for block in single["content"]] == ["tool_use"]

        shaped = await answer(output_config={"format": {"type": "json_schema", "schema": schema}})
        assert json.loads(shaped["content"][0]["text"]).keys() == {"on"}

        free = await answer(tools=tools, max_tokens=20)
        assert [block["type"] for block in free["content"]] == ["text"], "control: random weights call nothing unasked"
