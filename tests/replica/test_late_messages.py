"""What an epoch that is over still says changes nothing in the next one; what was released meanwhile is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from histrio.actors.refs import ToBatching
from histrio.batching.actor import BatchingActor, BatchingSpec
from histrio.config.settings import BatchingSettings, SizeSettings
from histrio.contracts.backend import Capability, StageSpec
from histrio.messages import (
    Cancel,
    Close,
    Copy,
    Generate,
    Granted,
    LeaseBlocks,
    Matched,
    Message,
    Open,
    Release,
    ReplicaSize,
    Start,
    StepResult,
)
from histrio.stage.actor import StageActor
from histrio.stage.sampling.last_stage import LastStage
from histrio.stage.sampling.sampler_chain import SamplerChain
from histrio.testing.toy import ToyFactory, write_toy_model

SIZE = ReplicaSize(
    num_blocks=8,
    block_size=4,
    max_slots=2,
    max_step_tokens=64,
    max_sequence_length=32,
    capabilities=[Capability.BATCH, Capability.PREFIX_SHARE],
)


class Line:
    """Batching alone, and all that it tells."""

    def __init__(self, *, has_prefix_cache: bool = False) -> None:
        self.told: list[Message] = []
        settings = BatchingSettings(prefix_cache=has_prefix_cache, preemption_threshold=0.0)
        self.batching = BatchingActor(lambda _name, message: self.told.append(message), BatchingSpec(settings=settings))
        self.say(Start(1, SIZE))

    def say(self, *messages: ToBatching) -> list[Message]:
        """What it tells in one turn of its mailbox."""
        self.told.clear()
        for message in messages:
            self.batching.receive(message)
        self.batching.flush()
        return list(self.told)


@pytest.mark.parametrize("late", [Granted([0, 1, 2], 5), Matched(1, [0, 1])])
def test_an_answer_of_kv_to_the_epoch_before_is_nobodys(late: ToBatching) -> None:
    line = Line(has_prefix_cache=True)
    assert not [each for each in line.say(late) if isinstance(each, Release)]
    assert line.batching.scheduler is not None
    assert line.batching.scheduler.lease.num_blocks_in_hand == 0
    line.say(Generate(1, [1, 2, 3], 3, 6))
    line.say(Matched(1, []), Granted([3, 4], 5))
    in_hand_or_used = line.batching.scheduler.lease
    assert in_hand_or_used.num_blocks_in_hand + in_hand_or_used.num_used_blocks == 2, "a control: an answer to this one"


def test_blocks_released_while_kv_was_asked_are_asked_for_again() -> None:
    def asked_at_last(*, is_cancelled: bool) -> bool:
        """Whether kv is asked for more after it has granted less than was asked for."""
        line = Line()
        line.say(Generate(1, [1] * 7, 7, 32), Generate(2, [2] * 7, 7, 32))
        line.say(Granted([0, 1, 2, 3], 0))
        told = line.say(StepResult(1, 1, [5, 5]))
        while not [each for each in told if isinstance(each, LeaseBlocks)]:
            assert line.batching.scheduler is not None
            step = line.batching.scheduler._step
            told = line.say(StepResult(step, 1, [5, 5]))
        cancelled: list[ToBatching] = [Cancel(2)] if is_cancelled else []
        told = line.say(*cancelled, Granted([], 0))
        return any(isinstance(each, LeaseBlocks) for each in told)

    assert asked_at_last(is_cancelled=True)
    assert not asked_at_last(is_cancelled=False), "a control: nothing was released, so kv has nothing to give"


def test_a_stage_that_replaced_another_ignores_commands_of_the_chain_before(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy", num_layers=2)
    spec = StageSpec(model=str(model), first_layer=0, last_layer=2, num_layers=2, sizes=SizeSettings(max_batch_size=2))
    stage = StageActor(
        0,
        spec,
        ToyFactory().open,
        lambda _name, _message: None,
        LastStage(SamplerChain([], 2)),
    )
    command = Open(slot=1, ids=[1, 2], num_prompt_tokens=2, seed=1)
    stage.start()
    for late in (command, Copy([3], [4]), Close(1)):
        stage.receive(late)
    stage.receive(Start(2, SIZE))
    stage.receive(command)
    assert stage._table.lengths.tolist() == [0, 0]
    with pytest.raises(IndexError):
        stage.receive(
            Open(slot=2, ids=[1], num_prompt_tokens=1, seed=1)
        )  # a control: commands of this chain are followed
