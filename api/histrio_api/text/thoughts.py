"""Thoughts: what a model writes between `<think>` and `</think>` before it answers."""

from __future__ import annotations

from enum import Enum, auto

from histrio.contracts.grammar import THOUGHT_BREAK, THOUGHT_CLOSE, THOUGHT_OPEN
from histrio.messages import Thinking
from histrio_api.text.stops import Wanted

__all__ = ["ThoughtParser"]

_OPENINGS = (THOUGHT_OPEN, f"\n{THOUGHT_OPEN}")
_CLOSING = Wanted([THOUGHT_CLOSE])


class _Stage(Enum):
    BEFORE = auto()
    """Whether there is a thought is not known yet."""
    WITHIN = auto()
    BREAK = auto()
    """Behind the thought's end; line breaks that only separate are left out."""
    AFTER = auto()


_FIRST: dict[Thinking, _Stage] = {"never": _Stage.AFTER, "maybe": _Stage.BEFORE, "already": _Stage.WITHIN}


class ThoughtParser:
    """Separates a thought from the answer that follows it. Line breaks around the thought belong to neither."""

    __slots__ = ("_buffer", "_has_begun", "_num_breaks", "_num_held_breaks", "_stage")

    def __init__(self, thinking: Thinking) -> None:
        self._stage = _FIRST[thinking]
        self._buffer = ""
        self._has_begun = False
        self._num_breaks = len(THOUGHT_BREAK)
        self._num_held_breaks = 0
        """Line breaks of the thought that are none of it if it ends behind them."""

    def push(self, text: str) -> tuple[str, str]:
        """Take more text; return what is sure to be thought, and what is answer."""
        self._buffer += text
        if self._stage is _Stage.BEFORE:
            self._look_for_opening()
        thought = self._take_thought() if self._stage is _Stage.WITHIN else ""
        if self._stage is _Stage.BREAK:
            self._skip_break()
        return thought, self._take_all() if self._stage is _Stage.AFTER else ""

    def flush(self) -> tuple[str, str]:
        """The text ended: what was held back."""
        rest = self._take_all()
        if self._stage is _Stage.WITHIN:
            return self._without_breaks(self._held_breaks() + rest), ""
        return "", rest

    def _look_for_opening(self) -> None:
        if any(opening.startswith(self._buffer) and opening != self._buffer for opening in _OPENINGS):
            return

        found = next((opening for opening in _OPENINGS if self._buffer.startswith(opening)), None)
        self._stage = _Stage.AFTER if found is None else _Stage.WITHIN
        self._buffer = self._buffer.removeprefix(found or "")

    def _take_thought(self) -> str:
        before, found, after = self._buffer.partition(THOUGHT_CLOSE)
        if found:
            self._buffer, self._stage = after, _Stage.BREAK
            return self._without_breaks(self._held_breaks() + before)

        cut = _CLOSING.partial_start(before)
        self._buffer = before[cut:]
        thought = before[:cut].rstrip("\n")
        num_breaks = cut - len(thought)
        if thought:
            thought = self._held_breaks() + thought
        self._num_held_breaks += num_breaks
        return self._without_breaks(thought)

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
