"""Vectors of texts through the official client: the toy, computed plainly, and transformers are the judges."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import openai
import pytest
import tokenizers
import torch
from transformers import AutoModel

from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.models import write_model
from histrio.testing.toy import TOY_WIDTH, ToyFactory, toy_states, write_toy_model
from histrio_api.request.texts import cut_text
from histrio_api.testing import endpoint_over
from histrio_api.text.tokenizer import Tokenizer
from histrio_torch.factory import TorchFactory

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]  # imports transformers' model code

NUM_LAYERS = 2
MOST_ERROR = 1e-6
TEXTS = ["The harbour sleeps.", "Nine brass lanterns " * 12, "ß"]
ClientOf = Callable[..., AbstractAsyncContextManager[openai.AsyncOpenAI]]
Vector = npt.NDArray[np.float64]


def write_pooling(model: Path, *steps: str, **pooling: Any) -> None:
    """Files beside the model as sentence-transformers writes them."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for at, step in enumerate(steps, start=1):
        modules.append(
            {"idx": at, "name": str(at), "path": f"{at}_{step}", "type": f"sentence_transformers.models.{step}"}
        )
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "1_Pooling").mkdir(exist_ok=True)
    (model / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)


def of_toy(model: Path, text: str | list[int], pooling: str = "last") -> Vector:
    """Not scaled."""
    ids = text if isinstance(text, list) else Tokenizer.load(model).encode(text, add_special=True)
    states = toy_states(ids, num_layers=NUM_LAYERS).astype(np.float64)
    pooled: Vector = states.mean(axis=0) if pooling == "mean" else states[-1]
    return pooled


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


@asynccontextmanager
async def http_of(model: Path, **options: Any) -> AsyncIterator[tuple[Harness, httpx.AsyncClient]]:
    async with (
        serving(model, ToyFactory(), samplers=[], options=HarnessOptions(**options)) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield harness, http


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_the_official_client_gets_vectors_of_length_one(toy: Path, client_of: ClientOf, encoding: Any) -> None:
    async with client_of(serving(toy, ToyFactory(), samplers=[], cuts=[1])) as client:
        found = await client.embeddings.create(model="toy", input=TEXTS, encoding_format=encoding)
        plain = await client.embeddings.create(model="toy", input=TEXTS)  # base64, which the client decodes itself
    assert [each.index for each in found.data] == [0, 1, 2]
    num_tokens = sum(len(Tokenizer.load(toy).encode(text, add_special=True)) for text in TEXTS)
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (num_tokens, num_tokens)
    for text, each, same in zip(TEXTS, found.data, plain.data, strict=True):
        given: Any = each.embedding
        vector = np.frombuffer(base64.b64decode(given), "<f4") if encoding == "base64" else np.array(given)
        assert vector == pytest.approx(unit(of_toy(toy, text)), abs=MOST_ERROR)
        assert vector == pytest.approx(np.array(same.embedding), abs=MOST_ERROR)
        assert vector != pytest.approx(unit(of_toy(toy, text[:-1] + "!")), abs=0.01), "a control: another text"


async def test_every_form_of_input_is_taken(toy: Path) -> None:
    ids = [[7, 8, 9], [200, 3]]
    async with http_of(toy) as (_, http):
        forms: list[tuple[Any, list[Any]]] = [("a", ["a"]), (["a", "b"], ["a", "b"]), (ids[0], ids[:1]), (ids, ids)]
        for given, expected in forms:
            answer = (await http.post("/v1/embeddings", json={"input": given})).json()
            assert len(answer["data"]) == len(expected)
            for each, text in zip(answer["data"], expected, strict=True):
                assert each["embedding"] == pytest.approx(unit(of_toy(toy, text)), abs=MOST_ERROR)


async def test_pooling_and_scaling_are_the_models_unless_asked_for(toy: Path) -> None:
    write_pooling(toy, "Pooling", pooling_mode_mean_tokens=True, pooling_mode_cls_token=False)
    async with http_of(toy) as (_, http):

        async def vector(**fields: Any) -> list[float]:
            answer = await http.post("/v1/embeddings", json={"input": TEXTS[1], **fields})
            found: list[float] = answer.json()["data"][0]["embedding"]
            return found

        mean, last = of_toy(toy, TEXTS[1], "mean"), of_toy(toy, TEXTS[1], "last")
        assert await vector() == pytest.approx(mean, abs=MOST_ERROR)
        assert await vector(normalize=True) == pytest.approx(unit(mean), abs=MOST_ERROR)
        assert await vector(pooling="last") == pytest.approx(last, abs=MOST_ERROR)
        assert mean != pytest.approx(last, abs=0.01), "a control"


@pytest.mark.parametrize(
    ("steps", "pooling", "said"),
    [
        (["Pooling"], {"pooling_mode_max_tokens": True}, "asks for a pooling that is not computed here"),
        (["Pooling", "Dense"], {"pooling_mode": "mean"}, "a step that is not computed here: Dense"),
    ],
)
async def test_what_the_files_ask_for_is_computed_or_refused(
    toy: Path, steps: list[str], pooling: dict[str, Any], said: str
) -> None:
    write_pooling(toy, *steps, **pooling)
    async with http_of(toy) as (_, http):
        answer = await http.post("/v1/embeddings", json={"input": "a"})
        assert answer.status_code == 400
        assert said in answer.json()["error"]["message"]


async def test_dimensions_are_those_that_the_model_was_trained_for(toy: Path) -> None:
    config = json.loads((toy / "config.json").read_text())
    (toy / "config.json").write_text(json.dumps(config | {"matryoshka_dimensions": [4, 8]}))
    async with http_of(toy) as (_, http):
        answer = await http.post("/v1/embeddings", json={"input": "a", "dimensions": 8})
        assert answer.json()["data"][0]["embedding"] == pytest.approx(unit(of_toy(toy, "a")[:8]), abs=MOST_ERROR)
        for dimensions in (5, TOY_WIDTH + 1):
            error = (await http.post("/v1/embeddings", json={"input": "a", "dimensions": dimensions})).json()["error"]
            assert (error["param"], "16, or 4, 8" in error["message"]) == ("dimensions", True)
        full = await http.post("/v1/embeddings", json={"input": "a", "dimensions": TOY_WIDTH})
        assert full.json()["data"][0]["embedding"] == pytest.approx(unit(of_toy(toy, "a")), abs=MOST_ERROR)


def test_a_text_that_is_cut_keeps_what_the_tokenizer_adds_around_it() -> None:
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2, "b": 3}, "a"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    plain.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer = Tokenizer(plain)
    assert [cut_text(tokenizer, "a b a b", most, add_special=True) for most in (6, 5, 3, 2)] == [
        [0, 2, 3, 2, 3, 1],
        [0, 2, 3, 2, 1],
        [0, 2, 1],
        [0, 1],
    ]
    assert cut_text(tokenizer, "a b a b", 3, add_special=False) == [2, 3, 2]


