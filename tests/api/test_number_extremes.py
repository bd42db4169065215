"""Every number of a request at its extremes, over a real engine with all samplers: an answer, or a 400 without echo."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from msgspec import inspect

from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_api.schemas.completions import CompletionRequest
from histrio_api.testing import endpoint_over
from histrio_samplers.plugin import SAMPLERS

pytestmark = pytest.mark.anyio

EXTREMES = ["-1", "0", "1", str(2**31), str(2**63), str(2**64), "1" + "0" * 30, "-1" + "0" * 30, "5e-324", "1e308"]
LONG = ["9" * 400, "9" * 4299, "9" * 4300, "9" * 4301, "-" + "9" * 4300, "1e400", "9" * 400 + ".5"]
ID_FIELDS = ["stop_token_ids", "allowed_token_ids", "bad_words_ids", "dry_sequence_breaker_ids", "prompt"]


def numbers_of(kind: type) -> list[str]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return [field.encode_name for field in info.fields if is_number(field.type)]


def is_number(expected: inspect.Type) -> bool:
    match expected:
        case inspect.Metadata(type=inner):
            return is_number(inner)
        case inspect.UnionType(types=types):
            return any(map(is_number, types))
        case _:
            return isinstance(expected, inspect.IntType | inspect.FloatType)


FIELDS = [*numbers_of(CompletionRequest), *(name for sampler in SAMPLERS for name in numbers_of(sampler.params))]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Harness, httpx.AsyncClient]]:
    model = write_toy_model(tmp_path / "toy", num_layers=1)
    options = HarnessOptions(max_unfinished_requests=64)
    async with (
        serving(model, ToyFactory(), samplers=list(SAMPLERS), options=options) as harness,
        endpoint_over(harness.gateway) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as client,
    ):
        yield harness, client


def body_of(field: str, value: str) -> bytes:
    # `max_tokens` once more would be the later one; JSON has no rule against it.
    return b'{"model": "toy", "prompt": "a", "temperature": 1, "max_tokens": 1, "%s": %s}' % (
        field.encode(),
        value.encode(),
    )


async def test_extremes_of_every_number_are_answered_or_refused(served: tuple[Harness, httpx.AsyncClient]) -> None:
    harness, client = served
    limiter = anyio.Semaphore(16)
    found: dict[int, int] = {200: 0, 400: 0}

    async def ask(field: str, value: str) -> None:
        async with limiter:
            response = await client.post("/v1/completions", content=body_of(field, value))
        assert response.status_code in (200, 400), (field, value[:40], response.text)
        assert "9" * 20 not in response.text, "a refusal repeats what was sent"
        found[response.status_code] += 1

    assert {"top_k", "seed", "max_tokens", "n", "dry_penalty_last_n", "mirostat_tau"} <= set(FIELDS)
    async with anyio.create_task_group() as tasks:
        for field in FIELDS:
            for value in (*EXTREMES, *(LONG if field in ("max_tokens", "top_k", "temperature", "seed") else ())):
                tasks.start_soon(ask, field, value)
        for field in ID_FIELDS:
            for value in EXTREMES:
                tasks.start_soon(ask, field, f"[{value}]")
                tasks.start_soon(ask, field, f"[[{value}]]")
    assert found[200] > 50
    assert found[400] > 150
    await eventually_async(lambda: harness.gateway.status.num_unfinished == 0)


async def test_as_many_tokens_as_there_are_or_more_mean_all(served: tuple[Harness, httpx.AsyncClient]) -> None:
    _, client = served

    async def answer(**fields: Any) -> str:
        request = {"model": "toy", "prompt": "abc", "temperature": 2, "seed": 7, "max_tokens": 24} | fields
        response = await client.post("/v1/completions", content=json.dumps(request))
        assert response.status_code == 200, response.text
        text: str = response.json()["choices"][0]["text"]
        return text

    plain = await answer()
    for top_k in (258, 2**31, 2**63, 2**64, 10**30):
        assert await answer(top_k=top_k) == plain
    assert await answer(top_k=1) != plain, "control"
    beyond = {"258": 100, "99999": 100, "9" * 30: 100}
    assert await answer(logit_bias=beyond) == plain
    assert await answer(logit_bias={"257": 100}) != plain, "control"
    for key in ("\u0661", "1\n", "+1", " 1", "1e0", ""):
        request = {"model": "toy", "prompt": "a", "logit_bias": {key: 1}}
        assert (await client.post("/v1/completions", json=request)).status_code == 400, key


async def test_more_choices_than_the_server_can_ever_run_are_refused_for_good(
    served: tuple[Harness, httpx.AsyncClient],
) -> None:
    _, client = served
    request = {"model": "toy", "prompt": ["a"] * 16, "max_tokens": 1, "n": 5}
    response = await client.post("/v1/completions", json=request)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
    assert (await client.post("/v1/completions", json=request | {"n": 4})).status_code == 200, "control: exactly 64"


async def test_whole_numbers_may_be_written_with_a_fraction(served: tuple[Harness, httpx.AsyncClient]) -> None:
    _, client = served

    async def answer(**fields: Any) -> httpx.Response:
        request = {"model": "toy", "prompt": "abc", "temperature": 2, "seed": 7} | fields
        return await client.post("/v1/completions", content=json.dumps(request))

    plain = await answer(max_tokens=3, top_k=5, stop_token_ids=[7], allowed_token_ids=[1, 2, 3])
    fractions = await answer(max_tokens=3.0, top_k=5.0, stop_token_ids=[7.0], allowed_token_ids=[1.0, 2.0, 3.0])
    assert fractions.json()["choices"] == plain.json()["choices"], fractions.text
    for field, value in (("max_tokens", 3.5), ("top_k", 5.5), ("stop_token_ids", [7.5]), ("allowed_token_ids", [1.5])):
        assert (await answer(**{field: value})).status_code == 400, "control"
