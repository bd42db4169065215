"""The suffix automaton of a growing text: which of its suffixes has occurred before, and where last.

Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text", built token by token. Each state stands
for the suffixes that have ended at the same positions so far; its link leads to the longest shorter suffix that has
ended at more of them. So the link of the state of the whole text is the longest suffix that is not new.

Most states are left by one token only. That edge is kept in two arrays, and only the others in dictionaries, which
take ten times the room.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

__all__ = ["Automaton"]

_NONE = -1
_START = 0
_MOST_LINKS = 32
"""Links followed with each token to note that these suffixes ended here: a text that only loops has one per round."""


class Automaton:
    """The tokens of one sequence, and the longest suffix of them that occurred before."""

    __slots__ = (
        "_ends",
        "_last",
        "_lengths",
        "_links",
        "_more_edges",
        "_targets",
        "_tokens",
        "ids",
        "match_end",
        "match_length",
    )

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.match_length = 0
        """Tokens of the longest suffix that occurred before."""
        self.match_end = 0
        """Index behind the latest earlier occurrence of that suffix; the token there followed it."""
        self._links = array("i", [_NONE])
        self._lengths = array("i", [0])
        self._ends = array("i", [0])
        """For each state, the index behind the latest occurrence of its suffixes."""
        self._tokens = array("i", [_NONE])
        self._targets = array("i", [_NONE])
        """Of each state: the first token by which it was left, and where that led."""
        self._more_edges: dict[int, dict[int, int]] = {}
        self._last = _START

    def extend(self, ids: Iterable[int]) -> None:
        """Add tokens to the end."""
        for token in ids:
            self.ids.append(token)
            self._last = self._append(token)
            self._note_ends(self._links[self._last])

    def continuation(self, num_tokens: int) -> list[int]:
        """The tokens that followed the match. They may run on into the match itself, so loops are continued."""
        known, end = self.ids, self.match_end
        if self.match_length == 0:
            return []
        if end + num_tokens <= len(known):
            return known[end : end + num_tokens]

        period = len(known) - end
        return [known[end + index % period] for index in range(num_tokens)]

    def _append(self, token: int) -> int:
        """The state of the text with this token at its end."""
        state = self._last
        new = self._add_state(_START, self._lengths[state] + 1, len(self.ids))
        while state != _NONE:
            known = self._target(state, token)
            if known != _NONE:
                self._links[new] = self._extended(state, token, known)
                break
            self._lead(state, token, new)
            state = self._links[state]
        return new

    def _extended(self, state: int, token: int, known: int) -> int:
        """The state of exactly the longest suffix in `state` and the token behind it. It is split off from `known` if
        that has longer suffixes too, since these did not end here."""
        length = self._lengths[state] + 1
        if self._lengths[known] == length:
            return known

        split = self._add_state(self._links[known], length, self._ends[known])
        self._tokens[split], self._targets[split] = self._tokens[known], self._targets[known]
        if known in self._more_edges:
            self._more_edges[split] = dict(self._more_edges[known])
        self._links[known] = split
        while state != _NONE and self._target(state, token) == known:
            self._lead(state, token, split)
            state = self._links[state]
        return split

    def _add_state(self, link: int, length: int, end: int) -> int:
        self._links.append(link)
        self._lengths.append(length)
        self._ends.append(end)
        self._tokens.append(_NONE)
        self._targets.append(_NONE)
        return len(self._ends) - 1

    def _target(self, state: int, token: int) -> int:
        if self._tokens[state] == token:
            return self._targets[state]
        more = self._more_edges.get(state)
        return _NONE if more is None else more.get(token, _NONE)

    def _lead(self, state: int, token: int, target: int) -> None:
        first = self._tokens[state]
        if first in (token, _NONE):
            self._tokens[state], self._targets[state] = token, target
        elif state in self._more_edges:
            self._more_edges[state][token] = target
        else:
            self._more_edges[state] = {token: target}

    def _note_ends(self, state: int) -> None:
        """The suffixes of this state and those it links to stand at the end of the text now."""
        links, ends, now = self._links, self._ends, len(self.ids)
        self.match_length, self.match_end = self._lengths[state], ends[state]
        for _ in range(_MOST_LINKS):
            if state == _START:
                return
            ends[state] = now
            state = links[state]
