"""Stop strings in a stream of text, whatever tokens they span.

The governing idea: text leaves only when no stop string can begin in it any more. So the longest tail that could still
grow into a stop string is held back, and what comes out does not depend on how the text was cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings", "partial_start"]


class StopStrings:
    """Finds the stop string that is completed first; of several completed by the same character, the longest."""

    __slots__ = ("_held", "_stops", "is_stopped")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False
        """Whether a stop string was found; nothing comes out afterwards."""

    def push(self, text: str) -> str:
        """Take the next piece of text; return what may be shown by now."""
        if self.is_stopped or not text:
            return ""

        text = self._held + text
        start = self._find(text)
        if start is not None:
            self.is_stopped = True
            self._held = ""
            return text[:start]

        cut = partial_start(text, self._stops)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """The text ended: return what was held back."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> int | None:
        """Where the first completed stop string begins."""
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(found)[1] if found else None


def partial_start(text: str, wanted: Sequence[str]) -> int:
    """Where the longest tail of `text` that is a proper prefix of a wanted string begins; its length if none is."""
    longest = max(map(len, wanted)) - 1
    firsts = {string[0] for string in wanted}
    for at in range(max(0, len(text) - longest), len(text)):
        if text[at] in firsts and any(string.startswith(text[at:]) for string in wanted):
            return at

    return len(text)
