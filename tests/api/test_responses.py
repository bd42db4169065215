"""OpenAI's Responses API, held by its wire format and its official client: whole, streamed, and kept for later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pydantic
import pytest

from histrio.contracts.gateway import Delta
from histrio.messages import Extras, RequestState
from histrio_api.testing import Gate, ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.tokenizer import Tokenizer

TEMPLATE = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
TOOLS: list[Any] = [{"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}}]
ALLOWED: dict[str, Any] = {"type": "allowed_tools", "tools": [{"type": "function", "name": "add"}]}
CALL = '\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
REASONED = "<think>\nLet me see.\n</think>\n\n"
KEY = "s3cret"


class Served:
    """An endpoint over a script, with Qwen3's template."""

    def __init__(
        self, http: httpx.Client, client: openai.OpenAI, gateway: ScriptedGateway, tokenizer: Tokenizer
    ) -> None:
        self.http, self.client, self.gateway, self.tokenizer = http, client, gateway, tokenizer

    def says(self, text: str) -> None:
        ids = self.tokenizer.encode(text, add_special=False)
        self.gateway.script = lambda submission, choice: saying(ids, num_logprobs=submission.ask.num_logprobs)

    def says_at_once(self, *pieces: str) -> None:
        """One delta for each piece, however many tokens it has."""
        deltas = [Delta(self.tokenizer.encode(each, add_special=False), RequestState.DECODING) for each in pieces]
        self.gateway.script = lambda submission, choice: [*deltas, Delta([2], RequestState.FINISHED_EOS)]

    def ask(self, path: str = "", **fields: Any) -> httpx.Response:
        return self.http.post(f"/v1/responses{path}", json={"model": "test/scripted", "input": "Hello"} | fields)

    def answer(self, **fields: Any) -> dict[str, Any]:
        response = self.ask(**fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def events(self, **fields: Any) -> list[dict[str, Any]]:
        return events_of(self.ask(stream=True, **fields).text)

    @property
    def prompt(self) -> str:
        """Of the last request."""
        return self.tokenizer.decode(self.gateway.submissions[-1].ids, skip_special=False)

    def chat_prompt(self, messages: list[Any], **fields: Any) -> str:
        """What the same conversation becomes as a chat."""
        given = {"model": "test/scripted", "messages": messages} | fields
        answer = self.http.post("/v1/chat/completions", json=given)
        assert answer.status_code == 200, answer.text
        return self.prompt


def events_of(text: str) -> list[dict[str, Any]]:
    """Each has a line with its type, and one with its data; they are numbered."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        first, second = block.split("\n")
        data = json.loads(second.removeprefix("data: "))
        assert first == f"event: {data['type']}"
        events.append(data)
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    return events


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    """What two answers to the same request have in common."""
    output = [item | {"id": "", "call_id": ""} for item in response["output"]]
    return response | {"id": "", "created_at": 0, "completed_at": 0, "output": output}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("responses")
    write_tokenizer(folder, chat_template=TEMPLATE)
    gateway = ScriptedGateway(served_model(folder, 2048), lambda submission, choice: saying([]))
    with (
        running_endpoint(gateway, **{"keep-alive-s": 0.05, "max-body-bytes": 100_000}) as url,
        httpx.Client(base_url=url) as http,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Served(http, client, gateway, Tokenizer.load(folder, bos_id=0))


@pytest.fixture
def served(shared: Served) -> Served:
    shared.says("Hi there!")
    shared.gateway.submissions.clear()
    return shared


def test_a_whole_answer_has_every_field_of_a_response(served: Served) -> None:
    asked: dict[str, Any] = {"metadata": {"a": "b"}, "temperature": 0.5, "max_output_tokens": 50, "user": "me"}
    answer = served.ask(instructions="Be brief.", tools=TOOLS, **asked)
    response = openai.types.responses.Response.model_validate(answer.json(), strict=True)
    assert response.id == answer.headers["x-request-id"]
    assert response.id.startswith("resp_")
    assert (response.object, response.status, response.model) == ("response", "completed", "test/scripted")
    assert (response.output_text, response.error, response.incomplete_details) == ("Hi there!", None, None)
    assert response.usage is not None
    num_tokens = len(served.tokenizer.encode("Hi there!", add_special=False)) + 1
    assert (response.usage.input_tokens, response.usage.output_tokens) == (
        len(served.gateway.submissions[-1].ids),
        num_tokens,
    )
    assert response.usage.total_tokens == response.usage.input_tokens + num_tokens
    told = answer.json()
    assert asked.items() <= told.items()
    assert (told["instructions"], told["tool_choice"], told["parallel_tool_calls"]) == ("Be brief.", "auto", True)
    assert told["tools"] == [TOOLS[0] | {"strict": None}]
    assert (told["text"], told["store"], told["top_p"]) == ({"format": {"type": "text"}}, True, 1.0)
    submission = served.gateway.submissions[-1]
    assert (submission.ask.sampling["temperature"], submission.max_new_tokens) == (0.5, 50)


def test_a_stream_has_typed_events_in_their_order(served: Served) -> None:
    served.says(f"{REASONED}Hi{CALL}")
    kinds = [each["type"].removeprefix("response.") for each in served.events(tools=TOOLS)]
    assert [kind for at, kind in enumerate(kinds) if kinds[at - 1 : at] != [kind]] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert kinds.count("output_text.delta") > 1


ANSWERS: list[tuple[str, list[tuple[str, str]]]] = [
    ("Hi", [("message", "Hi")]),
    ("", [("message", "")]),
    ("\n", [("message", "\n")]),
    (f"{REASONED}So.", [("reasoning", "Let me see."), ("message", "So.")]),
    (REASONED, [("reasoning", "Let me see."), ("message", "")]),
    (CALL, [("function_call", '{"a": 1}')]),
    (f"{REASONED}{CALL}", [("reasoning", "Let me see."), ("function_call", '{"a": 1}')]),
    (f"Both.{CALL}{CALL}", [("message", "Both.\n"), *[("function_call", '{"a": 1}')] * 2]),
    (
        f"One.{CALL}\nTwo.{CALL}\nThree.",
        [
            ("message", "One.\n"),
            ("function_call", '{"a": 1}'),
            ("message", "\nTwo.\n"),
            ("function_call", '{"a": 1}'),
            ("message", "\nThree."),
        ],
    ),
    (CALL.replace("name", "nom"), [("message", CALL.replace("name", "nom"))]),
    (CALL.removesuffix("}\n</tool_call>"), [("function_call", '{"a": 1}')]),
]


@pytest.mark.parametrize(("said", "items"), ANSWERS)
def test_an_answer_is_taken_apart_into_items_whole_and_streamed_alike(
    served: Served, said: str, items: list[tuple[str, str]]
) -> None:
    served.says(said)
    whole: Any = served.client.responses.create(model="test/scripted", input="Hello", tools=TOOLS)
    with served.client.responses.stream(model="test/scripted", input="Hello", tools=TOOLS) as stream:
        events: list[Any] = list(stream)
        streamed: Any = stream.get_final_response()
    grown = {event.item_id: event.snapshot for event in events if hasattr(event, "snapshot")}
    for response in (whole, streamed):
        found = [
            (item.type, item.arguments if item.type == "function_call" else item.content[0].text)
            for item in response.output
        ]
        assert found == items
        assert {item.status for item in response.output} == {"completed"}
        assert len({item.id for item in response.output}) == len(items)
    for item, (kind, text) in zip(streamed.output, items, strict=True):
        assert kind == "reasoning" or grown.get(item.id, "") == text
    left_out: Any = {"output": {"__all__": {"content": {"__all__": {"parsed"}}, "parsed_arguments": True}}}
    dumped = [each.model_dump(exclude=left_out) for each in (whole, streamed)]
    assert without_ids(dumped[0]) == without_ids(dumped[1])


@pytest.mark.parametrize("num_chars", range(1, len('{"a": 1}}\n</tool_call>')))
def test_the_rest_of_a_call_stays_in_its_item_where_text_comes_with_it(served: Served, num_chars: int) -> None:
    served.says_at_once(CALL[:-num_chars], f"{CALL[-num_chars:]}Done.{CALL}")
    output = served.events(tools=TOOLS)[-1]["response"]["output"]
    assert [item.get("arguments") or item["content"][0]["text"] for item in output] == [
        '{"a": 1}',
        "Done.\n",
        '{"a": 1}',
    ]


def test_calls_and_texts_of_one_piece_stay_in_their_order(served: Served) -> None:
    served.says_at_once(f"One.{CALL}\nTwo.{CALL}\nThree.")
    output = served.events(tools=TOOLS)[-1]["response"]["output"]
    assert [each["type"] for each in output] == ["message", "function_call", "message", "function_call", "message"]
    assert without_ids({"output": output}) == without_ids({"output": served.answer(tools=TOOLS)["output"]})


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_of_reasoning_and_of_the_prefix_cache_are_counted(served: Served, stream: bool) -> None:
    def usage(**fields: Any) -> dict[str, Any]:
        last = served.events(**fields)[-1]["response"] if stream else served.answer(**fields)
        found: dict[str, Any] = last["usage"]
        return found

    said = f"{REASONED}So."
    served.says(said)
    found = usage()
    num_before = len(served.tokenizer.encode(REASONED, add_special=False))
    assert found["output_tokens_details"] == {"reasoning_tokens": num_before}
    assert found["input_tokens_details"]["cached_tokens"] == 0
    ids = served.tokenizer.encode(said, add_special=False)
    served.gateway.script = lambda submission, choice: [Delta([*ids, 2], RequestState.FINISHED_EOS, Extras())]
    assert usage() == usage(stop=["none of it"]) == found, "however many tokens come at once"
    served.gateway.script = lambda submission, choice: [
        Delta(ids[: num_before - 2], RequestState.FINISHED_MAX_LENGTH, Extras())
    ]
    assert usage()["output_tokens_details"] == {"reasoning_tokens": num_before - 2}, "all of an answer that is cut off"
    served.gateway.script = lambda submission, choice: [
        Delta(
            served.tokenizer.encode("So.", add_special=False),
            RequestState.FINISHED_MAX_LENGTH,
            Extras(num_cached_tokens=4),
        )
    ]
    found = usage()
    assert found["output_tokens_details"] == {"reasoning_tokens": 0}, "control: no reasoning"
    assert found["input_tokens_details"]["cached_tokens"] == 4


@pytest.mark.parametrize("said", ["Hi", f"{REASONED}Hi", f"{REASONED}"])
def test_an_answer_that_was_cut_off_is_incomplete(served: Served, said: str) -> None:
    ids = served.tokenizer.encode(said, add_special=False)
    served.gateway.script = lambda submission, choice: [
        *saying(ids)[:-1],
        Delta([], RequestState.FINISHED_MAX_LENGTH, Extras()),
    ]
    whole, events = served.answer(), served.events()
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in whole["output"]][-1] == "incomplete"
    assert events[-1]["type"] == "response.incomplete"
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    served.says(said)
    assert served.answer()["status"] == "completed", "control"


def test_log_probabilities_come_with_the_text(served: Served) -> None:
    for fields in ({"include": ["message.output_text.logprobs"]}, {"top_logprobs": 2}):
        events = served.events(**fields)
        whole = served.answer(**fields)["output"][0]["content"][0]
        assert "".join(each["token"] for each in whole["logprobs"]) == whole["text"] == "Hi there!"
        assert {len(each["top_logprobs"]) for each in whole["logprobs"]} == {fields.get("top_logprobs", 0)}
        deltas = [each for each in events if each["type"] == "response.output_text.delta"]
        assert [entry for each in deltas for entry in each["logprobs"]] == whole["logprobs"]
        assert events[-1]["response"]["output"][0]["content"][0] == whole
    assert served.answer()["output"][0]["content"][0]["logprobs"] == [], "control"


def test_log_probabilities_are_of_the_text_and_not_of_the_reasoning(served: Served) -> None:
    served.says(f"{REASONED}Sö.")
    whole = served.answer(top_logprobs=1)["output"][1]["content"][0]
    assert b"".join(bytes(each["bytes"]) for each in whole["logprobs"]).decode() == whole["text"] == "Sö."
    deltas = [each for each in served.events(top_logprobs=1) if each["type"] == "response.output_text.delta"]
    assert [entry for each in deltas for entry in each["logprobs"]] == whole["logprobs"]


HISTORY: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is 1 + 2?"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "A sum."}]},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}],
    },
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add", "arguments": '{"a": 1}'},
    {"type": "function_call", "call_id": "call_2", "name": "add", "arguments": "{}", "status": "completed"},
    {"type": "function_call_output", "call_id": "call_1", "output": "three"},
    {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "four"}]},
    {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "Done."}]},
    {"role": "assistant", "content": "Three."},
    {"role": "user", "content": "Well?"},
]
SAME_AS_CHAT: list[Any] = [
    {"role": "system", "content": "You add."},
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 2?"},
    {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "A sum.",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "add", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "three"},
    {"role": "tool", "tool_call_id": "call_2", "content": "four"},
    {"role": "assistant", "content": "Three.", "reasoning_content": "Done."},
    {"role": "user", "content": "Well?"},
]
CHAT_TOOLS: list[Any] = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]


def test_items_become_the_prompt_of_the_same_chat(served: Served) -> None:
    tools = [TOOLS[0] | {"parameters": {}}]
    answer = served.ask(instructions="You add.", input=HISTORY, tools=tools)
    assert answer.status_code == 200, answer.text
    assert set(answer.headers["x-histrio-ignored"].split(", ")) == {"input[].status"}
    prompt = served.prompt
    assert prompt == served.chat_prompt(SAME_AS_CHAT, tools=CHAT_TOOLS)
    assert "Let me see." in prompt
    assert prompt != served.chat_prompt(SAME_AS_CHAT[1:], tools=CHAT_TOOLS), "control"
    counted = served.ask("/input_tokens", instructions="You add.", input=HISTORY, tools=tools)
    num_tokens = len(served.tokenizer.encode(prompt, add_special=False))
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": num_tokens}


def test_reasoning_is_wished_for_as_in_chats(served: Served) -> None:
    served.answer(reasoning={"effort": "none"})
    quiet = served.prompt
    served.answer(enable_thinking=False)
    assert served.prompt == quiet
    served.answer()
    assert served.prompt != quiet, "control"
    named = served.ask(reasoning={"effort": "high", "summary": "auto"}).headers["x-histrio-ignored"]
    assert named == "reasoning.summary, reasoning.effort"


def test_what_is_only_a_wish_is_named(served: Served) -> None:
    given: dict[str, Any] = {"prompt_cache_key": "a", "truncation": "auto", "include": ["reasoning.encrypted_content"]}
    answer = served.ask(**given)
    assert (answer.status_code, set(answer.headers["x-histrio-ignored"].split(", "))) == (
        200,
        {"prompt_cache_key", "truncation", "include[]"},
    )
    strict = served.http.post("/v1/responses", json={"input": "Hello"} | given, headers={"x-histrio-strict": "true"})
    assert strict.status_code == 400


def test_of_allowed_tools_the_model_sees_no_others(served: Served) -> None:
    other = TOOLS[0] | {"name": "other"}
    told = served.answer(tools=[other, *TOOLS], tool_choice=ALLOWED)["tool_choice"]
    assert told == ALLOWED
    prompt = served.prompt
    served.answer(tools=TOOLS)
    assert served.prompt == prompt
    served.answer(tools=[other, *TOOLS])
    assert served.prompt != prompt, "control"


IMAGE = {"type": "input_image", "image_url": KEY}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", "the field is required"),
    ({"input": []}, "input", "at least one"),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]", "content of type input_image"),
    ({"input": [{"role": "user", "content": [{"type": KEY}]}]}, "input[0].content[0]", "content of this type"),
    ({"input": [{"role": "user"}]}, "input[0].content", "the field is required"),
    ({"input": [{"type": "message", "content": "x"}]}, "input[0].role", "the field is required"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "not one of"),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]", "an item of type web_search_call"),
    ({"input": [{"type": KEY}]}, "input[0]", "an item of this type"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id", "the field is"),
    ({"input": [{"type": "item_reference", "id": "msg_0"}]}, "input[0].id", "the item is not kept here"),
    ({"input": [{"id": "msg_0"}]}, "input[0].id", "the item is not kept here"),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "this response or one before it is not kept"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search tools are not supported"),
    ({"tools": [{"type": KEY}]}, "tools[0].type", "this type is not supported"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "the field is required"),
    ({"tools": TOOLS, "tool_choice": {"type": "file_search"}}, "tool_choice.type", "only function, custom and"),
    ({"tools": TOOLS, "tool_choice": ALLOWED | {"mode": "required"}}, "tool_choice", "not supported by"),
    ({"tools": [], "tool_choice": ALLOWED}, "tool_choice.tools[0]", "none of the request's tools"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name", "none of the"),
    ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice", "not supported by"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "the field is required"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "not one of"),
    ({"text": {"format": {"type": "json_object"}}, "response_format": {}}, "text.format", "response_format asks"),
    ({"background": True}, "background", "not supported"),
    ({"conversation": "conv_1"}, "conversation", "not supported"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "not supported"),
    ({"messages": [{"role": "user", "content": "x"}]}, "messages", "not supported"),
    ({"max_output_tokens": 0}, "max_output_tokens", "Expected"),
    ({"max_output_tokens": 1, "max_tokens": 2}, "max_tokens", "differs from max_output_tokens"),
    ({"metadata": [1]}, "metadata", "must be an object"),
    ({"n": 2}, "n", "not supported by /v1/responses"),
    ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options.con", "not supported by"),
    ({"top_logprobs": 21}, "top_logprobs", "Expected"),
    ({"temperature": 9}, "temperature", "must be between"),
]


@pytest.mark.parametrize(("fields", "param", "message"), REFUSED)
def test_what_cannot_be_served_is_refused_by_name(
    served: Served, fields: dict[str, Any], param: str, message: str
) -> None:
    answer = served.ask(**fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"].startswith(param)
    assert message in error["message"]
    assert "messages" not in error["message"].removeprefix("messages: not supported")
    assert KEY not in answer.text
    assert not served.gateway.submissions


def test_an_error_in_a_stream_is_told_and_fails_the_response(served: Served) -> None:
    served.gateway.script = lambda submission, choice: [*saying([5])[:1], RuntimeError("a bug")]
    told, failed = served.events()[-2:]
    assert (told["type"], told["code"], told["param"]) == ("error", "internal_error", None)
    assert failed["type"] == "response.failed"
    assert (failed["response"]["status"], failed["response"]["error"]["code"]) == ("failed", "internal_error")
    assert "a bug" not in json.dumps([told, failed])
    assert served.http.get(f"/v1/responses/{failed['response']['id']}").status_code == 404


def test_a_stream_that_waits_carries_comments(served: Served) -> None:
    gate = Gate()
    served.gateway.script = lambda submission, choice: [gate, *saying([5])]
    text = ""
    with served.http.stream("POST", "/v1/responses", json={"input": "Hello", "stream": True}) as response:
        for piece in response.iter_text():
            text += piece
            if ": ping" in text:
                gate.open()
    assert events_of(text)[-1]["type"] == "response.completed"


class Sum(pydantic.BaseModel):
    """What is parsed."""

    a: int


def test_the_official_clients_loop_over_tools(served: Served) -> None:
    tools: list[Any] = [openai.pydantic_function_tool(Sum, name="add")["function"] | {"type": "function"}]
    tools[0]["strict"] = None
    history: list[Any] = [{"role": "user", "content": "What is 1?"}]
    served.says(f"{REASONED}Let me see.{CALL}")
    for is_streamed in (False, True):
        given: dict[str, Any] = {"model": "test/scripted", "input": history, "tools": tools}
        if is_streamed:
            with served.client.responses.stream(**given) as stream:
                response: Any = stream.get_final_response()
        else:
            response = served.client.responses.create(**given)
        calls = [item for item in response.output if item.type == "function_call"]
        assert [(call.name, json.loads(call.arguments)) for call in calls] == [("add", {"a": 1})]
        history += response.output
        history += [{"type": "function_call_output", "call_id": call.call_id, "output": "one"} for call in calls]
    served.says("It is one.")
    last = served.client.responses.create(model="test/scripted", input=history, tools=tools)
    assert last.output_text == "It is one."
    assert served.prompt.count(CALL.strip()) == 2, "the calls of both rounds reach the model"


@pytest.mark.anyio
@pytest.mark.slow_start
@pytest.mark.timeout(90)  # starts a replica, and a process that checks grammars
async def test_forms_and_calls_are_enforced_whatever_the_model_says(random_weights: Any) -> None:
    given: dict[str, Any] = {"model": "toy", "input": "Hello", "max_output_tokens": 3000, "temperature": 1}
    given["extra_body"] = {"seed": 1, "enable_thinking": False}
    tool = openai.pydantic_function_tool(Sum, name="add")["function"] | {"type": "function"}
    async with random_weights(TEMPLATE) as served:
        responses = served.client.responses
        parsed = await responses.parse(text_format=Sum, **given)
        assert isinstance(parsed.output_parsed, Sum)
        async with responses.stream(text_format=Sum, **given) as stream:
            assert (await stream.get_final_response()).output_parsed == parsed.output_parsed
        called = await responses.create(tools=[tool], tool_choice={"type": "function", "name": "add"}, **given)
        assert [(item.type, Sum.model_validate_json(item.arguments).a >= 0) for item in called.output] in (
            [("function_call", True)],
            [("function_call", False)],
        )
        free = await responses.create(**given | {"max_output_tokens": 20})
        with pytest.raises(pydantic.ValidationError):
            Sum.model_validate_json(free.output_text)
