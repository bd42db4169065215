"""Every promised family behind the real endpoint: eight streams join and leave, and say what transformers says."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from histrio.testing.harness import HarnessOptions, serving
from histrio.testing.toy import write_toy_model
from histrio_api.testing import endpoint_over
from histrio_api.text.tokenizer import Tokenizer
from histrio_mlx.factory import MlxFactory
from histrio_samplers.temperature import Temperature
from histrio_torch.testing import refer

pytestmark = pytest.mark.anyio

PROMISED = ["llama", "qwen3", "gemma", "gemma3", "phi3", "mistral", "cohere", "deepseek_v3", "glm4_moe", "minimax_m2"]
ALWAYS = ("llama", "gemma3", "deepseek_v3")
"""Plain, with windows, with latent attention; `test_mlx_families.py` asks the others without an endpoint."""
BYTES = {"vocab_size": 264}
"""The vocabulary of the toy's byte-level tokenizer, which is put beside the models."""
NUM_STREAMS, NUM_TOKENS = 8, 10
OPTIONS = HarnessOptions(
    max_batch_size=NUM_STREAMS, chunked_prefill_size=16, max_num_tokens_per_batch=48, max_sequence_length=64
)


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": True}


@asynccontextmanager
async def endpoint(model: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serving(model, MlxFactory(), cuts=[2], samplers=[Temperature], options=OPTIONS) as harness,
        endpoint_over(harness.gateway) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "family", [each if each in ALWAYS else pytest.param(each, marks=pytest.mark.thorough) for each in PROMISED]
)
async def test_eight_streams_say_what_transformers_says(
    family: str, mlx_model: Callable[..., Any], tmp_path: Path
) -> None:
    tiny = mlx_model(family, **BYTES)
    toy = write_toy_model(tmp_path / "toy")
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(toy / name, tiny.folder)
    tokenizer = Tokenizer.load(tiny.folder)
    prompts = [f"{index} tells " * (1 + index % 3) for index in range(NUM_STREAMS)]
    expected = {prompt: _transformers_text(tiny, tokenizer, prompt, NUM_TOKENS) for prompt in prompts}
    texts: dict[str, str] = {}

    async with endpoint(tiny.folder) as client, anyio.create_task_group() as tasks:
        for prompt in prompts:
            tasks.start_soon(_stream, client, tiny.folder.name, prompt, texts)

    assert texts == expected
    assert len(set(texts.values())) > NUM_STREAMS // 2, "a control: other prompts get other answers"


def _transformers_text(tiny: Any, tokenizer: Tokenizer, prompt: str, num_tokens: int) -> str:
    ids = tokenizer.encode(prompt, add_special=False)
    return tokenizer.decode(refer(tiny.model, ids, num_tokens).tokens)


async def _stream(client: openai.AsyncOpenAI, model: str, prompt: str, texts: dict[str, str]) -> None:
    stream = await client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=NUM_TOKENS,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    texts[prompt] = "".join([chunk.choices[0].text async for chunk in stream])
