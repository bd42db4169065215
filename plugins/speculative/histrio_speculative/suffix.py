"""Suffix lookup: tokens after the longest tail that occurred before, in the sequence itself or in a finished answer.

The sequence is looked up in its suffix automaton, at any length, and in the answers that this replica gave lately:
answers repeat across requests wherever the same documents, tools or templates are behind them. (The idea is that of
Oliaro et al. 2024, "SuffixDecoding", arXiv 2411.04975.) The longer match decides. A short match is a bad draft, so it
is followed for a few tokens only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from histrio.contracts.backend import Probe
from histrio.contracts.drafter import Draft, DrafterSpec, DrafterTools
from histrio.contracts.options import as_options
from histrio.messages import Generate
from histrio_speculative.answers import Answers, Occurrence
from histrio_speculative.automaton import Automaton

__all__ = ["Suffix", "SuffixFactory", "SuffixOptions"]

_SHORTEST_MATCH = 2
"""Tokens of a match in the sequence itself; one token stands anywhere."""
_DRAFT_PER_MATCH = 3
"""Tokens proposed for each token of the match."""
_MOST_CAUGHT_UP = 512
"""Tokens of prompts that are taken in before one step, of all sequences together: about a millisecond."""


class SuffixOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`[engine.drafter-options]` of `suffix`."""

    global_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**30)] = 1_000_000
    """Most tokens of finished answers to remember; 0: look sequences up in themselves only."""


class SuffixFactory:
    """Registers as `suffix`."""

    name = "suffix"
    options = SuffixOptions

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        """Any model."""
        return Probe(available=True)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> Suffix:
        """Needs nothing."""
        return Suffix(as_options(spec.options, SuffixOptions, "engine.drafter-options"))


class Suffix:
    """All sequences of a replica, and its recent answers."""

    def __init__(self, options: SuffixOptions) -> None:
        self.answers = Answers(options.global_tokens)
        self._options = options
        self._sequences: dict[int, _Sequence] = {}

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        """Remember the tokens; they are taken in before the next steps, a part at a time."""
        self._sequences[command.request] = _Sequence(command, list(ids))

    def extend(self, request: int, ids: Sequence[int]) -> None:
        """Add tokens, and check whether the match still holds."""
        self._sequences[request].extend(ids)

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        """The tokens after the longest tail that occurred before."""
        num_free = _MOST_CAUGHT_UP
        found = {}
        for request, num_tokens in lengths.items():
            sequence = self._sequences[request]
            num_free -= sequence.catch_up(num_free)
            ids = sequence.propose(num_tokens, self.answers)
            if ids:
                found[request] = Draft(ids)
        return found

    def close(self, request: int) -> None:
        """Forget the sequence; its answer is remembered."""
        sequence = self._sequences.pop(request)
        self.answers.add(sequence.salt, sequence.ids[sequence.num_prompt_tokens :])

    def shutdown(self) -> None:
        """Forget all."""
        self._sequences.clear()
        self.answers = Answers(self._options.global_tokens)


class _Sequence:
    def __init__(self, command: Generate, ids: list[int]) -> None:
        self.salt = command.ask.cache_salt
        self.num_prompt_tokens = command.num_prompt_tokens
        self.ids = ids
        self._own = Automaton()
        self._occurrence: Occurrence | None = None

    def extend(self, ids: Sequence[int]) -> None:
        self.ids.extend(ids)
        if self._occurrence is not None and not self._occurrence.follow(ids):
            self._occurrence = None

    def catch_up(self, most: int) -> int:
        """Take in at most so many tokens; returns their number."""
        begin = len(self._own.ids)
        self._own.extend(self.ids[begin : begin + most])
        return len(self._own.ids) - begin

    def propose(self, num_tokens: int, answers: Answers) -> list[int]:
        if self._occurrence is None:
            self._occurrence = answers.find(self.salt, self.ids)
        own = self._own
        own_length = own.match_length if len(own.ids) == len(self.ids) else 0
        found = self._occurrence
        if found is not None and found.length > own_length:
            return found.ids[found.end : found.end + min(num_tokens, _DRAFT_PER_MATCH * found.length)].tolist()
        if own_length < _SHORTEST_MATCH:
            return []
        return own.continuation(min(num_tokens, _DRAFT_PER_MATCH * own_length))
