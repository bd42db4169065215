"""A drafter made of one function, for tests and benchmarks: `ScriptedDrafterFactory(lambda ids, num_tokens: [...])`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from histrio.contracts.backend import Probe
from histrio.contracts.drafter import Draft, DrafterSpec, DrafterTools
from histrio.contracts.options import NoOptions
from histrio.messages import Generate

__all__ = ["DraftFunction", "ScriptedDrafterFactory"]

DraftFunction = Callable[[list[int], int], list[int]]
"""From all tokens of a sequence and a number, up to that many that may come next."""


class ScriptedDrafterFactory:
    """Its drafter drafts what `draft` says. Keeps count, so that a test can see that it was asked."""

    options = NoOptions

    def __init__(self, draft: DraftFunction, name: str = "scripted") -> None:
        self.name = name
        self.num_proposals = 0
        self._draft = draft

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        """Any model."""
        return Probe(available=True)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> ScriptedDrafter:
        """A drafter that remembers the sequences."""
        return ScriptedDrafter(self._count)

    def _count(self, ids: list[int], num_tokens: int) -> list[int]:
        self.num_proposals += 1
        return self._draft(ids, num_tokens)


class ScriptedDrafter:
    """Keeps the tokens of every open sequence, and asks `draft` to continue them."""

    def __init__(self, draft: DraftFunction) -> None:
        self._draft = draft
        self._ids: dict[int, list[int]] = {}

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        """Remember the tokens."""
        assert command.request not in self._ids, "a sequence was opened twice"
        self._ids[command.request] = list(ids)

    def extend(self, request: int, ids: Sequence[int]) -> None:
        """Remember the tokens that came."""
        self._ids[request] += ids

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        """Ask the function."""
        return {request: Draft(self._draft(self._ids[request], count)) for request, count in lengths.items()}

    def close(self, request: int) -> None:
        """Forget the sequence."""
        del self._ids[request]

    def shutdown(self) -> None:
        """Forget all."""
        self._ids.clear()
