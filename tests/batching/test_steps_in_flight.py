"""As many steps are in flight as stages can compute side by side, unless the file says another number."""

from __future__ import annotations

import pytest

from histrio.batching.actor import BatchingActor, BatchingSpec
from histrio.config.settings import BatchingSettings
from histrio.messages import Generate, Granted, Message, ReplicaSize, Start, Step

SIZE = ReplicaSize(num_blocks=64, block_size=4, max_slots=8, max_step_tokens=64, max_sequence_length=64)


@pytest.mark.parametrize(
    ("num_micro_batches", "num_side_by_side", "expected"),
    [(None, 1, [6]), (None, 2, [3, 3]), (None, 3, [2, 2, 2]), (2, 1, [3, 3]), (1, 3, [6])],
)
def test_sequences_are_divided_among_the_steps(
    num_micro_batches: int | None, num_side_by_side: int, expected: list[int]
) -> None:
    steps: list[Step] = []

    def tell(_name: str, message: Message) -> None:
        if isinstance(message, Step):
            steps.append(message)

    settings = BatchingSettings(prefix_cache=False)
    batching = BatchingActor(tell, BatchingSpec(settings=settings, num_micro_batches=num_micro_batches))
    batching.receive(Start(1, SIZE, num_side_by_side=num_side_by_side))
    for number in range(1, 7):
        batching.receive(Generate(number, [1, 2, 3], 3, 8))
    batching.flush()
    batching.receive(Granted(list(range(64)), 0))
    batching.flush()
    assert [len(step.rows) for step in steps] == expected
