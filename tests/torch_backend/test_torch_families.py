"""Every family equals transformers' own forward and generate, whole and at every cut, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from histrio.messages import Tensor
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import FAMILIES, MAX_LENGTH, MOST_ERROR, NUM_LAYERS, Excuses, logits_error

CUTS = [(), *((cut,) for cut in range(1, NUM_LAYERS))]
NUM_PROMPT_TOKENS = 21


@pytest.fixture(scope="module")
def excuses() -> Iterator[Excuses]:
    counted = Excuses()
    yield counted
    assert counted.share <= 0.001


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: f"cut{cuts[0]}" if cuts else "whole")
def test_every_cut_equals_transformers(
    family: str, cuts: tuple[int, ...], tiny_model: Callable[[str], Any], excuses: Excuses
) -> None:
    tiny = tiny_model(family)
    reference = tiny.refer(seed=1, num_prompt_tokens=NUM_PROMPT_TOKENS)
    chain = open_chain(tiny.folder, cuts)
    logits = chain.step([ChainRow(0, reference.ids, NUM_PROMPT_TOKENS)])
    chain.leave(0)

    assert len(set(reference.tokens)) >= 8, "the stream is too dull to prove anything"
    assert logits_error(logits, reference.logits) <= MOST_ERROR
    excuses.compare(chain.greedy(reference.ids, len(reference.tokens)), reference)
    chain.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_disturbed_hidden_state_is_seen(family: str, tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model(family)
    reference = tiny.refer(seed=1, num_prompt_tokens=NUM_PROMPT_TOKENS, num_tokens=1)
    chain = open_chain(tiny.folder, (1,))
    chain.disturb = _one_percent_more
    logits = chain.step([ChainRow(0, reference.ids, NUM_PROMPT_TOKENS)])

    assert logits_error(logits, reference.logits) > 3 * MOST_ERROR
    chain.close()


@pytest.mark.parametrize("family", ["llama", "gemma2", "deepseek_v3"])
def test_three_stages_equal_one(family: str, tiny_model: Callable[[str], Any], excuses: Excuses) -> None:
    tiny = tiny_model(family)
    reference = tiny.refer(seed=2, num_prompt_tokens=9)
    chain = open_chain(tiny.folder, (1, 2))

    excuses.compare(chain.greedy(reference.ids, len(reference.tokens)), reference)
    chain.close()


def test_blocks_of_deepseek_hold_the_latent(tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model("deepseek_v3")
    config = tiny.model.config
    chain = open_chain(tiny.folder)
    numbers = config.kv_lora_rank + config.qk_rope_head_dim

    assert chain.capacities[0].block_bytes_per_token == NUM_LAYERS * numbers * 4
    chain.close()


def _one_percent_more(tensor: Tensor) -> Tensor:
    values = np.frombuffer(tensor.data, np.float32).copy()
    values[::2] *= 1.01
    return Tensor(tensor.dtype, tensor.shape, values)


def open_chain(folder: str, cuts: tuple[int, ...] = ()) -> StageChain:
    return StageChain(TorchFactory(), folder, cuts, HarnessOptions(max_sequence_length=MAX_LENGTH))
