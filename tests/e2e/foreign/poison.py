"""A plugin whose every part fails where a request says so: for tests of what such a request costs the others."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import msgspec
import numpy as np

from histrio.contracts.backend import (
    Array,
    ArrayNamespace,
    OpenedStage,
    Progress,
    StageOutput,
    StageSpec,
    StepBatch,
    Traits,
)
from histrio.contracts.drafter import Draft, DrafterSpec, DrafterTools
from histrio.contracts.grammar import MaskRequest, Masks, VocabularySpec
from histrio.contracts.hooks import hookimpl
from histrio.contracts.options import NoOptions
from histrio.contracts.sampler import LogitsRows, Opening
from histrio.messages import Generate, GrammarSpec
from histrio.testing.toy import ToyFactory, ToyStage

BAD_STEP, BAD_DRAFT = [251] * 3, 252
"""In a prompt: the stage raises, the drafter proposes what cannot be."""
EXIT_STEP, KILL_STEP = [253] * 3, [254] * 3
"""In a prompt: the stage ends its process, or kills it."""


class PoisonParams(msgspec.Struct, frozen=True):
    """The request's fields."""

    poison: str = ""
    poison_at: int = 0
    """Tokens of the answer that come before."""


class Poison:
    """A sampler that raises, kills, ends, hangs or runs out of memory."""

    name: ClassVar[str] = "poison"
    order: ClassVar[int] = 20
    params: ClassVar[type[msgspec.Struct]] = PoisonParams

    def __init__(self, max_slots: int) -> None:
        self._kinds = [""] * max_slots
        self._from = np.zeros(max_slots, np.int64)
        self._num_known = np.zeros(max_slots, np.int64)

    def open(self, slot: int, params: msgspec.Struct, opening: Opening) -> bool:
        """Remember what for, and from which position on."""
        assert isinstance(params, PoisonParams)
        if params.poison == "open":
            raise ValueError("poisoned: open")
        self._kinds[slot] = params.poison
        self._from[slot] = opening.num_prompt_tokens + params.poison_at
        self._num_known[slot] = len(opening.ids)
        return bool(params.poison)

    def apply(self, xp: ArrayNamespace, logits: Array, rows: LogitsRows) -> Array:
        """Fail in the rows that are due."""
        for slot, position in zip(rows.slots.tolist(), rows.positions.tolist(), strict=True):
            if position >= self._from[slot]:
                self._fail(self._kinds[slot])
        return logits

    def observe(self, slots: Any, ids: Any, probabilities: Any) -> None:
        """Fail behind the first token that is due."""
        for slot in slots.tolist():
            self._num_known[slot] += 1
            if self._kinds[slot] == "observe" and self._num_known[slot] > self._from[slot]:
                raise ValueError("poisoned: observe")

    def _fail(self, kind: str) -> None:
        match kind:
            case "apply":
                raise ValueError("poisoned: apply")
            case "memory":
                raise MemoryError("poisoned: memory")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(3600)


class PoisonedToy(ToyFactory):
    """The toy backend, but for one prompt."""

    name = "poisoned-toy"
    traits = Traits(contract=2)

    def open(self, spec: StageSpec, progress: Progress) -> OpenedStage:
        """A stage with that weakness."""
        return _PoisonedStage(spec, progress)


class _PoisonedStage(ToyStage):
    def step(self, batch: StepBatch) -> StageOutput:
        ids = [] if batch.token_ids is None else batch.token_ids.tolist()
        for first, last in pairwise(batch.offsets.tolist()):
            for at in range(first, last - 2):
                self._fail_at(ids[at : at + 3])
        return super().step(batch)

    def _fail_at(self, found: list[int]) -> None:
        if found == BAD_STEP:
            raise ValueError("poisoned: step")
        if found == EXIT_STEP:
            os._exit(3)
        if found == KILL_STEP:
            os.kill(os.getpid(), signal.SIGKILL)


class PoisonedDrafts:
    """A drafter that proposes a token beyond the vocabulary for some prompts, and for others nothing."""

    name = "poisoned-drafts"
    options = NoOptions

    def __init__(self) -> None:
        self._bad: set[int] = set()

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Any:
        return ToyFactory().probe()

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> PoisonedDrafts:
        return PoisonedDrafts()

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        if BAD_DRAFT in command.ids[: command.num_prompt_tokens]:
            self._bad.add(command.request)

    def extend(self, request: int, ids: Sequence[int]) -> None:
        pass

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        return {request: Draft([10**9]) for request in lengths if request in self._bad}

    def close(self, request: int) -> None:
        self._bad.discard(request)

    def shutdown(self) -> None:
        self._bad.clear()


class PoisonedGrammar:
    """Raises when its masks are asked for."""

    name = "poisoned-grammar"
    kinds = ("poisoned",)
    capabilities = ()

    def check(self, spec: GrammarSpec) -> None:
        pass

    def open(self, spec: VocabularySpec) -> PoisonedGrammar:
        return self

    def matcher(self, spec: GrammarSpec) -> _Matcher:
        return _Matcher()

    def fill(self, requests: Sequence[MaskRequest], masks: Masks) -> None:
        raise ValueError("poisoned: grammar")


class _Matcher:
    is_finished = False
    error = ""

    def advance(self, ids: Sequence[int]) -> bool:
        return True

    def rollback(self, num_tokens: int) -> None:
        pass

    def forced(self, max_tokens: int) -> list[int]:
        return []


@hookimpl
def register_samplers(register: Callable[[Any], None]) -> None:
    register(Poison)


@hookimpl
def register_backends(register: Callable[[Any], None]) -> None:
    register(PoisonedToy())


@hookimpl
def register_drafters(register: Callable[[Any], None]) -> None:
    register(PoisonedDrafts())


@hookimpl
def register_grammars(register: Callable[[Any], None]) -> None:
    register(PoisonedGrammar())
