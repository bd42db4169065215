"""Every family equals transformers' own forward and generate in float32, and a cut changes no bit of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from histrio.contracts.backend import BackendFactory
from histrio.messages import Tensor
from histrio.testing.chain import ChainRow, Logits, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_cpu.factory import CpuFactory
from histrio_torch.factory import TorchFactory
from histrio_torch.testing import MAX_LENGTH, MOST_ERROR, NUM_LAYERS, Excuses, logits_error
from tests.cpu_backend.conftest import CPU_FAMILIES, ONE_OF_EACH

NUM_PROMPT_TOKENS = 21


@pytest.mark.parametrize("family", CPU_FAMILIES)
def test_every_cut_equals_transformers_and_the_whole(family: str, tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model(family)
    reference = tiny.refer(seed=1, num_prompt_tokens=NUM_PROMPT_TOKENS)
    whole = logits_of(tiny.folder, reference.ids)
    excuses = Excuses()
    chain = open_chain(tiny.folder, (1,))
    excuses.compare(chain.greedy(reference.ids, len(reference.tokens)), reference)
    chain.close()

    assert len(set(reference.tokens)) >= 4, "the stream is too dull to prove anything"
    assert excuses.num_excused == 0
    assert logits_error(whole, reference.logits) <= MOST_ERROR
    for cuts in [(cut,) for cut in range(1, NUM_LAYERS)]:
        assert np.array_equal(logits_of(tiny.folder, reference.ids, cuts), whole), cuts


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_a_disturbed_hidden_state_is_seen(family: str, tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model(family)
    reference = tiny.refer(seed=1, num_prompt_tokens=NUM_PROMPT_TOKENS, num_tokens=1)
    disturbed = logits_of(tiny.folder, reference.ids, (1,), _one_percent_more)

    assert logits_error(disturbed, reference.logits) > 3 * MOST_ERROR


@pytest.mark.parametrize("first", ["cpu", "torch"])
def test_stages_of_cpu_and_torch_follow_each_other(first: str, tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model("qwen3")
    reference = tiny.refer(seed=2, num_prompt_tokens=9, num_tokens=1)
    both: list[BackendFactory] = [CpuFactory(), TorchFactory()]
    factories = both if first == "cpu" else both[::-1]
    chain = StageChain(factories, tiny.folder, (1,), HarnessOptions(max_sequence_length=MAX_LENGTH))
    logits = chain.step([ChainRow(0, reference.ids, len(reference.ids))])
    chain.close()

    assert logits_error(logits, reference.logits) <= MOST_ERROR


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.03), ("float16", 0.002)])
def test_half_precisions_are_near_the_reference(dtype: str, most: float, tiny_model: Callable[[str], Any]) -> None:
    tiny = tiny_model("qwen3")
    reference = tiny.refer(seed=1, num_prompt_tokens=NUM_PROMPT_TOKENS, num_tokens=1)
    chain = open_chain(tiny.folder, dtype=dtype)
    logits = chain.step([ChainRow(0, reference.ids, NUM_PROMPT_TOKENS)])
    given = {capacity.dtype for capacity in chain.capacities}
    chain.close()

    assert given == {dtype}
    assert MOST_ERROR / 10 < logits_error(logits, reference.logits) <= most


def logits_of(
    folder: str, ids: list[int], cuts: tuple[int, ...] = (), disturb: Callable[[Tensor], Tensor] | None = None
) -> Logits:
    """Of all positions of a prompt."""
    chain = open_chain(folder, cuts)
    chain.disturb = disturb
    logits = chain.step([ChainRow(0, ids, len(ids))])
    assert logits is not None
    copied = logits.copy()
    chain.close()
    return copied


def open_chain(folder: str, cuts: tuple[int, ...] = (), dtype: str = "float32") -> StageChain:
    return StageChain(CpuFactory(), folder, cuts, HarnessOptions(max_sequence_length=MAX_LENGTH, dtype=dtype))


def _one_percent_more(tensor: Tensor) -> Tensor:
    values = np.frombuffer(tensor.data, np.float32).copy()
    values[::2] *= 1.01
    return Tensor(tensor.dtype, tensor.shape, values)
