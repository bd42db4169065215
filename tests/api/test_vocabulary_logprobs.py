"""Log probabilities of whole vocabularies: transformers judges the values, and so do a few of the likeliest tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from histrio.config.settings import SpeculationSettings
from histrio.contracts.gateway import Delta
from histrio.messages import WHOLE_VOCABULARY, Extras, RequestState, TokenLogprobs
from histrio.testing.harness import HarnessOptions, serving, serving_engine
from histrio.testing.models import VOCAB_SIZE, write_model
from histrio.testing.scripted_drafter import ScriptedDrafterFactory
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.toy_engine import ToyEngineFactory
from histrio_api.testing import ScriptedGateway, endpoint_over, running_endpoint, served_model
from histrio_api.text.tokenizer import Tokenizer
from histrio_grammars.backend import Llguidance
from histrio_samplers.temperature import Temperature
from histrio_torch.factory import TorchFactory

pytestmark = pytest.mark.anyio

HI: Any = [{"role": "user", "content": "hi"}]
HI_TEXT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
MOST_ERROR = 1e-4
ALL = {"max-logprobs": -1}
DRAFTING = HarnessOptions(
    drafter=ScriptedDrafterFactory(lambda ids, count: [7] * count),
    speculation=SpeculationSettings(speculation_length=3, adaptive=False),
)


@asynccontextmanager
async def client_of(served: Any, **settings: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        served as harness,
        endpoint_over(harness.gateway, **settings) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


async def chat(client: openai.AsyncOpenAI, *, stream: bool = False, **fields: Any) -> list[list[Any]]:
    """The entries of each choice."""
    asked: dict[str, Any] = {"model": client_model(fields), "messages": HI, "logprobs": True, "max_tokens": 6} | fields
    answer: Any = await client.chat.completions.create(**asked, stream=stream)
    if not stream:
        return [choice.logprobs.content for choice in answer.choices]
    found: list[list[Any]] = [[] for _ in range(fields.get("n", 1))]
    async for chunk in answer:
        for choice in chunk.choices:
            found[choice.index] += choice.logprobs.content if choice.logprobs else []
    return found


def client_model(fields: dict[str, Any]) -> str:
    return str(fields.pop("model", "default"))


def ids_of(tokenizer: Tokenizer, entries: Sequence[Any]) -> list[int]:
    """In the tests' vocabulary no two ids have the same bytes."""
    by_bytes = {bytes(tokenizer.spell(token_id)[1]): token_id for token_id in range(VOCAB_SIZE)}
    return [by_bytes[bytes(entry.bytes)] for entry in entries]


def judged(folder: Path, prompt: list[int], ids: list[int]) -> np.ndarray[Any, Any]:
    """[positions, vocab] of transformers: of the prompt's tokens but the first, then of the others."""
    judge = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = judge(torch.tensor([prompt + ids])).logits[0, :-1]
        found: np.ndarray[Any, Any] = torch.log_softmax(logits, -1).numpy()
        return found


def in_order(tokenizer: Tokenizer, entry: Any) -> np.ndarray[Any, Any]:
    """[vocab] what is told beside one token."""
    found = np.full(VOCAB_SIZE, np.nan)
    found[ids_of(tokenizer, entry.top_logprobs)] = [each.logprob for each in entry.top_logprobs]
    return found


@pytest.mark.timeout(60)  # imports transformers' model code
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("options", [HarnessOptions(), DRAFTING], ids=["plain", "drafts"])
async def test_a_whole_vocabulary_is_that_of_transformers(
    tmp_path: Path, stream: bool, options: HarnessOptions
) -> None:
    folder = write_model("llama", tmp_path / "llama")
    tokenizer = Tokenizer.load(folder)
    served = serving(folder, TorchFactory(), cuts=[1], samplers=[Temperature], options=options)
    asked: dict[str, Any] = {"n": 2, "temperature": 1.7, "seed": 5, "stream": stream}
    async with client_of(served, **ALL) as client:
        choices = await chat(client, top_logprobs=-1, **asked)
        few = await chat(client, top_logprobs=3, **asked)
        many = await chat(client, top_logprobs=200, **asked)

    prompt = tokenizer.encode(HI_TEXT, add_special=False)
    for entries, fewer, more in zip(choices, few, many, strict=True):
        expected = judged(folder, prompt, ids_of(tokenizer, entries))[len(prompt) - 1 :]
        found = np.array([in_order(tokenizer, entry) for entry in entries])
        assert found.shape == (len(entries), VOCAB_SIZE)
        assert np.abs(found - expected).max() < MOST_ERROR
        assert np.abs(found[1:] - expected[:-1]).max() > 0.1, "a control: one position off"
        for entry, less, more_entry in zip(entries, fewer, more, strict=True):
            assert entry.token == less.token == more_entry.token
            assert _close(entry.top_logprobs[:3], less.top_logprobs)
            assert _close(entry.top_logprobs[:200], more_entry.top_logprobs)
            assert not _close(entry.top_logprobs[1:4], less.top_logprobs), "a control: the next likeliest ones"
            values = [each.logprob for each in entry.top_logprobs]
            assert values == sorted(values, reverse=True)
    assert [each.token for each in choices[0]] != [each.token for each in choices[1]]


