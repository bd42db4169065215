"""One endpoint for most tests of this folder; each test writes what its gateway answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import histrio.demo
from histrio.contracts.gateway import GatewayStatus
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio_api.testing import (
    Script,
    ScriptedGateway,
    endpoint_over,
    running_endpoint,
    saying,
    served_model,
    write_tokenizer,
)
from histrio_api.text.tokenizer import Tokenizer
from histrio_grammars.backend import Llguidance
from histrio_samplers.plugin import SAMPLERS

MODEL = "test/scripted"
HELLO = [{"role": "user", "content": "Hello"}]


@dataclass
class Endpoint:
    """A running endpoint, its scripted gateway, and clients."""

    url: str
    gateway: ScriptedGateway
    tokenizer: Tokenizer
    client: openai.OpenAI
    http: httpx.Client

    def says(self, text: str) -> None:
        """Every choice answers `text`, a token at a time."""
        ids = self.tokenizer.encode(text, add_special=False)
        self.gateway.script = lambda submission, choice: saying(ids, num_logprobs=submission.ask.num_logprobs)

    def plays(self, script: Script) -> None:
        """Every choice plays this script."""
        self.gateway.script = lambda submission, choice: list(script)

    def ids(self, text: str) -> list[int]:
        """Ids of a text without special tokens."""
        return self.tokenizer.encode(text, add_special=False)

    def chat(self, **fields: object) -> httpx.Response:
        """POST a chat with these fields besides model and messages."""
        return self.http.post("/v1/chat/completions", json={"model": MODEL, "messages": HELLO} | fields)

    def complete(self, **fields: object) -> httpx.Response:
        """POST a completion with these fields besides the model."""
        return self.http.post("/v1/completions", json={"model": MODEL} | fields)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripted")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.load(model_folder, bos_id=0)


@pytest.fixture(scope="session")
def shared_endpoint(model_folder: Path, tokenizer: Tokenizer) -> Iterator[Endpoint]:
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with (
        running_endpoint(gateway, **{"keep-alive-s": 0.05, "max-body-bytes": 200_000}) as url,
        httpx.Client(base_url=url) as http,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Endpoint(url, gateway, tokenizer, client, http)


@pytest.fixture(scope="module")
def roomy(model_folder: Path, tokenizer: Tokenizer) -> Iterator[Endpoint]:
    """One with the default limits."""
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: saying([]))
    with (
        running_endpoint(gateway) as url,
        httpx.Client(base_url=url) as http,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Endpoint(url, gateway, tokenizer, client, http)


@pytest.fixture
def endpoint(shared_endpoint: Endpoint) -> Endpoint:
    gateway = shared_endpoint.gateway
    gateway.status = GatewayStatus(state="ready", progress=1.0)
    gateway.refusal = None
    gateway.submissions.clear()
    gateway.streams.clear()
    shared_endpoint.says("Hi!")
    return shared_endpoint


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def client_of() -> Callable[..., AbstractAsyncContextManager[openai.AsyncOpenAI]]:
    """The official client of an endpoint over what is served."""

    @asynccontextmanager
    async def made(serving_model: AbstractAsyncContextManager[Harness]) -> AsyncIterator[openai.AsyncOpenAI]:
        async with (
            serving_model as harness,
            endpoint_over(harness.gateway) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield client

    return made


@dataclass
class Served:
    """A replica of the toy, which says anything at all, behind an endpoint with the official client."""

    harness: Harness
    url: str
    client: openai.AsyncOpenAI

    def create(self, **fields: Any) -> Any:
        """A chat, awaited: an answer or a stream."""
        given: dict[str, Any] = {"model": "toy", "messages": HELLO, "temperature": 1.0} | fields
        return self.client.chat.completions.create(**given)


@pytest.fixture
def random_weights(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Served]]:
    """Serve random weights with this chat template, all samplers, and all grammars; with the demo model's tokens if
    told so, of which `<think>` and the like are some."""

    @asynccontextmanager
    async def serve(chat_template: str, *, has_demo_tokens: bool = False) -> AsyncIterator[Served]:
        model = write_toy_model(tmp_path / "toy", num_layers=2, max_sequence_length=8192)
        (model / "chat_template.jinja").write_text(chat_template)
        if has_demo_tokens:
            demo = Path(histrio.demo.__file__).parent / "target"
            (model / "tokenizer.json").write_bytes((demo / "tokenizer.json").read_bytes())
            known = {
                name: json.loads((demo / "config.json").read_text())[name] for name in ("vocab_size", "eos_token_id")
            }
            (model / "config.json").write_text(json.dumps(json.loads((model / "config.json").read_text()) | known))
        options = HarnessOptions(
            num_cache_blocks=4096, kv_block_size=16, max_sequence_length=8192, max_num_tokens_per_batch=2048
        )
        async with (
            serving(model, ToyFactory(), samplers=list(SAMPLERS), grammars=[Llguidance()], options=options) as harness,
            endpoint_over(harness.gateway) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client,
        ):
            yield Served(harness, url, client)

    return serve