async def test_long_texts_are_refused_or_cut(toy: Path) -> None:
    tokenizer = Tokenizer.load(toy)
    async with http_of(toy, max_sequence_length=40) as (_, http):
        refused = await http.post("/v1/embeddings", json={"input": "x" * 41})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert (await http.post("/v1/embeddings", json={"input": "x" * 40})).status_code == 200, "no room is needed"
        for asked, kept in ((-1, 40), (7, 7)):
            answer = (
                await http.post("/v1/embeddings", json={"input": "xyz" * 30, "truncate_prompt_tokens": asked})
            ).json()
            ids = tokenizer.encode("xyz" * 30, add_special=True)[:kept]
            assert answer["data"][0]["embedding"] == pytest.approx(unit(of_toy(toy, ids)), abs=MOST_ERROR)
            assert answer["usage"]["prompt_tokens"] == kept


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", 3]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [100_000]}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "pooling": "max"}, "pooling"),
        ({"input": "a", "model": "another"}, "model"),
        ({"input": "a", "n": 2}, "n"),
    ],
)
async def test_bad_input_is_named(toy: Path, fields: dict[str, Any], param: str) -> None:
    async with http_of(toy) as (harness, http):
        answer = await http.post("/v1/embeddings", json=fields)
        assert answer.status_code == (404 if param == "model" else 400)
        assert answer.json()["error"]["param"] == param
        assert harness.gateway.status.num_unfinished == 0


async def test_more_texts_than_the_engine_takes_are_all_answered(toy: Path) -> None:
    async with http_of(toy, max_unfinished_requests=8) as (harness, http):
        answer = (await http.post("/v1/embeddings", json={"input": [f"text {at}" for at in range(100)]})).json()
        assert [each["index"] for each in answer["data"]] == list(range(100))
        assert answer["data"][99]["embedding"] == pytest.approx(unit(of_toy(toy, "text 99")), abs=MOST_ERROR)
        metrics = (await http.get("/metrics")).text
    assert 'histrio_http_requests_total{path="/v1/embeddings",status="200"} 1' in metrics
    assert harness.gateway.status.num_unfinished == 0


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("cuts", [[], [1]])
async def test_transformers_makes_the_same_vectors(
    tmp_path: Path, client_of: ClientOf, family: str, cuts: list[int]
) -> None:
    folder = write_model(family, tmp_path / family)
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [[(17 * at + 3 * nth) % 250 + 3 for at in range(length)] for nth, length in enumerate((5, 90, 1))]
    options = HarnessOptions(kv_block_size=16, num_cache_blocks=64)
    async with client_of(serving(folder, TorchFactory(), samplers=[], cuts=cuts, options=options)) as client:
        for pooling in ("mean", "last"):
            found = await client.embeddings.create(
                model=family, input=ids, extra_body={"pooling": pooling, "normalize": False}
            )
            for own, each in zip(ids, found.data, strict=True):
                with torch.no_grad():
                    states = model(torch.tensor([own])).last_hidden_state[0].double().numpy()
                expected = states.mean(axis=0) if pooling == "mean" else states[-1]
                assert np.abs(np.array(each.embedding) - expected).max() < 1e-4
                if len(own) > 1:
                    assert np.abs(np.array(each.embedding) - states[-2]).max() > 1e-2, "a control: another position"
