"""Reasoning: the text that a model writes between two marks before it answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto

from histrio.contracts.reasoning_format import ReasoningParser
from histrio.messages import Reasoning, ReasoningMarks
from histrio_api.text.stops import Wanted

__all__ = ["Addressed", "MarkedReasoning", "Unwrapped"]

_MARKS = ReasoningMarks()
_MOST_BREAKS = 2
"""Line breaks behind the reasoning that only separate."""


class _Stage(Enum):
    BEFORE = auto()
    """Whether there is reasoning is not known yet."""
    WITHIN = auto()
    BREAK = auto()
    """Behind the reasoning's end; line breaks that only separate are left out."""
    AFTER = auto()


_FIRST: dict[Reasoning, _Stage] = {"never": _Stage.AFTER, "maybe": _Stage.BEFORE, "already": _Stage.WITHIN}


class MarkedReasoning:
    """Separates reasoning from the answer that follows it. Line breaks around the reasoning belong to neither."""

    __slots__ = ("_buffer", "_closing", "_has_begun", "_num_breaks", "_num_held_breaks", "_openings", "_stage")

    def __init__(self, reasoning: Reasoning, marks: ReasoningMarks = _MARKS) -> None:
        self._openings = (marks.open, f"\n{marks.open}")
        self._closing = Wanted([marks.close])
        self._stage = _FIRST[reasoning]
        self._buffer = ""
        self._has_begun = False
        self._num_breaks = _MOST_BREAKS
        self._num_held_breaks = 0
        """Line breaks that do not belong to the reasoning if it ends behind them."""

    def push(self, text: str) -> tuple[str, str]:
        """Take more text; return what is sure to be reasoning, and what is answer."""
        self._buffer += text
        if self._stage is _Stage.BEFORE:
            self._look_for_opening()
        reasoning = self._take_reasoning() if self._stage is _Stage.WITHIN else ""
        if self._stage is _Stage.BREAK:
            self._skip_break()
        return reasoning, self._take_all() if self._stage is _Stage.AFTER else ""

    def flush(self) -> tuple[str, str]:
        """The text ended: what was held back."""
        rest = self._take_all()
        if self._stage is _Stage.WITHIN:
            return self._without_breaks(self._held_breaks() + rest), ""
        return "", rest

    def _look_for_opening(self) -> None:
        closing = self._closing.strings[0]
        marks = (*self._openings, closing)  # some models say by the mark of its end that there is none
        if any(mark.startswith(self._buffer) and mark != self._buffer for mark in marks):
            return

        found = next((mark for mark in marks if self._buffer.startswith(mark)), "")
        self._stage = _Stage.AFTER if not found else _Stage.BREAK if found == closing else _Stage.WITHIN
        self._buffer = self._buffer.removeprefix(found)

    def _take_reasoning(self) -> str:
        before, found, after = self._buffer.partition(self._closing.strings[0])
        if found:
            self._buffer, self._stage = after, _Stage.BREAK
            return self._without_breaks(self._held_breaks() + before)

        cut = self._closing.partial_start(before)
        self._buffer = before[cut:]
        reasoning = before[:cut].rstrip("\n")
        num_breaks = cut - len(reasoning)
        if reasoning:
            reasoning = self._held_breaks() + reasoning
        self._num_held_breaks += num_breaks
        return self._without_breaks(reasoning)

    def _held_breaks(self) -> str:
        breaks, self._num_held_breaks = "\n" * self._num_held_breaks, 0
        return breaks

    def _without_breaks(self, text: str) -> str:
        text = text.rstrip("\n")
        text = text if self._has_begun else text.lstrip("\n")
        self._has_begun = self._has_begun or bool(text)
        return text

    def _skip_break(self) -> None:
        while self._num_breaks and self._buffer.startswith("\n"):
            self._buffer = self._buffer[1:]
            self._num_breaks -= 1
        if self._buffer or not self._num_breaks:
            self._stage = _Stage.AFTER

    def _take_all(self) -> str:
        rest, self._buffer = self._buffer, ""
        return rest


class Unwrapped:
    """Leaves marks out of the answers that another parser has told from reasoning."""

    __slots__ = ("_buffer", "_inner", "_marks", "_wrapping")

    def __init__(self, inner: ReasoningParser, wrapping: Sequence[str]) -> None:
        self._inner = inner
        self._wrapping = Wanted(wrapping)
        self._marks = re.compile("|".join(map(re.escape, wrapping)))
        self._buffer = ""

    def push(self, text: str) -> tuple[str, str]:
        """What may begin a mark is held back."""
        reasoning, answer = self._inner.push(text)
        return reasoning, self._without_marks(answer, is_last=False)

    def flush(self) -> tuple[str, str]:
        """The text ended."""
        reasoning, answer = self._inner.flush()
        return reasoning, self._without_marks(answer, is_last=True)

    def _without_marks(self, text: str, *, is_last: bool) -> str:
        text = self._buffer + text
        end = max((found.end() for found in self._marks.finditer(text)), default=0)
        cut = len(text) if is_last else self._wrapping.partial_start(text, end)
        self._buffer = text[cut:]
        return self._marks.sub("", text[:cut])


class Addressed:
    """Leaves out to whom an answer, or a part of it, is addressed, where that is the client."""

    __slots__ = ("_begun", "_first", "_inner")

    def __init__(self, first: str, later: str) -> None:
        """`first` may stand at the answer's beginning, `later` anywhere."""
        self._first = first
        self._begun: str | None = ""
        """The beginning, until it is known what it is."""
        self._inner = Unwrapped(MarkedReasoning("never"), (later,))

    def push(self, text: str) -> tuple[str, str]:
        """What may be an address is held back."""
        if self._begun is not None:
            self._begun += text
            if self._first.startswith(self._begun) and self._first != self._begun:
                return "", ""
            text, self._begun = self._begun.removeprefix(self._first), None
        return self._inner.push(text)

    def flush(self) -> tuple[str, str]:
        """The text ended."""
        _, begun = self._inner.push(self._begun or "")
        self._begun = None
        return "", begun + self._inner.flush()[1]
