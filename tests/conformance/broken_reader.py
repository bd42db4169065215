"""Encoders with one defect each, for the kit's laws of whole texts: torch's, with what comes out of it spoilt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from histrio.contracts.backend import Capability, OpenedStage, Progress, StageOutput, StageSpec, StepBatch
from histrio_torch.factory import TorchFactory

__all__ = ["READER_DEFECTS"]

READER_DEFECTS = {
    "Undeclared": "texts_are_declared_as_whole",
    "RollsStates": "texts_of_one_step_equal_each_alone",
    "LooksBack": "the_beginning_of_a_text_depends_on_its_end",
    "Remembers": "texts_leave_nothing_behind",
    "Scales": "states_of_a_text_equal_the_reference",
}
"""Factory → the law of the kit that finds its defect."""

Step = Callable[[StepBatch], StageOutput]


class _Spoilt:
    """A stage, or what it allocates, with the attributes of another but for those that are given."""

    def __init__(self, inner: Any, **changed: Any) -> None:
        self._inner = inner
        self.__dict__ |= changed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Broken(TorchFactory):
    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        stage: Any = super().open(spec, progress)

        def allocate(size: Any) -> Any:
            running = stage.allocate(size)
            return _Spoilt(running, step=lambda batch: self.spoil(running.step, batch))

        return _Spoilt(stage, allocate=allocate, capacity=self.declared(stage.capacity))

    def declared(self, capacity: Any) -> Any:
        return capacity

    def spoil(self, step: Step, batch: StepBatch) -> StageOutput:
        return step(batch)


class Undeclared(_Broken):
    def declared(self, capacity: Any) -> Any:
        left = [each for each in capacity.capabilities if each not in (Capability.HIDDEN_STATES, Capability.SCORES)]
        return msgspec.structs.replace(capacity, capabilities=left)


class RollsStates(_Broken):
    def spoil(self, step: Step, batch: StepBatch) -> StageOutput:
        found = step(batch)
        if batch.num_rows > 1:
            found.states = np.roll(np.asarray(found.states), 1, axis=0)
        return found


class LooksBack(_Broken):
    def spoil(self, step: Step, batch: StepBatch) -> StageOutput:
        ids = np.array(batch.token_ids)
        ids[np.cumsum(batch.num_tokens) - 1] = 7
        batch.token_ids = ids
        return step(batch)


class Remembers(_Broken):
    before: float = 0.0

    def spoil(self, step: Step, batch: StepBatch) -> StageOutput:
        found = step(batch)
        states = np.asarray(found.states)
        found.states = states + self.before
        self.before = float(np.abs(states).max()) if batch.num_rows == 1 else 0.0
        return found


class Scales(_Broken):
    def spoil(self, step: Step, batch: StepBatch) -> StageOutput:
        found = step(batch)
        found.states = np.asarray(found.states) * np.float32(1.01)
        return found
