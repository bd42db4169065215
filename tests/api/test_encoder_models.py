"""Models that generate nothing, through the official client and plain HTTP: transformers is the judge of their numbers,
and sentence-transformers' files say what becomes of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.models import write_model, write_tokenizer
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio_api.testing import endpoint_over
from histrio_api.text.tokenizer import Tokenizer
from histrio_torch.factory import TorchFactory
from histrio_torch.testing.encoders import ENCODER_LENGTH, make_encoder, states_of, write_pair_tokenizer
from tests.api.test_embeddings import unit, write_pooling

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]  # imports transformers' model code

MOST_ERROR = 1e-5
WORDS = [f"w{at}" for at in range(140)]
TEXTS = [" ".join(WORDS[(7 * at + nth) % 140] for at in range(length)) for nth, length in enumerate((5, 48, 1, 20))]
OPTIONS = HarnessOptions(max_sequence_length=ENCODER_LENGTH)
ClientOf = Callable[..., AbstractAsyncContextManager[openai.AsyncOpenAI]]


def made(model_type: str, folder: Path, *, scores: bool = False, **settings: Any) -> Any:
    model = make_encoder(model_type, folder, scores=scores, **settings)
    has_types = "bert" == model_type
    write_pair_tokenizer(folder, WORDS, has_types=has_types)
    return model


def ids_of(folder: Path, text: str) -> list[int]:
    return Tokenizer.load(folder).encode(text, add_special=True)


@asynccontextmanager
async def http_of(folder: Path, options: HarnessOptions = OPTIONS) -> AsyncIterator[tuple[Harness, httpx.AsyncClient]]:
    async with (
        serving(folder, TorchFactory(), samplers=[], options=options) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield harness, http


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "roberta"])
async def test_the_official_client_gets_the_vectors_of_an_encoder(
    tmp_path: Path, client_of: ClientOf, model_type: str
) -> None:
    model = made(model_type, tmp_path / "encoder")
    async with client_of(serving(tmp_path / "encoder", TorchFactory(), samplers=[], options=OPTIONS)) as client:
        found = await client.embeddings.create(model="encoder", input=TEXTS)
    for text, each in zip(TEXTS, found.data, strict=True):
        states = states_of(model, ids_of(tmp_path / "encoder", text))
        assert np.abs(np.array(each.embedding) - unit(states.mean(axis=0))).max() <= MOST_ERROR
        assert np.abs(np.array(each.embedding) - unit(states[0])).max() > 0.01, "a control: another pooling"


@pytest.mark.parametrize("normalizes", [False, True])
@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
async def test_the_files_say_how_vectors_are_made(tmp_path: Path, mode: str, normalizes: bool) -> None:
    model = made("bert", tmp_path)
    write_pooling(tmp_path, "Pooling", *(["Normalize"] if normalizes else []), pooling_mode=mode)
    async with http_of(tmp_path) as (_, http):
        data = (await http.post("/v1/embeddings", json={"input": TEXTS})).json()["data"]
        fields = {"input": TEXTS[0], "pooling": "cls", "normalize": False}
        own = (await http.post("/v1/embeddings", json=fields)).json()["data"][0]["embedding"]
    for text, each in zip(TEXTS, data, strict=True):
        states = states_of(model, ids_of(tmp_path, text))
        pooled = {"cls": states[0], "mean": states.mean(axis=0), "lasttoken": states[-1]}[mode]
        assert np.abs(np.array(each["embedding"]) - (unit(pooled) if normalizes else pooled)).max() <= MOST_ERROR
        assert np.linalg.norm(pooled) != pytest.approx(1, abs=0.01), "a control: scaling changes it"
    first = states_of(model, ids_of(tmp_path, TEXTS[0]))[0]
    assert np.abs(np.array(own) - first).max() <= MOST_ERROR


async def test_a_step_has_whole_texts_only(tmp_path: Path) -> None:
    """Two of them exceed a step, and chunks are smaller than any."""
    model = made("bert", tmp_path)
    texts = [" ".join(WORDS[nth : nth + 38]) for nth in range(12)]
    options = HarnessOptions(max_sequence_length=64, max_num_tokens_per_batch=64, chunked_prefill_size=8)
    async with http_of(tmp_path, options) as (harness, http):
        data = (await http.post("/v1/embeddings", json={"input": texts})).json()["data"]
        assert harness.gateway.model.max_sequence_length == 64
    for text, each in zip(texts, data, strict=True):
        expected = unit(states_of(model, ids_of(tmp_path, text)).mean(axis=0))
        assert np.abs(np.array(each["embedding"]) - expected).max() <= MOST_ERROR


async def test_no_text_is_longer_than_a_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made("bert", tmp_path)
    async with http_of(tmp_path, HarnessOptions(max_sequence_length=64, max_num_tokens_per_batch=40)) as (
        harness,
        http,
    ):
        assert harness.gateway.model.max_sequence_length == 40
        refused = await http.post("/v1/embeddings", json={"input": " ".join(WORDS[:39])})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert (await http.post("/v1/embeddings", json={"input": " ".join(WORDS[:38])})).status_code == 200
    assert "max-num-tokens-per-batch" in caplog.text


async def test_long_texts_are_refused_or_cut_between_what_is_added(tmp_path: Path) -> None:
    model = made("bert", tmp_path)
    long = " ".join(WORDS[:100])
    async with http_of(tmp_path) as (_, http):
        refused = await http.post("/v1/embeddings", json={"input": long})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        for asked, kept in ((-1, ENCODER_LENGTH), (10, 10)):
            answer = (await http.post("/v1/embeddings", json={"input": long, "truncate_prompt_tokens": asked})).json()
            ids = ids_of(tmp_path, " ".join(WORDS[: kept - 2]))
            assert (len(ids), answer["usage"]["prompt_tokens"]) == (kept, kept)
            expected = unit(states_of(model, ids).mean(axis=0))
            assert np.abs(np.array(answer["data"][0]["embedding"]) - expected).max() <= MOST_ERROR


def joined(folder: Path, first: str, second: str) -> tuple[list[int], list[int]]:
    """Ids and types as `tokenizers` joins a pair."""
    import tokenizers

    encoding = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(first, second)
    return encoding.ids, encoding.type_ids


def sigmoid(number: float) -> float:
    return float(1 / (1 + np.exp(-number)))


@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta"])
async def test_a_cross_encoder_scores_pairs(tmp_path: Path, model_type: str) -> None:
    model = made(model_type, tmp_path, scores=True)
    expected = []
    for text in TEXTS[1:]:
        ids, types = joined(tmp_path, TEXTS[0], text)
        expected.append(sigmoid(states_of(model, ids, types if model_type == "bert" else None)[0]))
    assert min(abs(one - other) for one, other in pairwise(expected)) > 0.001, "a control"
    async with http_of(tmp_path) as (_, http):
        one = (await http.post("/v1/score", json={"text_1": TEXTS[0], "text_2": TEXTS[1:]})).json()
        several = (await http.post("/v1/score", json={"text_1": [TEXTS[0]] * 3, "text_2": TEXTS[1:]})).json()
        ranked = (await http.post("/v1/rerank", json={"query": TEXTS[0], "documents": TEXTS[1:]})).json()
    assert [each["score"] for each in one["data"]] == pytest.approx(expected, abs=MOST_ERROR)
    assert [each["score"] for each in several["data"]] == pytest.approx(expected, abs=MOST_ERROR)
    order = np.argsort(-np.array(expected)).tolist()
    assert [each["index"] for each in ranked["results"]] == order
    assert [each["relevance_score"] for each in ranked["results"]] == pytest.approx(
        [expected[index] for index in order], abs=MOST_ERROR
    )
    num_tokens = sum(len(joined(tmp_path, TEXTS[0], text)[0]) for text in TEXTS[1:])
    assert one["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


async def test_the_types_of_a_pair_reach_the_model(tmp_path: Path) -> None:
    """The control of the test before: the same ids under one type get another score."""
    model = made("bert", tmp_path, scores=True)
    ids, types = joined(tmp_path, TEXTS[0], TEXTS[1])
    assert abs(states_of(model, ids)[0] - states_of(model, ids, types)[0]) > 0.001
    assert types.index(1) == len(ids_of(tmp_path, TEXTS[0]))


@pytest.mark.parametrize(
    "named",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
async def test_scores_are_left_as_they_are_where_the_files_say_so(tmp_path: Path, named: dict[str, Any]) -> None:
    model = made("bert", tmp_path, scores=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | named))
    expected = states_of(model, *joined(tmp_path, TEXTS[0], TEXTS[1]))[0]
    async with http_of(tmp_path) as (_, http):
        (found,) = (await http.post("/v1/score", json={"text_1": TEXTS[0], "text_2": TEXTS[1]})).json()["data"]
    assert found["score"] == pytest.approx(expected, abs=MOST_ERROR)
    assert found["score"] != pytest.approx(sigmoid(expected), abs=0.01), "a control"


async def test_a_long_pair_is_refused_or_loses_the_end_of_the_longer_text(tmp_path: Path) -> None:
    model = made("bert", tmp_path, scores=True)
    query, long = "w1 w2 w3", " ".join(WORDS[:100])
    async with http_of(tmp_path) as (_, http):
        fields: dict[str, Any] = {"text_1": query, "text_2": [long]}
        refused = await http.post("/v1/score", json=fields)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        (found,) = (await http.post("/v1/score", json=fields | {"truncate_prompt_tokens": -1})).json()["data"]
    expected = sigmoid(states_of(model, *joined(tmp_path, query, " ".join(WORDS[: ENCODER_LENGTH - 6])))[0])
    assert found["score"] == pytest.approx(expected, abs=MOST_ERROR)


@pytest.mark.parametrize("has_types", [True, False])
@pytest.mark.parametrize(("first", "second"), [(30, 9), (9, 30), (30, 30), (40, 41), (3, 3)])
@pytest.mark.parametrize("most", [4, 21, 40, 200])
def test_pairs_are_cut_as_the_library_cuts_them(
    tmp_path: Path, has_types: bool, first: int, second: int, most: int
) -> None:
    import tokenizers

    write_pair_tokenizer(tmp_path, WORDS, has_types=has_types)
    pair = " ".join(WORDS[:first]), " ".join(WORDS[50 : 50 + second])
    judge = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    judge.enable_truncation(most, strategy="longest_first")
    expected = judge.encode(*pair)
    ids, second_at = Tokenizer.load(tmp_path).encode_pair(*pair, add_special=True, most=most)
    assert ids == expected.ids
    assert second_at == (expected.type_ids.index(1) if has_types and 1 in expected.type_ids else 0)


@pytest.mark.parametrize("cuts", [[], [1]])
async def test_a_decoder_with_a_head_that_scores_does_so_on_any_number_of_stages(
    tmp_path: Path, cuts: list[int]
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=160,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        pad_token_id=1,
        id2label={0: "LABEL_0"},
    )
    torch.manual_seed(4)
    model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path)
    write_pair_tokenizer(tmp_path, WORDS)
    options = HarnessOptions(max_sequence_length=64, chunked_prefill_size=8, kv_block_size=16)
    expected = [sigmoid(states_of(model, joined(tmp_path, TEXTS[0], text)[0])[0]) for text in TEXTS[1:]]
    async with (
        serving(tmp_path, TorchFactory(), samplers=[], cuts=cuts, options=options) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        for _ in range(2):
            data = (await http.post("/v1/score", json={"text_1": TEXTS[0], "text_2": TEXTS[1:]})).json()["data"]
            assert [each["score"] for each in data] == pytest.approx(expected, abs=MOST_ERROR)
    assert max(expected) - min(expected) > 0.01, "a control: texts differ"


@pytest.mark.parametrize("cuts", [[], [1]])
async def test_a_decoder_without_a_head_makes_vectors_and_no_text(tmp_path: Path, cuts: list[int]) -> None:
    import torch
    from transformers import AutoModel

    folder = write_model("qwen3", tmp_path / "whole")
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    bare = tmp_path / "bare"
    write_tokenizer(bare)
    model.save_pretrained(bare)
    ids = [[(17 * at + 3 * nth) % 250 + 3 for at in range(length)] for nth, length in enumerate((5, 90, 1))]
    options = HarnessOptions(kv_block_size=16, num_cache_blocks=64)
    async with (
        serving(bare, TorchFactory(), samplers=[], cuts=cuts, options=options) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        data = (await http.post("/v1/embeddings", json={"input": ids})).json()["data"]
        assert (await http.post("/v1/completions", json={"prompt": "w1"})).json()["error"][
            "code"
        ] == "unsupported_model"
        (card,) = (await http.get("/v1/models")).json()["data"]
    assert card["tasks"] == ["embed", "score"]
    for own, each in zip(ids, data, strict=True):
        states = states_of(model, own)
        assert np.abs(np.array(each["embedding"]) - unit(states.mean(axis=0))).max() <= MOST_ERROR
        assert len(own) == 1 or np.abs(np.array(each["embedding"]) - unit(states[-1])).max() > 0.01, "a control"


async def asked(http: httpx.AsyncClient) -> dict[str, tuple[int, str]]:
    """What each endpoint answers: its status, and the code of an error."""
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "w1"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "w1"}]},
        "/v1/responses": {"input": "w1"},
        "/api/generate": {"model": "default", "prompt": "w1"},
        "/completion": {"prompt": "w1"},
        "/v1/embeddings": {"input": "w1"},
        "/api/embed": {"input": "w1"},
        "/v1/score": {"text_1": "w1", "text_2": "w2"},
        "/v1/rerank": {"query": "w1", "documents": ["w2"]},
    }
    found = {}
    for path, body in bodies.items():
        answer = await http.post(path, json=body)
        found[path] = (answer.status_code, answer.text)
    return found


GENERATING = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/api/generate", "/completion")
EMBEDDING = ("/v1/embeddings", "/api/embed")
SCORING = ("/v1/score", "/v1/rerank")


@pytest.mark.parametrize(
    ("scores", "tasks", "refused"),
    [
        (False, ["embed", "score"], dict.fromkeys(GENERATING, "generates no text; it makes vectors")),
        (
            True,
            ["score"],
            {
                **dict.fromkeys(GENERATING, "generates no text; it scores and ranks"),
                **dict.fromkeys(EMBEDDING, "makes no vectors; it scores and ranks"),
            },
        ),
    ],
)
async def test_the_kind_of_the_model_decides_which_endpoints_answer(
    tmp_path: Path, scores: bool, tasks: list[str], refused: dict[str, str]
) -> None:
    made("bert", tmp_path, scores=scores)
    async with http_of(tmp_path) as (harness, http):
        (card,) = (await http.get("/v1/models")).json()["data"]
        assert (card["kind"], card["tasks"]) == (tasks[0], tasks)
        shown = (await http.post("/api/show", json={"model": "default"})).json()["capabilities"]
        assert shown == ([] if scores else ["embedding"])
        for path, (status, text) in (await asked(http)).items():
            assert status == (400 if path in refused else 200), path
            assert refused.get(path, "") in text
        error = (await http.post("/v1/completions", json={"prompt": "w1"})).json()["error"]
        assert (error["param"], error["code"], error["type"]) == (
            "model",
            "unsupported_model",
            "invalid_request_error",
        )
        assert harness.gateway.status.num_unfinished == 0


async def test_a_model_that_generates_does_it_all(tmp_path: Path) -> None:
    """The control of the test before."""
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    async with (
        serving(folder, ToyFactory(), samplers=[], options=HarnessOptions()) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        (card,) = (await http.get("/v1/models")).json()["data"]
        assert (card["kind"], card["tasks"]) == ("generate", ["generate", "embed", "score"])
        for path, (status, text) in (await asked(http)).items():
            assert status == 200, (path, text)


async def test_a_head_takes_no_pooling(tmp_path: Path) -> None:
    made("bert", tmp_path, scores=True)
    async with http_of(tmp_path) as (_, http):
        answer = await http.post("/v1/score", json={"text_1": "w1", "text_2": "w2", "pooling": "mean"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "pooling")
