"""Every registered drafter with the options that it needs, and two that know too much and err on purpose."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histrio.contracts.backend import Probe
from histrio.contracts.drafter import Draft, DrafterFactory, DrafterSpec, DrafterTools
from histrio.contracts.options import NoOptions
from histrio.messages import Generate
from histrio.plugins.registry import installed_plugins
from histrio.testing.scripted_drafter import DraftFunction, ScriptedDrafterFactory

__all__ = ["OPTIONS", "DiceFactory", "drafter_options", "make_drafter", "names"]

OPTIONS: dict[str, dict[str, Any]] = {
    "ngram": {},
    "suffix": {},
    "draft-model": {"model": "{draft}", "backend": "{backend}"},
    "early-exit": {"layers": 2, "backend": "{backend}"},
}
"""Registered drafter → its options: `{draft}` is the folder of a lesser model, `{backend}` the stages' backend."""

_OWN = ("none", "oracle", "dice")


def names() -> list[str]:
    """All that there are: none, the two of this file, and whatever plugins have registered."""
    return [*_OWN, *sorted(installed_plugins().drafters.owners)]


def make_drafter(name: str, draft: DraftFunction) -> DrafterFactory | None:
    """`draft` is what `oracle` and `dice` go by."""
    if name == "none":
        return None
    if name == "oracle":
        return ScriptedDrafterFactory(draft)
    if name == "dice":
        return DiceFactory(draft)
    return installed_plugins().drafters.get(name)


def drafter_options(name: str, draft: Path, backend: str) -> dict[str, Any]:
    """The options of a registered drafter."""
    filled = {"{draft}": str(draft), "{backend}": backend}
    return {key: filled.get(value, value) for key, value in OPTIONS.get(name, {}).items()}


class DiceFactory:
    """Throws a die for each token, and says how it was loaded: for what is drafted, and for one token else."""

    name = "dice"
    options = NoOptions

    def __init__(self, draft: DraftFunction) -> None:
        self._draft = draft

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        """Any model."""
        return Probe(available=True)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> _Dice:
        """Always the same throws."""
        return _Dice(self._draft)


class _Dice:
    def __init__(self, draft: DraftFunction) -> None:
        self._draft = draft
        self._rng = random.Random(1)
        self._ids: dict[int, list[int]] = {}

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        self._ids[command.request] = list(ids)

    def extend(self, request: int, ids: Sequence[int]) -> None:
        self._ids[request] += ids

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        return {request: self._throw(self._ids[request], count) for request, count in lengths.items()}

    def close(self, request: int) -> None:
        del self._ids[request]

    def shutdown(self) -> None:
        self._ids.clear()

    def _throw(self, ids: list[int], num_tokens: int) -> Draft:
        draft_probs = [[(token, 0.75), (4 + token % 2, 0.25)] for token in self._draft(ids, num_tokens)]
        drawn = [pair[0][0] if self._rng.random() < 0.75 else pair[1][0] for pair in draft_probs]
        return Draft(drawn, draft_probs)
