"""rt-launch with an engine backend: the endpoint cannot tell the difference, and the node outlives the engine."""

from __future__ import annotations

import signal
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import openai
import psutil
import pytest
from tokenizers import Tokenizer

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import toy_continuation, write_toy_model
from histrio.testing.wait import eventually, eventually_async

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120)]  # rt-launch starts and restarts processes

NUM_LAYERS, VOCAB, NUM_TOKENS = 4, 258, 90
PROMPTS = [[1 + i, 50, 3] for i in range(4)]
SLOW = ["--backend-option", "step-s=0.02"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_model(tmp_path_factory.mktemp("models") / "toy", num_layers=NUM_LAYERS)


def launch(model: Path, folder: Path, *arguments: str) -> LaunchedServer:
    return LaunchedServer("--model", str(model), "--backend", "toy-engine", *arguments, log=folder / "log.txt")


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedServer]:
    with launch(model, tmp_path_factory.mktemp("run"), *SLOW) as launched:
        yield launched


def reference(model: Path, prompt: list[int]) -> str:
    """What the plain computation says, as text."""
    ids = toy_continuation(prompt, NUM_TOKENS, num_layers=NUM_LAYERS, vocab_size=VOCAB)
    text: str = Tokenizer.from_file(str(model / "tokenizer.json")).decode(ids)
    return text


def gauge(server: LaunchedServer, name: str) -> float:
    with urllib.request.urlopen(f"{server.base_url}/metrics", timeout=30.0) as reply:
        lines = reply.read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"histrio_{name} ")), -1.0)


def engine_of(server: LaunchedServer) -> psutil.Process:
    (engine,) = psutil.Process(server.process.pid).children()
    assert isinstance(engine, psutil.Process)
    return engine


class Stream:
    """One streamed completion: its text so far, and the error that ended it, if one did."""

    def __init__(self, prompt: list[int], **fields: Any) -> None:
        self.fields = {"prompt": prompt, "max_tokens": NUM_TOKENS, "extra_body": {"ignore_eos": True}, **fields}
        self.text = ""
        self.error: openai.APIError | None = None
        self.begun = anyio.Event()

    async def run(self, client: openai.AsyncOpenAI) -> None:
        try:
            async for chunk in await client.completions.create(model="toy", stream=True, **self.fields):
                self.text += "".join(choice.text for choice in chunk.choices)
                self.begun.set()
        except openai.APIError as error:
            self.error = error


Disturb = Callable[[], Awaitable[None]]


async def run_all(server: LaunchedServer, streams: Sequence[Stream], disturb: Disturb | None = None) -> None:
    """All streams side by side; `disturb` runs once each of them has begun."""
    async with openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stream.run, client)
            for stream in streams:
                await stream.begun.wait()
            if disturb is not None:
                await disturb()


def test_streams_give_what_the_plain_computation_gives(server: LaunchedServer, model: Path) -> None:
    streams = [Stream(prompt, temperature=0) for prompt in PROMPTS]
    anyio.run(run_all, server, streams)
    assert [stream.text for stream in streams] == [reference(model, prompt) for prompt in PROMPTS]
    assert len({stream.text for stream in streams}) == len(PROMPTS), "a control: other prompts give other texts"


def test_an_abandoned_stream_frees_the_engine(server: LaunchedServer) -> None:
    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.completions.create(
                model="toy", prompt=[9, 9], max_tokens=900, stream=True, temperature=0, extra_body={"ignore_eos": True}
            )
            await anext(aiter(stream))
            assert gauge(server, "unfinished_requests") == 1, "a control: it does run"
            await stream.close()
        await eventually_async(lambda: gauge(server, "running_sequences") == 0)

    anyio.run(leave)
    assert gauge(server, "unfinished_requests") == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_p": 0.5}, "top_p"),
        ({"seed": 7}, "seed"),
        ({"logprobs": 1}, "logprobs"),
        ({"extra_body": {"max_speculation": 0}}, "max_speculation"),
        ({"temperature": 3}, None),
    ],
)
def test_a_field_the_engine_does_not_honour_is_refused(
    server: LaunchedServer, fields: dict[str, Any], param: str | None
) -> None:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="toy", prompt=[1, 2], max_tokens=2, **fields)
    if param is None:
        assert caught.value.param == "temperature"
        assert "at most 2" in caught.value.message
        return
    assert caught.value.param == param
    assert "the backend 'toy-engine'" in caught.value.message


def test_several_choices_are_several_requests(server: LaunchedServer) -> None:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(model="toy", prompt=[1, 2], max_tokens=12, temperature=1.5, n=3)
    assert len({choice.text for choice in answer.choices}) == 3


def test_a_killed_engine_ends_no_node_and_no_greedy_stream(model: Path, tmp_path: Path) -> None:
    with launch(model, tmp_path, *SLOW) as server:
        greedy = [Stream(prompt, temperature=0) for prompt in PROMPTS]
        drawn = [Stream([7, 7], temperature=1.0), Stream([7, 8], temperature=0.5)]
        victim = engine_of(server)

        async def kill() -> None:
            victim.send_signal(signal.SIGKILL)

        anyio.run(run_all, server, [*greedy, *drawn], kill)
        assert server.process.poll() is None
        assert engine_of(server).pid != victim.pid, "a control: it did die"
        assert gauge(server, "replays_total") == len(greedy), "the others were ended at once"

        again = Stream([7, 7], temperature=1.0)
        anyio.run(run_all, server, [again])
    assert [stream.text for stream in greedy] == [reference(model, prompt) for prompt in PROMPTS]
    assert [stream.error for stream in greedy] == [None] * len(greedy)
    for stream in drawn:
        assert stream.error is not None
        assert stream.error.code == "engine_restarted"
        assert "send the request again" in stream.error.message
    assert again.error is None, "sent again, it is answered"


def test_an_engine_that_breaks_ends_its_process_and_another_takes_over(model: Path, tmp_path: Path) -> None:
    with launch(model, tmp_path, "--backend-option", "fail-at-step=40") as server:
        victim = engine_of(server)
        stream = Stream(PROMPTS[0], temperature=0)
        anyio.run(run_all, server, [stream])
        eventually(lambda: not victim.is_running())
        assert engine_of(server).pid != victim.pid
    assert stream.text == reference(model, PROMPTS[0])
    assert "the toy engine failed, as it was told to" in server.log.read_text()


def test_an_engine_may_run_in_an_environment_of_its_own(model: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/started\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with launch(model, tmp_path, "--set", f"stage.python={python}") as server:
        stream = Stream(PROMPTS[0], temperature=0)
        anyio.run(run_all, server, [stream])
    assert stream.text == reference(model, PROMPTS[0])
    assert (tmp_path / "started").read_text() == "-m histrio.children.child\n"


def test_one_ctrl_c_stops_the_engine_too(model: Path, tmp_path: Path) -> None:
    server = launch(model, tmp_path)
    server.wait_ready()
    engine = engine_of(server)
    assert server.stop() == 0
    assert not engine.is_running()
    assert "Traceback" not in server.log.read_text()


def test_an_engine_that_cannot_serve_the_model_ends_the_start_with_one_line(model: Path, tmp_path: Path) -> None:
    server = launch(model, tmp_path, "--backend-option", "speed=3")
    assert server.process.wait(60.0) == 2
    text = server.log.read_text()
    assert "Traceback" not in text
    assert "stage[0].options.speed: unknown key" in text.splitlines()[-1]
