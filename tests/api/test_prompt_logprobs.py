"""Log probabilities of served prompts: transformers judges the values, through the official client."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from histrio.contracts.backend import BackendFactory
from histrio.demo import target_path
from histrio.testing.harness import HarnessOptions, serving, serving_engine
from histrio.testing.models import write_model
from histrio.testing.toy import ToyFactory, write_toy_model
from histrio.testing.toy_engine import ToyEngineFactory
from histrio_api.text.tokenizer import Tokenizer
from histrio_mlx.factory import MlxFactory
from histrio_samplers.plugin import SAMPLERS
from histrio_samplers.temperature import Temperature
from histrio_torch.factory import TorchFactory

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]  # imports transformers' model code

MOST_ERROR = 1e-4
"""In float32."""
MOST_ERROR_OF = {"torch": MOST_ERROR, "mlx": 3e-4}
"""With logits of up to 30, each of which MLX has within 1e-4."""
PASSAGE = (
    "The wooden clock whispers near the frozen lake, but 83 brave sailors and a curious gralmont follow the silver "
    "bridge to Oslo. Nobody opens the letter after the storm, because my plint is bitter and the moon is late. "
)
LONG = PASSAGE * 4
"""Well over the 64 tokens that are scored in one step."""


@cache
def judge_of(folder: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def judged(folder: Path, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """[tokens - 1, vocab] of the tokens that follow each but the last."""
    with torch.no_grad():
        logits = judge_of(folder)(torch.tensor([list(ids)])).logits[0, :-1]
    found: npt.NDArray[np.float32] = torch.log_softmax(logits, -1).numpy()
    return found


def check_columns(
    columns: Any, expected: npt.NDArray[np.float32], ids: Sequence[int], most_error: float = MOST_ERROR
) -> None:
    """The columns of a prompt, two of the likeliest beside each, and of as many tokens behind it as there may be."""
    num_tokens = len(ids)
    assert columns.token_logprobs[0] is None
    assert columns.top_logprobs[0] is None
    found = np.array(columns.token_logprobs[1:num_tokens], np.float64)
    assert np.abs(found - expected[range(num_tokens - 1), ids[1:]]).max() < most_error
    assert np.abs(found[1:] - expected[range(num_tokens - 2), ids[1:-1]]).max() > 0.1, "a control: one position off"
    best = -np.sort(-expected)[:, :2]
    for top, logprob, values in zip(columns.top_logprobs[1:num_tokens], found, best, strict=True):
        likely = sorted(top.values(), reverse=True)[:2]
        assert likely == pytest.approx(values, abs=most_error)
        assert logprob in top.values()


async def echoed(client: openai.AsyncOpenAI, model: str, prompt: Any, **fields: Any) -> list[tuple[str, Any, str]]:
    """Text, columns and finish reason of every choice, streamed or not."""
    answer: Any = await client.completions.create(model=model, prompt=prompt, echo=True, **fields)
    if not fields.get("stream"):
        return [(choice.text, choice.logprobs, choice.finish_reason) for choice in answer.choices]

    found: dict[int, list[Any]] = {}
    async for chunk in answer:
        for choice in chunk.choices:
            found.setdefault(choice.index, []).append(choice)
    return [_joined(found[index]) for index in sorted(found)]


def _joined(pieces: list[Any]) -> tuple[str, Any, str]:
    columns = pieces[0].logprobs.model_copy(deep=True)
    for piece in pieces[1:]:
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset") if piece.logprobs else ():
            getattr(columns, name).extend(getattr(piece.logprobs, name))
    return "".join(piece.text for piece in pieces), columns, pieces[-1].finish_reason


def demo_options() -> HarnessOptions:
    return HarnessOptions(
        kv_block_size=16, num_cache_blocks=128, max_num_tokens_per_batch=512, chunked_prefill_size=256
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("backend", "cuts"), [("torch", []), ("torch", [1]), ("torch", [1, 2]), ("mlx", [2])])
async def test_the_demo_model_scores_as_transformers_does(
    client_of: Any, backend: str, cuts: list[int], stream: bool
) -> None:
    folder = target_path()
    factory: BackendFactory = TorchFactory() if backend == "torch" else MlxFactory()
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(LONG, add_special=False)
    assert len(ids) > 2 * 64
    served = serving(folder, factory, cuts=cuts, samplers=list(SAMPLERS), options=demo_options())
    async with client_of(served) as client:
        asked: dict[str, Any] = {"max_tokens": 5, "logprobs": 2, "n": 2, "temperature": 0, "stream": stream}
        choices = await echoed(client, folder.name, LONG, **asked, extra_body={"ignore_eos": True})

    assert len(choices) == 2
    for text, columns, reason in choices:
        assert text.startswith(LONG)
        assert reason == "length"
        assert columns.tokens[: len(ids)] == [tokenizer.spell(token_id)[0] for token_id in ids]
        assert len(columns.tokens) == len(ids) + 5
        assert "".join(columns.tokens) == text, "plain text: no token is part of a character"
        ends = [*columns.text_offset[1:], len(text)]
        assert [text[start:end] for start, end in zip(columns.text_offset, ends, strict=True)] == columns.tokens
        check_columns(columns, judged(folder, ids), ids, MOST_ERROR_OF[backend])


# --- as evaluation harnesses ask -------------------------------------------------------------------------------------


def loglikelihood(columns: Any, num_context_tokens: int) -> tuple[float, bool]:
    """Of a continuation and whether it is greedy; the last token was drawn and does not count."""
    chosen = columns.token_logprobs[num_context_tokens:-1]
    top = columns.top_logprobs[num_context_tokens:-1]
    return sum(chosen), all(logprob == max(each.values()) for logprob, each in zip(chosen, top, strict=True))


@pytest.mark.parametrize("as_ids", [False, True])
async def test_loglikelihoods_are_those_of_transformers(client_of: Any, tmp_path: Path, as_ids: bool) -> None:
    folder = write_model("llama", tmp_path / "llama")
    tokenizer = Tokenizer.load(folder)
    contexts = ["one two three", "a" * 70, "x"]
    prompts = [tokenizer.encode(f"{context} and more", add_special=False) for context in contexts]
    # Greedy by construction: the likeliest tokens are the continuation.
    greedy = tokenizer.encode("greedy", add_special=False)
    num_context = [*(len(tokenizer.encode(context, add_special=False)) for context in contexts), len(greedy)]
    for _ in range(4):
        greedy.append(int(judged(folder, [*greedy, 0])[-1].argmax()))
    prompts.append(greedy)
    asked: Any = prompts if as_ids else [tokenizer.decode(ids) for ids in prompts[:3]]
    async with client_of(serving(folder, TorchFactory(), samplers=[Temperature])) as client:
        fields: dict[str, Any] = {"max_tokens": 1, "logprobs": 1, "temperature": 0, "seed": 1234}
        choices = await echoed(client, "llama", asked, **fields)
        scored = await echoed(client, "llama", asked, **fields | {"max_tokens": 0})

    found = [loglikelihood(columns, count) for (_, columns, _), count in zip(choices, num_context, strict=False)]
    for (sum_found, is_greedy), ids, count in zip(found, prompts, num_context, strict=False):
        expected = judged(folder, ids)
        of_continuation = expected[range(count - 1, len(ids) - 1), ids[count:]]
        assert sum_found == pytest.approx(of_continuation.sum(), abs=MOST_ERROR * 10)
        assert is_greedy == (expected[count - 1 :].argmax(-1).tolist() == ids[count:])
    assert [is_greedy for _, is_greedy in found] == [False, False, False, True][: len(found)]
    for (text, columns, reason), (longer, more, _) in zip(scored, choices, strict=True):
        assert reason == "length"
        assert longer.startswith(text)
        assert columns.token_logprobs == pytest.approx(more.token_logprobs[:-1], abs=MOST_ERROR)
        assert len(columns.tokens) == len(more.tokens) - 1


async def test_a_prompt_alone_is_scored_and_nothing_is_answered(client_of: Any, tmp_path: Path) -> None:
    folder = write_model("llama", tmp_path / "llama")
    async with client_of(serving(folder, TorchFactory(), samplers=[Temperature])) as client:
        answer = await client.completions.create(
            model="llama", prompt="nothing more", echo=True, max_tokens=0, logprobs=0
        )
        usage = answer.usage
        assert usage is not None
        assert (answer.choices[0].text, usage.completion_tokens, usage.prompt_tokens) == ("nothing more", 0, 12)
        stream = await client.completions.create(model="llama", prompt="more", echo=True, max_tokens=0, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("more", "length")]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.completions.create(model="llama", prompt="more", max_tokens=0)
        assert caught.value.param == "max_tokens"


# --- the field prompt_logprobs ---------------------------------------------------------------------------------------


async def test_prompt_logprobs_are_reported_by_id(client_of: Any, tmp_path: Path) -> None:
    folder = write_model("llama", tmp_path / "llama")
    tokenizer = Tokenizer.load(folder)
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(text, add_special=False)
    extra = {"prompt_logprobs": 2}
    async with client_of(serving(folder, TorchFactory(), samplers=[Temperature])) as client:
        hi: Any = [{"role": "user", "content": "hi"}]
        chat = await client.chat.completions.create(model="llama", messages=hi, max_tokens=2, extra_body=extra)
        plain = await client.completions.create(model="llama", prompt=[ids, ids[:9]], max_tokens=2, extra_body=extra)
        without = await client.chat.completions.create(model="llama", messages=hi, max_tokens=2)
    assert "prompt_logprobs" not in (without.model_extra or {})
    assert chat.model_extra is not None
    reports: list[Any] = [chat.model_extra, *(choice.model_extra for choice in plain.choices)]
    expected = judged(folder, ids)
    ranks = []
    for report, of in zip((each["prompt_logprobs"] for each in reports), (ids, ids, ids[:9]), strict=True):
        assert len(report) == len(of)
        assert report[0] is None
        for entry, token_id, row in zip(report[1:], of[1:], expected, strict=False):
            assert next(iter(entry)) == str(token_id)
            assert entry[str(token_id)]["logprob"] == pytest.approx(row[token_id], abs=MOST_ERROR)
            assert entry[str(token_id)]["decoded_token"] == tokenizer.spell(token_id)[0]
            ranked = np.argsort(-row).tolist()
            assert {key: each["rank"] for key, each in entry.items()} == {
                str(each): ranked.index(each) + 1 for each in (token_id, *ranked[:2])
            }
            ranks.append(entry[str(token_id)]["rank"])
    assert max(ranks) > 3, "a control: most are not among those that were asked for"


# --- refused ---------------------------------------------------------------------------------------------------------


async def test_an_engine_refuses_each_field_by_name(client_of: Any, tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    async with client_of(serving_engine(folder, ToyEngineFactory())) as client:
        for extra, param in (({"prompt_logprobs": 0}, "prompt_logprobs"), ({"echo": True, "logprobs": 0}, "echo")):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.completions.create(model="toy", prompt="a", max_tokens=1, extra_body=extra)
            assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
            assert "'toy-engine'" in caught.value.message
        answer = await client.completions.create(model="toy", prompt="a", max_tokens=1, echo=True)
        assert answer.choices[0].text.startswith("a")


async def test_a_stream_has_them_with_echo_only(client_of: Any, tmp_path: Path) -> None:
    folder = write_toy_model(tmp_path / "toy", num_layers=2)
    async with client_of(serving(folder, ToyFactory(), samplers=[Temperature])) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.completions.create(model="toy", prompt="a", stream=True, extra_body={"prompt_logprobs": 0})
    assert caught.value.param == "prompt_logprobs"