def _close(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """The same tokens in one order; values differ by how prompts were cut into steps."""
    values = np.array([[each.logprob for each in entries] for entries in (some, others)])
    return [each.bytes for each in some] == [each.bytes for each in others] and bool(
        np.ptp(values, 0).max() < MOST_ERROR
    )


@pytest.mark.timeout(60)
async def test_prompts_have_it_too(tmp_path: Path) -> None:
    folder = write_model("llama", tmp_path / "llama")
    tokenizer = Tokenizer.load(folder)
    prompt = "one two"
    async with client_of(serving(folder, TorchFactory(), cuts=[1], samplers=[Temperature]), **ALL) as client:

        async def complete(**more: Any) -> Any:
            extra = {name: more.pop(name) for name in ("prompt_logprobs",) if name in more}
            asked: dict[str, Any] = {"model": "default", "prompt": prompt, "max_tokens": 3, "temperature": 0}
            return await client.completions.create(**asked, **more, extra_body=extra)

        whole = (await complete(prompt_logprobs=-1, n=2)).choices
        few = (await complete(prompt_logprobs=2)).choices[0].prompt_logprobs
        echoed = (await complete(prompt_logprobs=-1, echo=True, logprobs=2)).choices[0]
        columns = (await complete(echo=True, logprobs=200)).choices[0].logprobs
        chatted: Any = await client.chat.completions.create(
            model="default", messages=HI, max_tokens=1, extra_body={"prompt_logprobs": -1}
        )

    ids = tokenizer.encode(prompt, add_special=False)
    expected = judged(folder, ids, [])
    assert whole[0].prompt_logprobs == whole[1].prompt_logprobs == echoed.prompt_logprobs
    assert whole[0].prompt_logprobs[0] is None
    for at, (place, fewer) in enumerate(zip(whole[0].prompt_logprobs[1:], few[1:], strict=True)):
        assert len(place) == VOCAB_SIZE
        for token_id, told in place.items():
            assert told["logprob"] == pytest.approx(expected[at, int(token_id)], abs=MOST_ERROR)
            assert told["decoded_token"] == tokenizer.spell(int(token_id))[0]
        assert next(iter(place)) == str(ids[at + 1]), "the prompt's own comes first"
        assert place[str(ids[at + 1])]["rank"] == fewer[str(ids[at + 1])]["rank"]
        assert sorted(told["rank"] for told in place.values()) == list(range(1, VOCAB_SIZE + 1))
        for token_id, told in fewer.items():
            assert place[token_id]["rank"] == told["rank"]
            assert place[token_id]["logprob"] == pytest.approx(told["logprob"], abs=MOST_ERROR)
        assert place["5"]["logprob"] != pytest.approx(expected[at - 1, 5], abs=MOST_ERROR), "a control: another place"
    assert len(chatted.prompt_logprobs) == len(tokenizer.encode(HI_TEXT, add_special=False))

    top = [dict(each.items()) for each in columns.top_logprobs[1:]]
    for at, told in enumerate(top[: len(ids) - 1]):
        assert len(told) in (200, 201), "the chosen one is among them"
        assert told[tokenizer.spell(ids[at + 1])[0]] == columns.token_logprobs[at + 1]
        likeliest = tokenizer.spell(int(expected[at].argmax()))[0]
        assert told[likeliest] == pytest.approx(expected[at].max(), abs=MOST_ERROR)
    assert [len(each) for each in echoed.logprobs.top_logprobs[1:]] <= [3] * (len(ids) + 2)


async def test_a_recovered_stream_has_all_of_it(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    asked: dict[str, Any] = {"max_tokens": 14, "top_logprobs": -1, "temperature": 1.5, "stream": True}
    found = []
    for fail_at_step in (0, 10):
        options = HarnessOptions(stage_options={"fail-at-step": fail_at_step, "fail-times": 1})
        served = serving(folder, ToyFactory(), cuts=[1], samplers=[Temperature], options=options)
        async with client_of(served, **ALL) as client:
            found.append(await chat(client, **asked, seed=3))
            other = await chat(client, **asked, seed=4)
    assert found[0] == found[1] != other
    assert [len(entry.top_logprobs) for entry in found[1][0]] == [VOCAB_SIZE] * 14


async def test_a_grammar_does_not_change_it(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    tokenizer = Tokenizer.load(folder)
    served = serving(folder, ToyFactory(), samplers=[Temperature], grammars=[Llguidance()])
    async with client_of(served, **ALL) as client:
        (bound,) = await chat(client, top_logprobs=-1, temperature=0, max_tokens=8, extra_body={"regex": "yes|no"})
        (free,) = await chat(client, top_logprobs=-1, temperature=0, max_tokens=1)
    assert "".join(entry.token for entry in bound) in ("yes", "no")
    assert bound[0].top_logprobs == free[0].top_logprobs, "they are the model's own"
    assert bound[0].token != free[0].token, "a control: the grammar had an effect"
    assert not np.isnan(in_order(tokenizer, bound[-1])).any()


# --- bounds ----------------------------------------------------------------------------------------------------------


async def _refusal(client: openai.AsyncOpenAI, path: str, fields: dict[str, Any]) -> tuple[str | None, str]:
    asked: dict[str, Any] = {"model": "default", "max_tokens": 2}
    asked |= {"messages": HI} if "chat" in path else {"prompt": "a"}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.post(path, body=asked | fields, cast_to=object)
    return caught.value.param, caught.value.message


async def test_the_operator_bounds_it(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    chats, completions = "/chat/completions", "/completions"
    async with client_of(serving(folder, ToyFactory(), samplers=[Temperature])) as client:
        param, text = await _refusal(client, chats, {"logprobs": True, "top_logprobs": -1})
        assert param == "top_logprobs"
        assert f"at most 20 of the likeliest tokens are told here, and the vocabulary has {VOCAB_SIZE}" in text
        assert "have max-logprobs of [api] raised (-1 for no bound)" in text
        assert (await _refusal(client, chats, {"prompt_logprobs": -1}))[0] == "prompt_logprobs"
        assert (await _refusal(client, completions, {"logprobs": 21}))[0] == "logprobs"
        assert (await _refusal(client, chats, {"logprobs": True, "top_logprobs": -2}))[0] == "top_logprobs"
        assert len(await chat(client, top_logprobs=20)) == 1, "a control: within the bound"
    async with client_of(serving(folder, ToyFactory(), samplers=[Temperature]), **{"max-logprobs": 3}) as client:
        assert "at most 3" in (await _refusal(client, chats, {"logprobs": True, "top_logprobs": 4}))[1]
    async with client_of(serving(folder, ToyFactory(), samplers=[Temperature]), **ALL) as client:
        param, text = await _refusal(client, completions, {"logprobs": -1})
        assert param == "logprobs", "vLLM has no -1 there"
        huge = {"prompt": "a", "logprobs": 2**31 - 1, "max_tokens": 1, "temperature": 0, "model": "default"}
        told: Any = await client.post(completions, body=huge, cast_to=object)
        assert len(told["choices"][0]["logprobs"]["top_logprobs"][0]) == VOCAB_SIZE, "as many as there are"


async def test_what_all_requests_hold_together_is_bounded(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    settings = ALL | {"max-vocabulary-scores": 20 * VOCAB_SIZE}
    served = serving(folder, ToyFactory(), samplers=[Temperature], options=HarnessOptions(max_sequence_length=128))
    async with client_of(served, **settings) as client:
        param, text = await _refusal(
            client, "/chat/completions", {"logprobs": True, "top_logprobs": -1, "max_tokens": 21}
        )
        assert param == "top_logprobs"
        assert "beside at most 20 tokens, and here may be 21; give a smaller max_tokens" in text
        param, _ = await _refusal(client, "/completions", {"prompt": [[5] * 21], "prompt_logprobs": -1})
        assert param == "prompt_logprobs"
        for _ in range(3):
            assert len((await chat(client, top_logprobs=-1, max_tokens=20, temperature=0))[0]) > 0
        held = await client.chat.completions.create(
            model="default", messages=HI, logprobs=True, top_logprobs=-1, max_tokens=12, stream=True
        )
        with pytest.raises(openai.RateLimitError):
            await chat(client, top_logprobs=-1, max_tokens=9)
        assert len(await chat(client, top_logprobs=5, max_tokens=30)) == 1, "a control: what is listed takes no room"
        await held.close()
        with anyio.fail_after(10):
            while True:  # until the endpoint has seen the client leave
                try:
                    assert len((await chat(client, top_logprobs=-1, max_tokens=20, stream=True))[0]) > 0
                    break
                except openai.RateLimitError:
                    await anyio.sleep(0.01)


async def test_engines_that_do_not_have_it_refuse_it_by_name(tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    async with client_of(serving_engine(folder, ToyEngineFactory()), **ALL) as client:
        param, text = await _refusal(client, "/chat/completions", {"logprobs": True, "top_logprobs": -1})
        assert param == "logprobs"
        assert "'toy-engine'" in text


# --- vocabularies of the size that models have -----------------------------------------------------------------------


def test_packed_values_become_the_entries_that_lists_become(model_folder: Path) -> None:
    tokenizer = Tokenizer.load(model_folder, bos_id=0)
    num_ids = tokenizer.vocab_size + 3  # models have ids of which their tokenizers know nothing
    values = np.random.default_rng(1).normal(size=num_ids).astype("<f4") - 6
    values[7] = -np.inf
    script = [
        Delta([9], RequestState.FINISHED_MAX_LENGTH, Extras(logprobs=[TokenLogprobs(-3.0, [], 0, values.tobytes())]))
    ]
    gateway = ScriptedGateway(served_model(model_folder), lambda submission, choice: list(script))
    served = gateway.model.vocab_size
    with running_endpoint(gateway, **ALL) as url, httpx.Client(base_url=url) as http:
        fields = {"messages": HI, "logprobs": True, "top_logprobs": -1, "max_tokens": 1}
        told = http.post("/v1/chat/completions", json=fields).json()["choices"][0]["logprobs"]["content"][0]
        fields = {"prompt": "a", "logprobs": served, "max_tokens": 1}
        columns = http.post("/v1/completions", json=fields).json()["choices"][0]["logprobs"]
        streamed = http.post("/v1/completions", json=fields | {"stream": True}).text
    assert gateway.submissions[0].ask.num_logprobs == WHOLE_VOCABULARY
    order = np.argsort(-values, kind="stable").tolist()[:served]
    said = [max(float(values[token_id]), -9999.0) for token_id in order]
    spelled = [tokenizer.spell(token_id) for token_id in order]
    expected = [
        {"token": text, "logprob": value, "bytes": list(raw)} for (text, raw), value in zip(spelled, said, strict=True)
    ]
    assert told["top_logprobs"] == expected
    by_text: dict[str, float] = {}
    for (text, _), value in zip(spelled, said, strict=True):
        by_text.setdefault(text, value)
    by_text[tokenizer.spell(9)[0]] = -3.0
    assert columns["top_logprobs"] == [by_text]
    assert list(columns["top_logprobs"][0]) == list(by_text), "the likeliest first"
    first = json.loads(streamed.split("\n\n")[0].removeprefix("data: "))
    assert first["choices"][0]["logprobs"] == columns, "an event in pieces is one event"


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_loop_turns_while_ten_million_entries_are_written(model_folder: Path, stream: bool) -> None:
    num_tokens, num_ids = 64, 151_936
    rng = np.random.default_rng(0)
    found = [TokenLogprobs(-1.0, [], 0, rng.normal(size=num_ids).astype("<f4").tobytes()) for _ in range(num_tokens)]
    deltas = [Delta([40], RequestState.DECODING, Extras(logprobs=[each])) for each in found]
    deltas[-1] = Delta([40], RequestState.FINISHED_MAX_LENGTH, deltas[-1].extras)
    model = served_model(model_folder)
    gateway = ScriptedGateway(
        type(model)(**{name: getattr(model, name) for name in model.__struct_fields__} | {"vocab_size": num_ids}),
        lambda submission, choice: list(deltas),
    )
    longest_s, num_bytes = 0.0, 0
    async with endpoint_over(gateway, **ALL) as url, anyio.create_task_group() as tasks:

        async def probe() -> None:
            nonlocal longest_s
            while True:
                begun = anyio.current_time()
                await anyio.sleep(0.02)
                longest_s = max(longest_s, anyio.current_time() - begun - 0.02)

        def read() -> int:
            asked = {"messages": HI, "logprobs": True, "top_logprobs": -1, "max_tokens": num_tokens, "stream": stream}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=300) as answer:
                return sum(map(len, answer.iter_raw()))

        tasks.start_soon(probe)
        begun = anyio.current_time()
        num_bytes = await anyio.to_thread.run_sync(read)
        elapsed_s = anyio.current_time() - begun
        tasks.cancel_scope.cancel()
    print(f"{num_bytes / 1e6:.0f} MB in {elapsed_s:.1f} s, and the loop stood for at most {longest_s * 1e3:.0f} ms")
    assert num_bytes > 50 * num_tokens * num_ids
    assert longest_s < elapsed_s / 20
