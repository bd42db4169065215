"""Vectors through Ollama's API: its official client, and the toy computed plainly, are the judges."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import ollama
import pytest
from msgspec.structs import replace

from histrio.config.vector_habits import VectorHabits
from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import ToyFactory, toy_states, write_toy_model
from histrio_api.testing import ScriptedGateway, endpoint_over, running_endpoint, saying, served_model
from histrio_api.text.tokenizer import Tokenizer

pytestmark = pytest.mark.anyio

NUM_LAYERS = 2
MAX_TOKENS = 40
TEXTS = ["The harbour sleeps.", "ß"]
LONG = "Nine brass lanterns " * 12


@asynccontextmanager
async def client_of(model: Path) -> AsyncIterator[ollama.AsyncClient]:
    options = HarnessOptions(max_sequence_length=MAX_TOKENS)
    async with (
        serving(model, ToyFactory(), samplers=[], options=options) as harness,
        endpoint_over(harness.gateway) as url,
    ):
        client = ollama.AsyncClient(host=url)
        yield client
        await client.close()  # type: ignore[no-untyped-call]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    model = write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"matryoshka_dimensions": [8]}))
    return model


def of_toy(model: Path, text: str) -> npt.NDArray[np.float64]:
    """Of the last token that the model takes; not scaled."""
    ids = Tokenizer.load(model).encode(text, add_special=True)[:MAX_TOKENS]
    last: npt.NDArray[np.float64] = toy_states(ids, num_layers=NUM_LAYERS).astype(np.float64)[-1]
    return last


def unit(vector: npt.NDArray[np.float64]) -> Any:
    return pytest.approx(vector / np.linalg.norm(vector), abs=1e-6)


async def test_the_official_client_gets_the_vectors_of_its_texts(toy: Path) -> None:
    async with client_of(toy) as client:
        found = await client.embed("toy:latest", TEXTS, options={"num_ctx": 2048, "temperature": 1.0})
        one = await client.embed("toy", TEXTS[0], dimensions=8)
        older = await client.embeddings("toy", TEXTS[1])
        nothing = await client.embed("toy", "")
        none = await client.embeddings("toy", "")
    first, second = (of_toy(toy, text) for text in TEXTS)
    assert [*found.embeddings] == [unit(first), unit(second)]
    assert found.embeddings[0] != unit(second), "a control"
    assert [*one.embeddings] == [unit(first[:8])]
    assert older.embedding == pytest.approx(second, abs=1e-6)
    assert older.embedding != unit(second), "a control: it is not scaled"
    num_tokens = sum(len(Tokenizer.load(toy).encode(text, add_special=True)) for text in TEXTS)
    assert (found.model, found.prompt_eval_count) == ("toy", num_tokens)
    assert 0 < (found.load_duration or 0) < (found.total_duration or 0)
    assert (nothing.embeddings, nothing.prompt_eval_count, none.embedding) == ([], 0, [])


async def test_long_texts_are_cut_unless_told_otherwise(toy: Path) -> None:
    async with client_of(toy) as client:
        assert [*(await client.embed("toy", LONG)).embeddings] == [unit(of_toy(toy, LONG))]
        assert (await client.embeddings("toy", LONG)).embedding == pytest.approx(of_toy(toy, LONG), abs=1e-6)
        with pytest.raises(ollama.ResponseError, match="maximum context length is 40") as refused:
            await client.embed("toy", LONG, truncate=False)
    assert refused.value.status_code == 400


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"input": [3]}, 400, "input"),
        ({"input": ["a"] * 2049}, 400, "input: at most 2048"),
        ({"truncate": "yes"}, 400, "truncate"),
        ({"options": 3}, 400, "options: must be an object"),
        ({"options": {"temperature": 0.5}}, 400, "temperature: not supported"),
        ({"dimensions": 5}, 400, "dimensions: vectors of this model may have 16, or 8"),
        ({"model": "llama9"}, 404, ""),
    ],
)
async def test_bad_input_is_named(toy: Path, fields: dict[str, Any], status: int, said: str) -> None:
    async with client_of(toy) as client:
        answer = await client._client.post("/api/embed", json={"model": "toy", "input": "a"} | fields)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(said)


def test_a_model_that_makes_no_vectors_says_so(model_folder: Path) -> None:
    habits = VectorHabits(refusal="the backend has no hidden states")
    model = replace(served_model(model_folder), vectors=habits)
    gateway = ScriptedGateway(model, lambda submission, choice: saying([]))
    with running_endpoint(gateway) as url:
        answer = httpx.post(f"{url}/api/embed", json={"model": "test/scripted", "input": "a"})
    assert (answer.status_code, "no hidden states" in answer.json()["error"]) == (400, True)
