"""What the official client gives back can be sent again: its own loops over answers, streams and tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest

from histrio_api.testing import ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.tokenizer import Tokenizer

TEMPLATE = (Path(__file__).parent / "templates" / "qwen3_tools.jinja").read_text(encoding="utf-8")
HELLO: list[Any] = [{"role": "user", "content": "Is it on?"}]
NO_REASONING = {"chat_template_kwargs": {"enable_thinking": False}}
CALL = '<tool_call>\n{"name": "Switch", "arguments": {"on": true}}\n</tool_call>'


class Switch(pydantic.BaseModel):
    """Turn it on or off."""

    on: bool


class Report(pydantic.BaseModel):
    """What was found."""

    state: Literal["on", "off"]


def results(message: Any) -> list[Any]:
    return [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in message.tool_calls or []]


@pytest.mark.anyio
@pytest.mark.slow_start
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's own, of what it parsed
@pytest.mark.timeout(90)  # starts a replica, and a process that checks grammars
async def test_parsed_messages_are_taken_back(random_weights: Any) -> None:
    async with random_weights(TEMPLATE) as served:
        chats = served.client.chat.completions
        given: dict[str, Any] = {"model": "toy", "max_tokens": 3000, "seed": 1, "extra_body": NO_REASONING}
        tools: Any = [openai.pydantic_function_tool(Switch)]

        parsed = await chats.parse(messages=HELLO, tools=tools, tool_choice="required", **given)
        message = parsed.choices[0].message
        assert isinstance(message.tool_calls[0].function.parsed_arguments, Switch)
        history = [*HELLO, message, *results(message)]

        async with chats.stream(messages=history, tools=tools, tool_choice="required", **given) as stream:
            streamed = (await stream.get_final_completion()).choices[0].message
        assert isinstance(streamed.tool_calls[0].function.parsed_arguments, Switch)
        history += [streamed, *results(streamed)]

        reported = await chats.parse(messages=history, response_format=Report, **given)
        assert isinstance(reported.choices[0].message.parsed, Report)
        history += [reported.choices[0].message, *HELLO]

        answer = await chats.with_raw_response.create(messages=history, **given)
        named = answer.headers["x-histrio-ignored"].split(", ")
        assert set(named) >= {"messages[].parsed", "messages[].tool_calls[].function.parsed_arguments"}
        with pytest.raises(openai.BadRequestError) as caught:
            await chats.create(messages=history, extra_headers={"x-histrio-strict": "true"}, **given)
        assert (caught.value.param or "").startswith("messages[1]."), (
            "control: without them it would be as strict as it says"
        )


def test_a_loop_over_tools_ends_with_the_answer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, chat_template=TEMPLATE)
    tokenizer = Tokenizer.load(tmp_path, bos_id=0)
    says = iter([CALL, CALL, "It is on."])
    gateway = ScriptedGateway(
        served_model(tmp_path, max_sequence_length=4096),
        lambda submission, choice: saying(tokenizer.encode(next(says), add_special=False)),
    )
    tools: Any = [{"type": "function", "function": {"name": "Switch", "parameters": {"type": "object"}}}]
    history = list(HELLO)
    with (
        running_endpoint(gateway) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        for is_streamed in (False, True):
            if is_streamed:
                with client.chat.completions.stream(model="test/scripted", messages=history, tools=tools) as stream:
                    message: Any = stream.get_final_completion().choices[0].message
            else:
                message = client.chat.completions.create(model="test/scripted", messages=history, tools=tools)
                message = message.choices[0].message
            assert [call.function.name for call in message.tool_calls] == ["Switch"]
            # As other servers and frameworks hand messages on, with everything that they add to them.
            whole = message.model_dump() | {
                "reasoning_details": [{"type": "text"}],
                "annotations": [],
                "audio": None,
                "function_call": None,
                "provider_specific_fields": None,
                "cache_control": {"type": "ephemeral"},
                "id": "msg_1",
                "status": "completed",
            }
            history += [whole, *results(message)]
        last = client.chat.completions.create(model="test/scripted", messages=history, tools=tools).choices[0]
    assert (last.message.content, last.finish_reason) == ("It is on.", "stop")
    prompt = tokenizer.decode(gateway.submissions[-1].ids, skip_special=False)
    assert prompt.count(CALL) == 2, "the calls of both rounds reach the model"
    assert "ephemeral" not in prompt
