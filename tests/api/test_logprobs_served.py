"""Log probabilities of served models: transformers judges the values, the toy backends the streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from histrio.contracts.honours import Honours
from histrio.testing.harness import Harness, HarnessOptions, serving, serving_engine
from histrio.testing.models import VOCAB_SIZE, write_model
from histrio.testing.toy import ToyFactory, toy_logits, write_toy_model
from histrio.testing.toy_engine import ToyEngineFactory
from histrio_api.text.tokenizer import Tokenizer
from histrio_samplers.temperature import Temperature
from histrio_torch.factory import TorchFactory

pytestmark = pytest.mark.anyio

NUM_LAYERS = 2
HI: Any = [{"role": "user", "content": "hi"}]
HI_TEXT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
MOST_ERROR = 1e-4
"""In float32, with logits of a few units."""


def ids_of(tokenizer: Tokenizer, entries: list[Any]) -> list[int]:
    """The ids behind a chat's entries; in the tests' vocabulary no two ids have the same bytes."""
    by_bytes = {bytes(tokenizer.spell(token_id)[1]): token_id for token_id in range(VOCAB_SIZE)}
    return [by_bytes[bytes(entry.bytes)] for entry in entries]


async def entries_of(client: openai.AsyncOpenAI, model: str, **fields: Any) -> list[list[Any]]:
    """The entries of each choice of a chat."""
    answer: Any = await client.chat.completions.create(
        model=model, messages=HI, logprobs=True, extra_body={"ignore_eos": True}, **fields
    )
    if not fields.get("stream"):
        return [choice.logprobs.content for choice in answer.choices]
    found: list[list[Any]] = [[] for _ in range(fields.get("n", 1))]
    async for chunk in answer:
        for choice in chunk.choices:
            found[choice.index] += choice.logprobs.content if choice.logprobs else []
    return found


@pytest.mark.timeout(60)  # imports transformers' model code
@pytest.mark.parametrize("stream", [False, True])
async def test_values_are_those_of_transformers(client_of: Any, tmp_path: Path, stream: bool) -> None:
    folder = write_model("llama", tmp_path / "llama")
    tokenizer = Tokenizer.load(folder)
    served = serving(folder, TorchFactory(), cuts=[1], samplers=[Temperature])
    async with client_of(served) as client:
        asked: dict[str, Any] = {"max_tokens": 12, "top_logprobs": 3, "n": 2, "temperature": 1.7, "seed": 5}
        choices = await entries_of(client, "llama", stream=stream, **asked)

    judge = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = tokenizer.encode(HI_TEXT, add_special=False)
    for entries in choices:
        ids = ids_of(tokenizer, entries)
        assert len(ids) == 12
        with torch.no_grad():
            expected = torch.log_softmax(judge(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1], -1)
        found = np.array([entry.logprob for entry in entries])
        assert np.abs(found - expected[range(12), ids].numpy()).max() < MOST_ERROR
        values, best = expected.topk(3)
        tops = np.array([[each.logprob for each in entry.top_logprobs] for entry in entries])
        assert [ids_of(tokenizer, entry.top_logprobs) for entry in entries] == best.tolist()
        assert np.abs(tops - values.numpy()).max() < MOST_ERROR

        assert np.abs(found[1:] - expected[range(11), ids[1:]].numpy()).max() > 0.1, "a control: one position off"
        heated = torch.log_softmax(expected / 1.7, -1)[range(12), ids].numpy()
        assert np.abs(found - heated).max() > 0.1, "a control: not of the distribution that was drawn from"
    assert ids_of(tokenizer, choices[0]) != ids_of(tokenizer, choices[1])


async def test_a_recovered_stream_has_the_entries_of_an_unbroken_one(client_of: Any, tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)
    fields: dict[str, Any] = {"max_tokens": 14, "top_logprobs": 2, "temperature": 1.5, "seed": 3, "stream": True}
    found: list[list[Any]] = []
    epochs: list[int] = []
    for fail_at_step in (0, 10):
        options = HarnessOptions(stage_options={"fail-at-step": fail_at_step, "fail-times": 1})
        served = serving(folder, ToyFactory(), cuts=[1], samplers=[Temperature], options=options)
        async with client_of(_noting(served, epochs)) as client:
            found += await entries_of(client, "toy", **fields)
            if not fail_at_step:
                other = await entries_of(client, "toy", **fields | {"seed": 4})
    assert epochs[0] == 1 < epochs[1], "the second run lost its replica on the way"
    assert len(found[0]) == 14
    assert found[0] == found[1]
    assert other[0] != found[0], "a control: another seed gives other entries"


@asynccontextmanager
async def _noting(served: AbstractAsyncContextManager[Harness], epochs: list[int]) -> AsyncIterator[Harness]:
    async with served as harness:
        yield harness
        epochs.append(harness.gateway.status.epoch)


async def test_streams_side_by_side_keep_their_own_entries(client_of: Any, tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)
    tokenizer = Tokenizer.load(folder)
    async with client_of(serving(folder, ToyFactory(), cuts=[1], samplers=[Temperature])) as client:

        async def columns_of(prompt: str, logprobs: int | None) -> Any:
            answer = await client.completions.create(
                model="toy", prompt=prompt, max_tokens=9, temperature=0, logprobs=logprobs
            )
            return answer.choices[0].logprobs

        found: dict[int, Any] = {}

        async def one(nth: int) -> None:
            found[nth] = await columns_of(f"prompt {nth}", nth % 3 - 1 if nth % 3 else None)

        async with anyio.create_task_group() as tasks:
            for nth in range(12):
                tasks.start_soon(one, nth)
    for nth, columns in found.items():
        if not nth % 3:
            assert columns is None
            continue
        ids = tokenizer.encode(f"prompt {nth}", add_special=False)
        logits = toy_logits(ids, num_layers=NUM_LAYERS, vocab_size=VOCAB_SIZE)
        assert columns.token_logprobs[0] == pytest.approx(_logprobs(logits).max(), abs=MOST_ERROR)
        assert columns.tokens[0] == tokenizer.spell(int(np.argmax(logits)))[0]
        assert {len(top) for top in columns.top_logprobs} == {1}, "greedy: the chosen one is the likeliest"


def _logprobs(logits: Any) -> Any:
    return torch.log_softmax(torch.tensor(np.asarray(logits), dtype=torch.float64), -1).numpy()


# --- engine backends -------------------------------------------------------------------------------------------------


class _SilentFields(msgspec.Struct, frozen=True):
    temperature: float = 1.0


class _SilentFactory(ToyEngineFactory):
    """An engine without log probabilities."""

    fields: type[msgspec.Struct] = _SilentFields
    honours = Honours()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_answers_for_the_chosen_tokens(client_of: Any, tmp_path: Path, stream: bool) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)
    tokenizer = Tokenizer.load(folder)
    async with client_of(serving_engine(folder, ToyEngineFactory())) as client:
        (entries,) = await entries_of(client, "toy", max_tokens=6, temperature=0, stream=stream)
        columns = await client.completions.create(model="toy", prompt="a", max_tokens=2, temperature=0, logprobs=0)
        plain = await client.completions.create(model="toy", prompt="a", max_tokens=2, temperature=0)

    ids = tokenizer.encode(HI_TEXT, add_special=False)
    for entry, token_id in zip(entries, ids_of(tokenizer, entries), strict=True):
        expected = _logprobs(toy_logits(ids, num_layers=NUM_LAYERS, vocab_size=VOCAB_SIZE))
        assert entry.logprob == pytest.approx(expected[token_id], abs=MOST_ERROR)
        assert entry.logprob != pytest.approx(expected.min(), abs=MOST_ERROR)
        assert entry.top_logprobs == []
        ids.append(token_id)
    assert len(entries) == 6
    assert columns.choices[0].logprobs is not None
    assert len(columns.choices[0].logprobs.token_logprobs or []) == 2
    assert plain.choices[0].logprobs is None


async def test_what_an_engine_has_not_is_refused_by_name(client_of: Any, tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)

    async def refused(client: openai.AsyncOpenAI, **fields: Any) -> tuple[str | None, str]:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="toy", messages=HI, max_tokens=2, **fields)
        return caught.value.param, caught.value.message

    async with client_of(serving_engine(folder, ToyEngineFactory())) as client:
        param, message = await refused(client, logprobs=True, top_logprobs=2)
        assert param == "logprobs"
        assert "the backend 'toy-engine' has log probabilities of the chosen tokens only" in message
        with pytest.raises(openai.BadRequestError) as caught:
            await client.completions.create(model="toy", prompt="a", max_tokens=2, logprobs=1)
        assert caught.value.param == "logprobs"
    async with client_of(serving_engine(folder, _SilentFactory())) as client:
        param, message = await refused(client, logprobs=True)
        assert param == "logprobs"
        assert "the backend 'toy-engine' does not honour this field" in message
        answer = await client.chat.completions.create(model="toy", messages=HI, max_tokens=2, logprobs=False)
        assert answer.choices[0].logprobs is None


async def test_request_fields_that_an_engine_would_ignore_are_refused(client_of: Any, tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=NUM_LAYERS)

    async def ask(client: openai.AsyncOpenAI, **fields: Any) -> str:
        prompt: dict[str, Any] = {"model": "toy", "prompt": "a", "max_tokens": 2, "temperature": 0}
        answer = await client.completions.create(**prompt, extra_body=fields)
        text: str = answer.choices[0].text
        return text

    async with client_of(serving_engine(folder, ToyEngineFactory())) as client:
        for name, value in {"priority": 1, "max_speculation": 2, "seed": 3}.items():
            with pytest.raises(openai.BadRequestError) as caught:
                await ask(client, **{name: value})
            assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
        assert await ask(client, cache_salt="mine", priority=0) == await ask(client), "a control: what is honoured"
