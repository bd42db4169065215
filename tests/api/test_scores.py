"""Scores and rankings of texts: the toy, computed plainly, is the judge, and the answers have the shapes of vLLM."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio_api.testing import endpoint_over
from histrio_api.text.tokenizer import Tokenizer
from tests.api.test_embeddings import NUM_LAYERS, of_toy, unit

pytestmark = pytest.mark.anyio

DOCUMENTS = ["The moon is late.", "A harbour sleeps.", "Nine lanterns.", "ß"]
QUERY = "Where is the harbour?"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)


@asynccontextmanager
async def http_of(model: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(model, ToyFactory(), samplers=[], cuts=[1], options=HarnessOptions()) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield http


def cosine(model: Path, one: str, other: str, pooling: str = "last") -> float:
    return float(unit(of_toy(model, one, pooling)) @ unit(of_toy(model, other, pooling)))


@pytest.mark.parametrize("url", ["/v1/score", "/score"])
async def test_scores_are_the_cosines_of_pairs(toy: Path, url: str) -> None:
    async with http_of(toy) as http:
        several = [*DOCUMENTS[1:], QUERY]
        forms: list[tuple[Any, Any, list[tuple[str, str]]]] = [
            (QUERY, DOCUMENTS[0], [(QUERY, DOCUMENTS[0])]),
            (QUERY, DOCUMENTS, [(QUERY, each) for each in DOCUMENTS]),
            ([QUERY], DOCUMENTS, [(QUERY, each) for each in DOCUMENTS]),
            (DOCUMENTS, several, list(zip(DOCUMENTS, several, strict=True))),
        ]
        for first, second, pairs in forms:
            answer = (await http.post(url, json={"model": "toy", "text_1": first, "text_2": second})).json()
            assert [each["index"] for each in answer["data"]] == list(range(len(pairs)))
            expected = [cosine(toy, *pair) for pair in pairs]
            assert [each["score"] for each in answer["data"]] == pytest.approx(expected, abs=1e-6)
            assert (answer["object"], answer["data"][0]["object"]) == ("list", "score")
        assert len({round(each, 3) for each in expected}) == len(pairs), "a control: scores differ"
    tokenizer = Tokenizer.load(toy)
    num_tokens = sum(len(tokenizer.encode(text, add_special=True)) for text in [*DOCUMENTS, *several])
    assert answer["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


@pytest.mark.parametrize("url", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_the_nearest_document_comes_first(toy: Path, url: str) -> None:
    expected = [cosine(toy, QUERY, each) for each in DOCUMENTS]
    nearest = np.argsort(-np.array(expected)).tolist()
    assert nearest != [0, 1, 2, 3], "a control: the order is another than the request's"
    async with http_of(toy) as http:
        given = {"query": QUERY, "documents": [DOCUMENTS[0], {"text": DOCUMENTS[1]}, *DOCUMENTS[2:]]}
        answer = (await http.post(url, json=given)).json()
        assert [each["index"] for each in answer["results"]] == nearest
        assert [each["document"]["text"] for each in answer["results"]] == [DOCUMENTS[index] for index in nearest]
        scores = [each["relevance_score"] for each in answer["results"]]
        assert scores == pytest.approx([expected[index] for index in nearest], abs=1e-6)

        short = (await http.post(url, json=given | {"top_n": 2, "return_documents": False})).json()
        assert [each["index"] for each in short["results"]] == nearest[:2]
        assert "document" not in short["results"][0]
        by_mean = (await http.post(url, json=given | {"pooling": "mean", "top_n": 1})).json()["results"][0]
        means = [cosine(toy, QUERY, each, "mean") for each in DOCUMENTS]
        assert by_mean["relevance_score"] == pytest.approx(max(means), abs=1e-6)


@pytest.mark.parametrize(
    ("url", "fields", "param"),
    [
        ("/v1/score", {"text_1": "a"}, "text_2"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1"),
        ("/v1/score", {"text_1": "a", "text_2": []}, "text_1"),
        ("/v1/score", {"text_1": "a", "text_2": [""]}, "text_2"),
        ("/v1/score", {"text_1": "a", "text_2": ["b"] * 2048}, "text_2"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": ["a"] * 2048}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": -1}, "top_n"),
    ],
)
async def test_bad_pairs_are_named(toy: Path, url: str, fields: dict[str, Any], param: str) -> None:
    async with http_of(toy) as http:
        answer = await http.post(url, json=fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
