"""SGLang's engine behind the endpoint, in an environment of its own: transformers' tokens, a node that outlives it."""

from __future__ import annotations

import re
import signal
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import openai
import psutil
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from histrio.testing.launched import LaunchedServer
from histrio.testing.models import write_model
from histrio.testing.wait import eventually, eventually_async

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]  # SGLang takes ten seconds to import, in each process

NUM_TOKENS = 40
LONG = 400
PROMPTS = [[3 + row, 50, 7 * row % 200 + 5, 9][: 2 + row % 3] + [11] * (2 * row) for row in range(16)]


class Server:
    """A tiny model of one family on SGLang's engine, and what transformers says of it."""

    def __init__(self, family: str, python: str, folder: Path) -> None:
        self.model = write_model(family, folder / "tiny")
        self.launched = LaunchedServer(
            *("--model", str(self.model), "--backend", "sglang-engine", "--set", f"stage.python={python}"),
            *("--set", "stage.device=cpu", "--set", "stage.threads=1"),
            log=folder / "log.txt",
        )

    def continuation(self, ids: list[int]) -> str:
        model: Any = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
        model.generation_config.eos_token_id = None
        prompt = torch.tensor([ids])
        output = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NUM_TOKENS, do_sample=False
        )
        text: str = Tokenizer.from_file(str(self.model / "tokenizer.json")).decode(output[0, len(ids) :].tolist())
        return text

    def gauge(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.launched.base_url}/metrics", timeout=30.0) as reply:
            lines = reply.read().decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"histrio_{name} ")), -1.0)

    def engine(self) -> psutil.Process:
        (found,) = psutil.Process(self.launched.process.pid).children()
        assert isinstance(found, psutil.Process)
        return found

    def scheduler(self) -> psutil.Process:
        """SGLang's process that computes; it has named itself."""
        (found,) = [child for child in self.engine().children() if "scheduler" in " ".join(child.cmdline())]
        assert isinstance(found, psutil.Process)
        return found


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def server(
    request: pytest.FixtureRequest, sglang_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    made = Server(request.param, sglang_python, tmp_path_factory.mktemp("served"))
    with made.launched:
        yield made


class Stream:
    """One streamed completion: its text so far, and the error that ended it, if one did."""

    def __init__(self, prompt: list[int], num_tokens: int, **fields: Any) -> None:
        body = {"ignore_eos": True}
        self.fields = {"model": "tiny", "prompt": prompt, "max_tokens": num_tokens, "extra_body": body, **fields}
        self.text = ""
        self.error: openai.APIError | None = None
        self.begun = anyio.Event()

    async def run(self, client: openai.AsyncOpenAI) -> None:
        try:
            async for chunk in await client.completions.create(stream=True, **self.fields):
                self.text += "".join(choice.text for choice in chunk.choices)
                self.begun.set()
        except openai.APIError as error:
            self.error = error
        finally:
            self.begun.set()


def client_of(server: Server) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.launched.base_url}/v1", api_key="none", max_retries=0)


def run_all(
    server: Server, streams: Sequence[Stream], disturb: Callable[[], Awaitable[None]] | None = None
) -> list[str]:
    """All streams side by side; `disturb` runs once each of them has begun."""

    async def run() -> None:
        async with client_of(server) as client, anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stream.run, client)
            for stream in streams:
                await stream.begun.wait()
            if disturb is not None:
                await disturb()

    anyio.run(run)
    return [stream.text for stream in streams]


def test_sixteen_streams_at_a_time_equal_transformers(server: Server) -> None:
    texts = run_all(server, [Stream(prompt, NUM_TOKENS, temperature=0) for prompt in PROMPTS])
    assert texts == [server.continuation(prompt) for prompt in PROMPTS]
    assert len(set(texts)) == len(PROMPTS), "a control: other prompts give other texts"


def test_an_abandoned_stream_frees_the_engine(server: Server) -> None:
    async def leave() -> None:
        async with client_of(server) as client:
            fields = {"max_tokens": LONG, "temperature": 0, "extra_body": {"ignore_eos": True}}
            stream = await client.completions.create(model="tiny", prompt=[9, 9], stream=True, **fields)  # type: ignore[call-overload]
            await anext(aiter(stream))
            assert server.gauge("unfinished_requests") == 1, "a control: it does run"
            await stream.close()
        await eventually_async(lambda: server.gauge("running_sequences") == 0)

    anyio.run(leave)
    assert server.gauge("unfinished_requests") == 0


@pytest.mark.parametrize("fields", [{"seed": 7}, {"extra_body": {"repetition_penalty": 1.3}}])
def test_a_field_that_sglang_does_not_honour_is_refused_by_name(server: Server, fields: dict[str, Any]) -> None:
    with openai.OpenAI(base_url=f"{server.launched.base_url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="tiny", prompt=[1, 2], max_tokens=2, **fields)
        honoured = client.completions.create(model="tiny", prompt=[1, 2], max_tokens=2, top_p=0.5, presence_penalty=1)
    (name,) = fields.get("extra_body", fields)
    assert caught.value.param == name
    assert "the backend 'sglang-engine'" in caught.value.message
    assert honoured.usage is not None, "a control: fields that it honours"
    assert honoured.usage.completion_tokens <= 2


@pytest.mark.parametrize("server", ["llama"], indirect=True)
@pytest.mark.parametrize("victim", ["scheduler", "engine"])
def test_a_killed_process_ends_no_node_and_no_greedy_stream(server: Server, victim: str) -> None:
    undisturbed = run_all(server, [Stream(prompt, LONG, temperature=0) for prompt in PROMPTS[:4]])
    greedy = [Stream(prompt, LONG, temperature=0) for prompt in PROMPTS[:4]]
    drawn = [Stream([7, 7], LONG, temperature=1.0), Stream([7, 8], LONG, temperature=0, presence_penalty=0.5)]
    engine, scheduler = server.engine(), server.scheduler()
    replays = server.gauge("replays_total")

    async def kill() -> None:
        (engine if victim == "engine" else scheduler).send_signal(signal.SIGKILL)

    disturbed = run_all(server, [*greedy, *drawn], kill)
    assert server.launched.process.poll() is None
    assert server.engine().pid != engine.pid, "a control: it did die"
    eventually(lambda: not scheduler.is_running())
    assert server.gauge("replays_total") == replays + len(greedy), "the others were ended at once"
    assert disturbed[: len(greedy)] == undisturbed
    assert [stream.error for stream in greedy] == [None] * len(greedy)
    assert [stream.error and stream.error.code for stream in drawn] == ["engine_restarted"] * 2
    if victim == "scheduler":
        assert re.search(r"SGLang's process .* ended|a process of SGLang failed", server.launched.log.read_text())
