"""A drafter in one file: it expects that a sequence goes on as it went on after the last time it said this token.

Choose it with `[engine] drafter = "one-more"`, or `--drafter one-more`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec

from histrio.contracts.backend import Probe
from histrio.contracts.drafter import Draft, DrafterFactory, DrafterSpec, DrafterTools
from histrio.contracts.hooks import hookimpl
from histrio.messages import Generate


class OneMoreOptions(msgspec.Struct, frozen=True, rename="kebab"):
    """`[engine.drafter-options]`."""

    most_tokens: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Most tokens drafted at a time."""


class OneMore:
    """All sequences of a replica."""

    def __init__(self, options: OneMoreOptions) -> None:
        self._most_tokens = options.most_tokens
        self._ids: dict[int, list[int]] = {}

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        """A sequence starts to decode."""
        self._ids[command.request] = list(ids)

    def extend(self, request: int, ids: Sequence[int]) -> None:
        """These tokens came."""
        self._ids[request] += ids

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        """For each sequence what followed its last token the last time."""
        found = {request: self._after(self._ids[request], most) for request, most in lengths.items()}
        return {request: Draft(ids) for request, ids in found.items() if ids}

    def close(self, request: int) -> None:
        """The sequence has ended."""
        del self._ids[request]

    def shutdown(self) -> None:
        """Nothing to free."""
        self._ids.clear()

    def _after(self, ids: list[int], most: int) -> list[int]:
        for index in range(len(ids) - 2, -1, -1):
            if ids[index] == ids[-1]:
                return ids[index + 1 :][: min(most, self._most_tokens)]
        return []


class OneMoreFactory:
    """What is registered."""

    name = "one-more"
    options = OneMoreOptions

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        """Any model."""
        return Probe(available=True)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> OneMore:
        """`spec.options` is a `OneMoreOptions`."""
        return OneMore(spec.options)


@hookimpl
def register_drafters(register: Callable[[DrafterFactory], None]) -> None:
    """Called once at start-up."""
    register(OneMoreFactory())
