"""A row's logits are the same bits alone and beside others, in one step and in chunks, after rewinds and in shared
blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from histrio.testing.chain import ChainRow, Logits, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_cpu.factory import CpuFactory
from histrio_torch.testing import MAX_LENGTH
from tests.cpu_backend.conftest import ONE_OF_EACH, Int8Factory, prompt

LENGTHS = [5, 33, 17, 2, 48, 11, 1]
"""Tokens of the rows; the longest spans several blocks and windows."""


CASES = [
    *((family, dtype, CpuFactory()) for family in ONE_OF_EACH for dtype in ("float32", "bfloat16")),
    *((family, dtype, Int8Factory()) for family, dtype in (("qwen3", "float32"), ("gemma2", "bfloat16"))),
    ("qwen3", "float16", CpuFactory()),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}-{type(case[2]).__name__}")
def chain(request: pytest.FixtureRequest, tiny_model: Callable[[str], Any]) -> Any:
    family, dtype, factory = request.param
    options = HarnessOptions(max_sequence_length=MAX_LENGTH, dtype=dtype, max_num_tokens_per_batch=128)
    opened = StageChain(factory, tiny_model(family).folder, (), options)
    yield opened
    opened.close()


def test_rows_beside_each_other_equal_single_rows(chain: StageChain) -> None:
    prompts = [prompt(seed, length) for seed, length in enumerate(LENGTHS)]
    alone = [step(chain, ChainRow(slot, ids, len(ids))) for slot, ids in enumerate(prompts)]
    next_alone = [step(chain, ChainRow(slot, [slot + 5])) for slot in range(len(prompts))]
    for slot in range(len(prompts)):
        chain.leave(slot)
    together = step(chain, *(ChainRow(slot, ids, len(ids)) for slot, ids in enumerate(prompts)))
    next_together = step(chain, *(ChainRow(slot, [slot + 5]) for slot in range(len(prompts))))

    assert np.array_equal(together, np.concatenate(alone))
    assert np.array_equal(next_together, np.concatenate(next_alone))
    assert not np.array_equal(next_together[0], next_together[1]), "control: all rows say the same"


def test_chunks_and_rewinds_leave_no_trace(chain: StageChain) -> None:
    ids = prompt(3, 40)
    whole = step(chain, ChainRow(0, ids, len(ids)))
    first = step(chain, ChainRow(1, ids[:19], 19), ChainRow(2, ids[::-1], 0))
    step(chain, ChainRow(1, [7, 8, 9, 10, 11], 1))
    chain.rewind(1, 13)
    second = step(chain, ChainRow(1, ids[13:], len(ids) - 13), ChainRow(2, [3], 0))

    assert np.array_equal(first, whole[:19])
    assert np.array_equal(second, whole[13:])
    chain.rewind(1, 13)
    assert not np.array_equal(step(chain, ChainRow(1, [*ids[13:-1], 9], 1))[0], whole[-1]), "control: another token"


def test_shared_and_copied_blocks_equal_own_ones(chain: StageChain) -> None:
    ids = prompt(4, 32)
    whole = step(chain, ChainRow(0, ids, len(ids)))
    size = chain.size.block_size
    block = chain.tables[0][0]
    copied = chain.copy(block)
    chain.share([block], 1, size)
    chain.share([copied], 2, size)
    rest = ids[size:]
    logits = step(chain, ChainRow(1, rest, len(rest)), ChainRow(2, rest, len(rest)))

    assert np.array_equal(logits, np.concatenate([whole[size:]] * 2))


def test_logits_that_are_held_are_left_alone(chain: StageChain) -> None:
    first = chain.step([ChainRow(0, prompt(5, 6), 2)])
    assert first is not None
    before, row = first.copy(), first[0]
    del first
    second = step(chain, ChainRow(1, prompt(6, 4), 2))

    assert np.array_equal(row, before[0])
    assert not np.array_equal(second, before), "control: another prompt"


def step(chain: StageChain, *rows: ChainRow) -> Logits:
    """A copy of the logits, which the next step overwrites."""
    logits = chain.step(rows)
    assert logits is not None
    return logits.copy()
