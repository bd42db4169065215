"""Recent answers, in which running sequences look up their next tokens.

Each occurrence of a few tokens is found by their hash: a table has the latest occurrence of each hash, and every
occurrence the one before it, as in LZ77 compressors. A lookup walks back along that chain, and takes the occurrence
whose tokens agree for longest. An answer is dropped as a whole by forgetting its number: its occurrences are dead ends
from then on, and nothing has to be cleaned up.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Answers", "Occurrence"]

KEY_LENGTH = 3
"""Number of hashed tokens: shorter matches between answers mean nothing."""
_LONGEST_MATCH = 32
"""Tokens that are compared at most."""
_OFFSET_BITS = 24
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_NOWHERE = 0


@dataclass(slots=True, eq=False)
class _Answer:
    salt: str
    ids: array[int]
    before: array[int]
    """For each token: the earlier occurrence with the same hash."""


@dataclass(slots=True)
class Occurrence:
    """An occurrence in an answer whose last tokens equal those of a sequence."""

    ids: array[int]
    """The answer."""
    end: int
    """Index behind the tokens that agree."""
    length: int
    """Number of tokens that agree."""

    def follow(self, ids: Sequence[int]) -> bool:
        """Move on behind the tokens that the sequence gained; False if the answer has others here."""
        end = self.end + len(ids)
        if self.ids[self.end : end] != array("i", ids):
            return False

        self.end, self.length = end, self.length + len(ids)
        return True


class Answers:
    """The latest answers, so many tokens of them at most. Those of one salt are never found by another."""

    def __init__(self, max_tokens: int, max_looks: int = 8) -> None:
        """`max_looks` is how many occurrences are compared at a time."""
        self.num_tokens = 0
        self._max_tokens = max_tokens
        self._max_looks = max_looks
        self._answers: dict[int, _Answer] = {}
        """Number → answer; numbers are given one after the other."""
        self._oldest = self._next_number = 1
        self._known: set[int] = set()
        """Hashes of whole answers, so that a repeated answer is kept once."""
        self._mask = (1 << max(max_tokens - 1, 1).bit_length()) - 1
        self._heads = array("q", bytes(8 * (self._mask + 1)))
        """Hash → latest occurrence."""

    def add(self, salt: str, ids: Sequence[int]) -> None:
        """Remember an answer, and forget the oldest ones where there are too many tokens."""
        answer = _Answer(salt, array("i", ids), array("q"))
        if not KEY_LENGTH < len(ids) <= min(self._max_tokens, _OFFSET_MASK) or _digest(answer) in self._known:
            return

        base = self._next_number << _OFFSET_BITS
        self._answers[self._next_number] = answer
        self._known.add(_digest(answer))
        self._next_number += 1
        self.num_tokens += len(ids)
        while self.num_tokens > self._max_tokens:
            self._forget_oldest()
        heads, mask = self._heads, self._mask
        answer.before.extend([_NOWHERE] * KEY_LENGTH)
        for end in range(KEY_LENGTH, len(ids)):
            slot = hash((salt, *ids[end - KEY_LENGTH : end])) & mask
            answer.before.append(heads[slot])
            heads[slot] = base + end

    def find(self, salt: str, tail: Sequence[int]) -> Occurrence | None:
        """Where the last tokens of `tail` stand in an answer with something behind them: the longest agreement, and of
        several the latest."""
        at = self._heads[hash((salt, *tail[-KEY_LENGTH:])) & self._mask] if len(tail) >= KEY_LENGTH else _NOWHERE
        best: Occurrence | None = None
        for _ in range(self._max_looks):
            answer = self._answers.get(at >> _OFFSET_BITS)
            if answer is None:
                break
            end = at & _OFFSET_MASK
            length = _agreement(answer.ids, end, tail) if answer.salt == salt else 0
            if length >= KEY_LENGTH and (best is None or length > best.length):
                best = Occurrence(answer.ids, end, length)
            at = answer.before[end]
        return best

    def _forget_oldest(self) -> None:
        answer = self._answers.pop(self._oldest)
        self._oldest += 1
        self._known.remove(_digest(answer))
        self.num_tokens -= len(answer.ids)


def _digest(answer: _Answer) -> int:
    return hash((answer.salt, answer.ids.tobytes()))


def _agreement(ids: array[int], end: int, tail: Sequence[int]) -> int:
    """How many tokens before `end` are those at the end of `tail`."""
    most = min(end, len(tail), _LONGEST_MATCH)
    for length in range(most):
        if ids[end - 1 - length] != tail[-1 - length]:
            return length
    return most
