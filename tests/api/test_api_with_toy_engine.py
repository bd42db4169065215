"""The endpoint over the real gateway and engine, in one process, with the toy backend as judge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest

from histrio.config.settings import SpeculationSettings
from histrio.contracts.gateway import Submission
from histrio.testing.harness import Harness, HarnessOptions, serving
from histrio.testing.scripted_drafter import ScriptedDrafterFactory
from histrio.testing.toy import ToyFactory, toy_continuation, write_toy_model
from histrio.testing.wait import eventually_async
from histrio_api.testing import endpoint_over
from histrio_api.text.tokenizer import Tokenizer
from histrio_samplers.temperature import Temperature

pytestmark = pytest.mark.anyio

NUM_LAYERS, VOCAB = 2, 258


@dataclass
class Served:
    harness: Harness
    url: str
    client: openai.AsyncOpenAI
    tokenizer: Tokenizer


@asynccontextmanager
async def endpoint(folder: Path, options: HarnessOptions | None = None) -> AsyncIterator[Served]:
    model = write_toy_model(folder / "toy", num_layers=NUM_LAYERS)
    async with (
        serving(model, ToyFactory(), cuts=[1], samplers=[Temperature], options=options) as harness,
        endpoint_over(harness.gateway) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Served(harness, url, client, Tokenizer.load(model))


def reference(served: Served, prompt: str, num_tokens: int) -> str:
    ids = served.tokenizer.encode(prompt, add_special=False)
    return served.tokenizer.decode(toy_continuation(ids, num_tokens, num_layers=NUM_LAYERS, vocab_size=VOCAB))


async def streamed(served: Served, prompt: str, num_tokens: int) -> str:
    stream = await served.client.completions.create(
        model="toy", prompt=prompt, max_tokens=num_tokens, stream=True, extra_body={"ignore_eos": True}
    )
    return "".join([chunk.choices[0].text async for chunk in stream])


async def test_streams_side_by_side_say_what_the_plain_computation_says(tmp_path: Path) -> None:
    texts: dict[str, str] = {}
    async with endpoint(tmp_path) as served:

        async def one(prompt: str) -> None:
            texts[prompt] = await streamed(served, prompt, 20)

        prompts = [f"prompt number {i} " * (1 + i % 3) for i in range(24)]
        async with anyio.create_task_group() as tasks:
            for prompt in prompts:
                tasks.start_soon(one, prompt)
        assert texts == {prompt: reference(served, prompt, 20) for prompt in prompts}
        assert len(set(texts.values())) == len(prompts), "a control: other prompts get other answers"


async def test_a_chat_is_answered_with_usage_and_reason(tmp_path: Path) -> None:
    async with endpoint(tmp_path) as served:
        answer = await served.client.chat.completions.create(
            model="toy", messages=[{"role": "user", "content": "hi"}], max_tokens=5, extra_body={"ignore_eos": True}
        )
        prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert answer.choices[0].message.content == reference(served, prompt, 5)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5


async def test_a_client_that_leaves_frees_its_blocks(tmp_path: Path) -> None:
    options = HarnessOptions(stage_options={"step-s": 0.002})
    async with endpoint(tmp_path, options) as served:
        body = {"model": "toy", "prompt": "a", "ignore_eos": True, "max_tokens": 400}
        async with httpx.AsyncClient(base_url=served.url) as http:
            async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
                received = response.aiter_bytes()
                await anext(received)
                assert served.harness.gateway.status.num_unfinished == 1
            with pytest.raises(httpx.ReadTimeout):
                await http.post("/v1/completions", json=body, timeout=httpx.Timeout(5, read=0.1))
        await eventually_async(lambda: served.harness.gateway.status.num_unfinished == 0)
        assert await streamed(served, "b", 5) == reference(served, "b", 5)


async def test_more_than_the_credits_is_a_429(tmp_path: Path) -> None:
    async with endpoint(tmp_path, HarnessOptions(max_unfinished_requests=2)) as served:
        gateway = served.harness.gateway
        room = gateway.model.max_sequence_length - 1
        (running,) = gateway.submit(Submission(ids=[1], max_new_tokens=room))
        with pytest.raises(openai.RateLimitError) as caught:
            await served.client.completions.create(model="toy", prompt="a", max_tokens=2, n=2)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        running.cancel()
        answer = await served.client.completions.create(model="toy", prompt="a", max_tokens=2, n=2)
        assert len(answer.choices) == 2


async def test_sampling_fields_are_those_of_the_registered_samplers(tmp_path: Path) -> None:
    async with endpoint(tmp_path) as served:
        for fields, param in (({"temperature": -1}, "temperature"), ({"top_p": 0.5}, "top_p")):
            with pytest.raises(openai.BadRequestError) as caught:
                await served.client.completions.create(model="toy", prompt="a", **fields)
            assert caught.value.param == param


async def test_usage_tells_what_the_prefix_cache_saved(tmp_path: Path) -> None:
    async def cached(served: Served, **extra: Any) -> int:
        answer = await served.client.completions.create(
            model="toy", prompt="the same beginning", max_tokens=2, n=2, temperature=1, extra_body=extra
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens == 18
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    async with endpoint(tmp_path) as served:
        cold, warm, salted = await cached(served), await cached(served), await cached(served, cache_salt="other")
        async with httpx.AsyncClient(base_url=served.url) as http:
            reset = await http.post("/v1/cache/reset")
        assert (reset.status_code, reset.json()) == (200, {"status": "reset"})
        after_reset = await cached(served)
    assert (cold, warm, salted, after_reset) == (0, 16, 0, 0)


async def test_no_more_is_drafted_than_a_request_allows(tmp_path: Path) -> None:
    always = SpeculationSettings(speculation_length=4, adaptive=False)
    options = HarnessOptions(drafter=ScriptedDrafterFactory(lambda ids, count: [7] * count), speculation=always)
    async with endpoint(tmp_path, options) as served:

        async def num_rejected(**extra: Any) -> int | None:
            answer = await served.client.completions.create(model="toy", prompt="a", max_tokens=9, extra_body=extra)
            assert answer.usage is not None
            assert answer.usage.completion_tokens_details is not None
            return answer.usage.completion_tokens_details.rejected_prediction_tokens

        assert await num_rejected(max_speculation=0, ignore_eos=True) == 0
        assert 0 < (await num_rejected(max_speculation=1, ignore_eos=True) or 0) <= 8
        assert (await num_rejected(ignore_eos=True) or 0) > 8, "a control: without a bound there are four each time"
        for bound in (-1, 65, 1.5):
            with pytest.raises(openai.BadRequestError) as caught:
                await num_rejected(max_speculation=bound)
            assert caught.value.param == "max_speculation"


async def test_a_priority_is_within_its_bounds(tmp_path: Path) -> None:
    async with endpoint(tmp_path) as served:
        for priority in (-1, 101, 1.5):
            with pytest.raises(openai.BadRequestError) as caught:
                await served.client.completions.create(model="toy", prompt="a", extra_body={"priority": priority})
            assert caught.value.param == "priority"
        await served.client.completions.create(model="toy", prompt="a", max_tokens=1, extra_body={"priority": 3})
