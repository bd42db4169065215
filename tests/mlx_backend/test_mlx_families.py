"""Every promised family equals transformers' own forward and generate, whole and at three cuts, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from histrio.messages import Tensor
from histrio.testing.chain import ChainRow
from histrio_mlx.testing import FAMILIES, NUM_LAYERS, MlxChain, as_torch
from histrio_torch.testing import MOST_ERROR, Excuses, logits_error

CUTS = [(), *((cut,) for cut in range(1, NUM_LAYERS)), tuple(range(1, NUM_LAYERS))]
FIRST, *_ = FAMILIES
ALWAYS = {*((FIRST, cuts) for cuts in CUTS), *zip(FAMILIES, CUTS * len(FAMILIES), strict=False)}
"""One family at every cut, each other one at some cut."""
CASES = [
    pytest.param(family, cuts, marks=[] if (family, cuts) in ALWAYS else pytest.mark.thorough)
    for family in FAMILIES
    for cuts in CUTS
]
NUM_PROMPT_TOKENS = 21
INEXACT = {"gemma": 1e-3}
"""mlx-lm computes Gemma's activation exactly; transformers, and Google, with tanh."""


@pytest.fixture(scope="module")
def excuses() -> Iterator[Excuses]:
    counted = Excuses()
    yield counted
    assert counted.share <= 0.001


@pytest.mark.parametrize(
    ("family", "cuts"),
    CASES,
    ids=lambda each: each if isinstance(each, str) else "cut" + "-".join(map(str, each)) if each else "whole",
)
def test_every_cut_equals_transformers(
    family: str, cuts: tuple[int, ...], mlx_model: Callable[..., Any], excuses: Excuses
) -> None:
    tiny = mlx_model(family)
    reference = tiny.refer(seed=1, num_prompt_tokens=NUM_PROMPT_TOKENS)
    chain = open_chain(tiny, cuts)
    logits = chain.step([ChainRow(0, reference.ids, NUM_PROMPT_TOKENS)])
    chain.leave(0)

    assert len(set(reference.tokens)) >= 8, "the stream is too dull to prove anything"
    assert logits_error(as_torch(logits), reference.logits) <= INEXACT.get(family, MOST_ERROR)
    excuses.compare(chain.greedy(reference.ids, len(reference.tokens)), reference)
    chain.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_disturbed_hidden_state_is_seen(family: str, mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model(family)
    reference = tiny.refer(seed=1, num_prompt_tokens=NUM_PROMPT_TOKENS, num_tokens=1)
    chain = open_chain(tiny, (1,))
    chain.disturb = _one_percent_more
    logits = chain.step([ChainRow(0, reference.ids, NUM_PROMPT_TOKENS)])

    assert logits_error(as_torch(logits), reference.logits) > 3 * INEXACT.get(family, MOST_ERROR)
    chain.close()


def test_blocks_of_deepseek_hold_the_latent(mlx_model: Callable[..., Any]) -> None:
    tiny = mlx_model("deepseek_v3")
    chain = open_chain(tiny)
    numbers = tiny.model.config.kv_lora_rank + tiny.model.config.qk_rope_head_dim

    assert chain.capacities[0].block_bytes_per_token == NUM_LAYERS * numbers * 4
    chain.close()


def _one_percent_more(tensor: Tensor) -> Tensor:
    values = np.frombuffer(tensor.data, np.float32).copy()
    values[::2] *= 1.01
    return Tensor(tensor.dtype, tensor.shape, values)


def open_chain(tiny: Any, cuts: tuple[int, ...] = ()) -> MlxChain:
    return MlxChain(tiny.folder, cuts)
