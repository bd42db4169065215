"""N-gram lookup: the tokens that followed an earlier occurrence of the last few tokens are likely to follow again.

Saxena 2023, "Prompt Lookup Decoding". It needs no weights, and pays wherever an answer repeats its prompt or itself:
summaries, edits of code, quotations, lists. The longest match decides, and of several the latest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from histrio.contracts.backend import Probe
from histrio.contracts.drafter import Draft, DrafterSpec, DrafterTools
from histrio.contracts.options import NoOptions
from histrio.messages import Generate

__all__ = ["Ngram", "NgramFactory"]

_LENGTHS = (4, 3, 2)
"""Tokens of a match, the longest first."""


class NgramFactory:
    """Registers as `ngram`."""

    name = "ngram"
    options = NoOptions

    def supports(self, spec: DrafterSpec, tools: DrafterTools) -> Probe:
        """Any model."""
        return Probe(available=True)

    def create(self, spec: DrafterSpec, tools: DrafterTools) -> Ngram:
        """Needs nothing."""
        return Ngram()


class Ngram:
    """Looks up each sequence in itself."""

    def __init__(self) -> None:
        self._tables: dict[int, _Table] = {}

    def open(self, command: Generate, ids: Sequence[int]) -> None:
        """Remember where each n-gram of the sequence ends."""
        self._tables[command.request] = table = _Table()
        table.extend(ids)

    def extend(self, request: int, ids: Sequence[int]) -> None:
        """Add tokens, and note the n-grams that now have a successor."""
        self._tables[request].extend(ids)

    def propose(self, lengths: Mapping[int, int]) -> dict[int, Draft]:
        """The tokens after the longest tail that occurred before."""
        found = {request: self._tables[request].propose(num_tokens) for request, num_tokens in lengths.items()}
        return {request: Draft(ids) for request, ids in found.items() if ids}

    def close(self, request: int) -> None:
        """Forget the sequence."""
        del self._tables[request]

    def shutdown(self) -> None:
        """Forget all."""
        self._tables.clear()


class _Table:
    def __init__(self) -> None:
        self._ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        """N-gram → index after its latest occurrence; the n-gram that ends the sequence is not in it yet."""

    def extend(self, ids: Sequence[int]) -> None:
        known = self._ids
        for token in ids:
            end = len(known)
            for length in _LENGTHS:
                if end >= length:
                    self._ends[tuple(known[end - length :])] = end
            known.append(token)

    def propose(self, num_tokens: int) -> list[int]:
        """The tokens after the match. They may run on into the match itself, so loops are found."""
        known = self._ids
        for length in _LENGTHS:
            end = self._ends.get(tuple(known[-length:])) if len(known) >= length else None
            if end is not None:
                period = len(known) - end
                return [known[end + index % period] for index in range(num_tokens)]
        return []
