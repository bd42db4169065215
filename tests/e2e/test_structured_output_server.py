"""The demo model in two stages, each a process: the official client gets JSON after its schema, whatever happens."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal

import anyio
import jsonschema
import openai
import pydantic
import pytest

from histrio.testing.launched import LaunchedServer

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]

MESSAGES: Any = [{"role": "user", "content": "Tell me a short story."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 3, "maxLength": 20},
        "numbers": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 999_999},
            "minItems": 8,
            "maxItems": 16,
        },
        "mood": {"enum": ["merry", "sad", "thoughtful"]},
    },
    "required": ["title", "numbers", "mood"],
    "additionalProperties": False,
}
RESPONSE_FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "story", "strict": True, "schema": SCHEMA}}
NUM_STREAMS = 12
MAX_TOKENS = 400


class Story(pydantic.BaseModel):
    """What the official client makes a schema of, and an object from the answer."""

    mood: Literal["merry", "sad", "thoughtful"]
    chapters: int = pydantic.Field(ge=1, le=40)
    is_true: bool


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    log = tmp_path_factory.mktemp("structured") / "log.txt"
    with LaunchedServer("--model", "demo", "--stages=2", log=log) as launched:
        yield launched


@pytest.fixture
def client(server: LaunchedServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def chat(client: openai.OpenAI, **fields: Any) -> tuple[str, str]:
    """The answer and its finish_reason."""
    given = {"model": "demo", "messages": MESSAGES, "max_tokens": MAX_TOKENS} | fields
    (choice,) = client.chat.completions.create(**given).choices
    return choice.message.content or "", choice.finish_reason


def is_story(text: str) -> bool:
    try:
        return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text)))
    except ValueError:
        return False


def test_the_official_client_gets_json_after_its_schema(client: openai.OpenAI) -> None:
    for sampling in ({"temperature": 0}, {"temperature": 1.2, "seed": 3}):
        text, finish_reason = chat(client, response_format=RESPONSE_FORMAT, **sampling)
        assert finish_reason == "stop"
        assert is_story(text)
        assert chat(client, response_format=RESPONSE_FORMAT, **sampling)[0] == text
        of_itself, _ = chat(client, max_tokens=20, **sampling)
        assert of_itself.strip()[0] not in "{`", "a control: of itself the model says no such thing"


def test_the_official_client_parses_the_answer_into_its_own_class(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="demo", messages=MESSAGES, response_format=Story, n=2, seed=5, temperature=1.5, max_tokens=MAX_TOKENS
    )
    stories = [choice.message.parsed for choice in answer.choices]
    assert all(isinstance(story, Story) for story in stories)
    assert stories[0] != stories[1]


def test_other_forms_are_followed_too(client: openai.OpenAI) -> None:
    forms: dict[str, dict[str, Any]] = {
        r"[a-z]{3,9} \d{2}": {"structured_outputs": {"regex": r"[a-z]{3,9} \d{2}"}},
        "blue|green|red": {"guided_choice": ["red", "green", "blue"]},
        r"(a+b){1,3}": {"grammar": 'start: (/a{1,4}/ "b"){1,3}'},
        r"<(yes|no)>": {"ebnf": 'root ::= "<" ("yes" | "no") ">"'},
        r"\[(\s*(true|false),?){2}\s*\]": {
            "json_schema": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
        },
    }
    for expression, fields in forms.items():
        text, finish_reason = chat(client, extra_body=fields, temperature=1.0, seed=1)
        assert finish_reason == "stop"
        assert re.fullmatch(expression, text), text
        assert not re.fullmatch(expression, chat(client, temperature=1.0, seed=1, max_tokens=20)[0])


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_enforced_is_refused_before_anything_starts(client: openai.OpenAI, stream: bool) -> None:
    schema = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=MESSAGES, response_format=form, stream=stream)  # type: ignore[call-overload]
    assert caught.value.param == "response_format.json_schema.schema.properties.tags.uniqueItems"
    assert caught.value.code == "unsupported_keyword"
    schema["properties"]["tags"].pop("uniqueItems")  # type: ignore[index]
    assert chat(client, response_format=form, max_tokens=5)[0].startswith("{"), "a control"


async def stream_one(client: openai.AsyncOpenAI, index: int, on_piece: Callable[[], None]) -> str:
    """Every third stream is free; every second greedy."""
    fields: dict[str, Any] = {} if index % 3 == 0 else {"response_format": RESPONSE_FORMAT}
    stream = await client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        max_tokens=MAX_TOKENS,
        stream=True,
        seed=index,
        temperature=1.2 if index % 2 else 0.0,
        extra_body={"ignore_eos": True, "max_tokens": 80} if index % 3 == 0 else {},
        **fields,
    )
    pieces = []
    async for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "")
        on_piece()
    return "".join(pieces)


async def stream_all(server: LaunchedServer, disturb: Callable[[], Awaitable[None]] | None) -> list[str]:
    """All streams at once; `disturb` runs when each has said something and not all have ended."""
    texts: dict[int, str] = {}
    begun: set[int] = set()
    all_begun = anyio.Event()
    async with (
        openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client,
        anyio.create_task_group() as tasks,
    ):

        async def one(index: int) -> None:
            def on_piece() -> None:
                begun.add(index)
                if len(begun) == NUM_STREAMS:
                    all_begun.set()

            texts[index] = await stream_one(client, index, on_piece)

        for index in range(NUM_STREAMS):
            tasks.start_soon(one, index)
        await all_begun.wait()
        if disturb is not None:
            assert len(texts) < NUM_STREAMS, "all streams ended before the last one began"
            await disturb()
    return [texts[index] for index in range(NUM_STREAMS)]


def pid_of(server: LaunchedServer, process: str) -> int:
    """Of the newest process with this name, such as `engine`."""
    pids = re.findall(rf"process {process}\.\d+ is up, pid (\d+)", server.log.read_text())
    return int(pids[-1])


@pytest.fixture(scope="module")
def undisturbed(server: LaunchedServer) -> list[str]:
    return anyio.run(stream_all, server, None)


@pytest.mark.parametrize("victim", [pytest.param("engine", marks=pytest.mark.thorough), "stage1"])
def test_constrained_streams_survive_a_killed_process_with_the_same_text(
    server: LaunchedServer, undisturbed: list[str], victim: str
) -> None:
    pid = pid_of(server, victim)

    async def kill() -> None:
        os.kill(pid, signal.SIGKILL)

    disturbed = anyio.run(stream_all, server, kill)
    assert disturbed == undisturbed
    assert [is_story(text) for text in disturbed] == [index % 3 != 0 for index in range(NUM_STREAMS)]
    assert len(set(disturbed)) > NUM_STREAMS // 2, "a control: seeds make a difference"
    assert pid_of(server, victim) != pid, "a control: it did die"
