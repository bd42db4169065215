"""One endpoint for most tests of this folder; each test writes what its gateway answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from histrio.gateway import GatewayStatus
from histrio_api.testing import Script, ScriptedGateway, running_endpoint, saying, served_model, write_tokenizer
from histrio_api.text.tokenizer import Tokenizer

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
        self.gateway.script = lambda submission, choice: saying(ids, num_logprobs=submission.num_logprobs)

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


@pytest.fixture
def endpoint(shared_endpoint: Endpoint) -> Endpoint:
    gateway = shared_endpoint.gateway
    gateway.status = GatewayStatus(state="ready", progress=1.0)
    gateway.refusal = None
    gateway.submissions.clear()
    gateway.streams.clear()
    shared_endpoint.says("Hi!")
    return shared_endpoint
