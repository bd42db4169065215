"""Rotary factors don't depend on what else is in the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from histrio.errors import UnsupportedModel
from histrio.testing.chain import ChainRow, StageChain
from histrio.testing.harness import HarnessOptions
from histrio_torch.factory import TorchFactory
from histrio_torch.rope import fix_rope
from histrio_torch.testing import MOST_ERROR, logits_error, make_model, refer

ORIGINAL_LENGTH = 64
"""At which the tiny LongRoPE model changes from short to long factors."""
SHORT = list(range(3, 23))
LONG = [3 + index % 150 for index in range(100)]


def last_logits(chain: StageChain, rows: list[list[int]]) -> Any:
    logits = chain.step([ChainRow(slot, ids) for slot, ids in enumerate(rows)])
    for slot in range(len(rows)):
        chain.leave(slot)
    return logits


def misled(folder: str, length: int) -> StageChain:
    """For controls: a stage that was opened for sequences of another length than it then gets."""
    chain = StageChain(TorchFactory(), folder, (), HarnessOptions(max_sequence_length=length))
    chain.restart(msgspec.structs.replace(chain.size, max_sequence_length=256))
    return chain


def test_a_short_row_beside_a_long_one_does_not_change(tiny_model: Callable[[str], Any]) -> None:
    chain = StageChain(
        TorchFactory(), tiny_model("phi3_longrope").folder, (1,), HarnessOptions(max_sequence_length=256)
    )
    alone = last_logits(chain, [SHORT])
    beside = last_logits(chain, [SHORT, LONG])
    after = last_logits(chain, [SHORT])

    assert logits_error(beside[:1], alone) < MOST_ERROR
    assert np.array_equal(after, alone)
    chain.close()


def test_transformers_own_rule_would_change_it(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("phi3_longrope").model
    batch = torch.tensor([SHORT + [3] * (len(LONG) - len(SHORT)), LONG])
    with torch.no_grad():
        alone = model(torch.tensor([SHORT])).logits[0, -1]
        beside = model(batch).logits[0, len(SHORT) - 1]

    assert logits_error(beside, alone) > 3 * MOST_ERROR


@pytest.mark.parametrize(("ids", "length"), [(SHORT, ORIGINAL_LENGTH), (LONG, 256)], ids=["short", "long"])
def test_longrope_is_chosen_by_the_longest_sequence(
    ids: list[int], length: int, tiny_model: Callable[[str], Any]
) -> None:
    tiny = tiny_model("phi3_longrope")
    chain = StageChain(TorchFactory(), tiny.folder, (), HarnessOptions(max_sequence_length=length))
    other = misled(tiny.folder, 256 + ORIGINAL_LENGTH - length)
    reference = refer(tiny.model, ids, 1).logits[-1:]

    assert logits_error(last_logits(chain, [ids]), reference) < MOST_ERROR
    assert logits_error(last_logits(other, [ids]), reference) > 3 * MOST_ERROR
    chain.close()
    other.close()


def test_dynamic_scaling_is_that_of_the_longest_sequence(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = make_model("llama", tmp_path, rope_parameters=rope, max_position_embeddings=32)
    chain = StageChain(TorchFactory(), str(tmp_path), (2,), HarnessOptions(max_sequence_length=len(LONG)))
    unscaled = misled(str(tmp_path), 32)
    reference = refer(model, LONG, 1).logits[-1:]

    assert logits_error(last_logits(chain, [SHORT, LONG])[1:], reference) < MOST_ERROR
    assert logits_error(last_logits(unscaled, [LONG]), reference) > 3 * MOST_ERROR
    chain.close()
    unscaled.close()


class Rotary(torch.nn.Module):
    """Says its type, as transformers' rotary modules do."""

    def __init__(self, rope_type: str) -> None:
        super().__init__()
        self.rope_type = rope_type


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="spiral"):
        fix_rope(Rotary("spiral"), 128)
    assert fix_rope(Rotary("yarn"), 128) == 0
