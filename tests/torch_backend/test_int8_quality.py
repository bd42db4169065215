"""What the demo model says with int8 keys and values: nearly the same, and the same however the work is cut.

The quality gate compares next-token distributions with those of unrounded keys and values. Its limits are near what
int8 costs: the float32 model loses less to it than to being computed in bfloat16 (mean divergence 0.0006 against
0.0013), and 6 bits or scales that are 2 % off don't pass.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from demo.messages import Message, assistant, user
from demo.texts import make_passage, notes_exchange
from demo.tokenizer import load_tokenizer
from histrio.config.settings import MemorySettings
from histrio.contracts.backend import OpenedStage, Progress, StageSpec
from histrio.demo import target_path
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_torch import stores
from histrio_torch.factory import TorchFactory


class Int8Factory(TorchFactory):
    """Opens torch stages whose blocks are int8."""

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        return super().open(msgspec.structs.replace(spec, memory=MemorySettings(kv_cache_dtype="int8")), progress)


def open_chain(
    factory: TorchFactory, folder: Path | str, cuts: tuple[int, ...] = (), dtype: str = "float32"
) -> StageChain:
    options = HarnessOptions(
        kv_block_size=16, num_cache_blocks=160, max_num_tokens_per_batch=1024, max_sequence_length=1024, dtype=dtype
    )
    return StageChain(factory, folder, cuts, options)


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "mistral", "qwen3"])
def test_windows_caps_and_sinks_lose_little(family: str, tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model(family)
    reference = tiny.refer(seed=1, num_prompt_tokens=40, num_tokens=1)
    errors = []
    for factory in (Int8Factory(), TorchFactory()):
        chain = open_chain(factory, tiny.folder, (1,))
        chain.step([ChainRow(0, reference.ids[:27], 0)])
        logits = torch.as_tensor(chain.step([ChainRow(0, reference.ids[27:], 13)]))
        chain.close()
        errors.append(float((logits - reference.logits[27:]).abs().mean() / reference.logits.abs().mean()))

    assert errors[1] < 1e-5
    assert 10 * errors[1] < errors[0] < 0.05


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Conversations of the demo model, answers included: notes and a question, passages and their copies."""
    rng, tokenizer = random.Random(5), load_tokenizer(target_path())

    def ids(messages: Sequence[Message]) -> list[int]:
        plain = [{"role": message.role, "content": message.content} for message in messages]
        text = tokenizer.apply_chat_template(plain, tokenize=False)
        return list(tokenizer(text).input_ids)

    passages = [make_passage(rng, num_words) for num_words in (150, 110)]
    quotes = [[user(f"Repeat this passage word for word:\n\n{text}"), assistant(text)] for text in passages]
    return [ids(messages) for messages in (notes_exchange(rng, 45), *quotes)]


def forced(factory: TorchFactory, prompts: list[list[int]], dtype: str) -> Tensor:
    """[tokens of all prompts, vocab] logits after each token."""
    chain = open_chain(factory, target_path(), dtype=dtype)
    logits = []
    for ids in prompts:
        logits.append(torch.as_tensor(chain.step([ChainRow(0, ids, len(ids))])).double())
        chain.leave(0)
    chain.close()
    return torch.cat(logits)


def distance(logits: Tensor, expected: Tensor) -> tuple[float, float]:
    """Mean Kullback-Leibler divergence in nats, and how often the likeliest token is another one."""
    got, reference = torch.log_softmax(logits, -1), torch.log_softmax(expected, -1)
    divergence = (reference.exp() * (reference - got)).sum(-1).mean()
    return float(divergence), float((logits.argmax(-1) != expected.argmax(-1)).double().mean())


def off_by_a_little(numbers: Tensor) -> tuple[Tensor, Tensor]:
    codes, scales = _QUANTIZE(numbers)
    return codes, scales * 1.02


_QUANTIZE = stores._quantize
GATE = {"float32": (0.001, 0.015), "bfloat16": (0.004, 0.03)}
"""Most divergence and most other likeliest tokens, against unrounded keys and values in the same dtype."""


