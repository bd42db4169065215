"""Stop strings in a stream of text, whatever tokens they span.

The governing idea: text leaves only when no stop string can begin in it any more. So the longest tail that could still
grow into a stop string is held back, and what comes out does not depend on how the text was cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings", "Wanted"]


class StopStrings:
    """Finds the stop string that is completed first; of several completed by the same character, the longest."""

    __slots__ = ("_held", "_shows_found", "_stops", "found", "is_stopped")

    def __init__(self, stops: Sequence[str], *, shows_found: bool = False) -> None:
        """`shows_found`: the one that is found is the end of what comes out, rather than left out."""
        self._shows_found = shows_found
        self._stops = Wanted(stops)
        self._held = ""
        self.is_stopped = False
        """Whether a stop string was found; nothing comes out afterwards."""
        self.found = ""
        """The one that was found."""

    def push(self, text: str) -> str:
        """Take the next piece of text; return what may be shown by now."""
        if self.is_stopped or not text:
            return ""

        text = self._held + text
        place = self._find(text)
        if place is not None:
            self.is_stopped, self.found = True, text[place]
            self._held = ""
            return text[: place.stop if self._shows_found else place.start]

        cut = self._stops.partial_start(text)
        self._held = text[cut:]
        return text[:cut]

    def would_stop(self, text: str) -> bool:
        """Whether a stop string would be found if `text` came next."""
        return bool(text) and self._find(self._held + text) is not None

    def flush(self) -> str:
        """The text ended: return what was held back."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> slice | None:
        """Where the first completed stop string is."""
        found = [(at + len(stop), at) for stop in self._stops.strings if (at := text.find(stop)) >= 0]
        if not found:
            return None

        end, start = min(found)
        return slice(start, end)


class Wanted:
    """Strings looked for in a stream of text, prepared for the question what could still become one."""

    __slots__ = ("_firsts", "_num_tail_chars", "strings")

    def __init__(self, strings: Sequence[str]) -> None:
        """`strings`: none of them empty; without any, nothing is held back."""
        self.strings = tuple(strings)
        self._firsts = frozenset(string[0] for string in strings)
        self._num_tail_chars = max(map(len, strings), default=1) - 1

    def partial_start(self, text: str, start: int = 0) -> int:
        """Where the longest tail, from `start` on, that is a proper prefix of a wanted string begins; the text's length
        if none is."""
        for at in range(max(start, len(text) - self._num_tail_chars), len(text)):
            if text[at] in self._firsts and any(string.startswith(text[at:]) for string in self.strings):
                return at

        return len(text)