@pytest.mark.timeout(60)  # thousands of positions through the demo model
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.thorough)])
def test_the_demo_model_says_nearly_the_same(
    dtype: str, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(300 <= len(ids) <= 1000 for ids in prompts)
    expected = forced(TorchFactory(), prompts, dtype)
    most_divergence, most_others = GATE[dtype]
    divergence, others = distance(forced(Int8Factory(), prompts, dtype), expected)
    assert 1e-5 < divergence <= most_divergence
    assert others <= most_others

    monkeypatch.setattr(stores, "_LARGEST_CODE", 31)
    assert distance(forced(Int8Factory(), prompts, dtype), expected)[0] > most_divergence, "6 bits"
    if dtype == "float32":
        monkeypatch.undo()
        monkeypatch.setattr(stores, "_quantize", off_by_a_little)
        assert distance(forced(Int8Factory(), prompts, dtype), expected)[0] > most_divergence, "scales of 2 % more"


NUM_TOKENS = 12


def generate(chain: StageChain, prompts: list[list[int]], chunk: int) -> list[list[int]]:
    """Greedy tokens of all prompts at once, each fed `chunk` tokens a step."""
    tokens: list[list[int]] = [[] for _ in prompts]
    fed = [0] * len(prompts)
    while any(len(row) < NUM_TOKENS for row in tokens):
        rows = []
        for slot, ids in enumerate(prompts):
            known = ids + tokens[slot]
            part = known[fed[slot] : fed[slot] + chunk]
            if part and len(tokens[slot]) < NUM_TOKENS:
                fed[slot] += len(part)
                rows.append(ChainRow(slot, part, int(fed[slot] == len(known))))
        logits = chain.step(rows)
        sampled = [row.slot for row in rows if row.num_sampled]
        for index, slot in enumerate(sampled):
            assert logits is not None
            tokens[slot].append(int(logits[index].argmax()))
    for slot in range(len(prompts)):
        chain.leave(slot)
    return tokens


@pytest.fixture(scope="module")
def questions(prompts: list[list[int]]) -> list[list[int]]:
    """The prompts cut off within the answers, at different lengths."""
    return [ids[:-40] for ids in prompts] + [ids[-230:-60] for ids in prompts]


@pytest.fixture(scope="module")
def single_tokens(questions: list[list[int]]) -> list[list[int]]:
    """Each alone, its prompt in one step, in one stage."""
    chain = open_chain(Int8Factory(), target_path())
    tokens = [generate(chain, [ids], 1024)[0] for ids in questions]
    chain.close()
    return tokens


@pytest.mark.timeout(60)  # prompts of several hundred tokens, in chunks of 16
@pytest.mark.parametrize(("cuts", "chunk"), [((), 16), ((3,), 64), ((2, 4), 150)])
def test_splits_chunks_and_batches_say_the_same(
    cuts: tuple[int, ...], chunk: int, questions: list[list[int]], single_tokens: list[list[int]]
) -> None:
    chain = open_chain(Int8Factory(), target_path(), cuts)
    assert generate(chain, questions, chunk) == single_tokens
    swapped = [questions[1], questions[0][:-1], *questions[2:]]
    assert generate(chain, swapped, chunk)[:2] != single_tokens[:2]
    chain.close()


def test_rewound_and_shared_blocks_say_the_same(questions: list[list[int]], single_tokens: list[list[int]]) -> None:
    chain = open_chain(Int8Factory(), target_path(), (3,))
    ids, tokens = questions[1], single_tokens[1]
    chain.step([ChainRow(0, ids, 0)])
    chain.step([ChainRow(0, [*tokens[:2], 5, 6, 7], 0)])

    def follow(slot: int, length: int) -> list[int]:
        """What the row says to all that follows its first `length` tokens, after `tokens` has begun."""
        logits = chain.step([ChainRow(slot, [*ids, *tokens[:-1]][length:], NUM_TOKENS - 2)])
        assert logits is not None
        said: list[int] = logits.argmax(-1).tolist()
        return said

    chain.rewind(0, len(ids))
    assert follow(0, len(ids)) == tokens[2:]
    num_blocks = len(ids) // 16
    chain.share(chain.tables[0][:num_blocks], 1, num_blocks * 16)
    assert follow(1, num_blocks * 16) == tokens[2:]
    chain.share(chain.tables[0][:1] * num_blocks, 2, num_blocks * 16)
    assert follow(2, num_blocks * 16) != tokens[2:]
    chain.close()
