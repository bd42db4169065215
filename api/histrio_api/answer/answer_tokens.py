"""Which tokens of a choice belong to its answer proper, told while they come: those of its reasoning are left out.

The governing idea: what the parser gives as answer is the tail of the text that it was given. So a token waits until
the parser says what its text is, and belongs to the answer if it does not end before the answer's text begins.
"""

from __future__ import annotations

from histrio_api.schemas.logprobs import TokenLogprob
from histrio_api.text.answers import AnswerParts

__all__ = ["AnswerTokens", "PlacedToken"]

PlacedToken = tuple[int, TokenLogprob]
"""Where in the answer's text a token begins, in characters, and its entry."""


class AnswerTokens:
    """Takes the tokens of one choice, one after the other."""

    __slots__ = ("_num_chars", "_parser", "_waiting")

    def __init__(self, parts: AnswerParts) -> None:
        assert parts.reasoning_format is not None, "asked for where there may be reasoning"
        self._parser = parts.reasoning_format.parser(parts.reasoning, parts.tool_format is not None)
        self._num_chars = 0
        self._waiting: list[tuple[int, PlacedToken]] = []
        """Each with the end of its text."""

    def push(self, token: PlacedToken, piece: str) -> list[PlacedToken]:
        """Take a token and the text that came out with it; return those that are now known to belong to the answer."""
        self._num_chars += len(piece)
        self._waiting.append((self._num_chars, token))
        reasoning, answer = self._parser.push(piece)
        return self._told(reasoning, answer)

    def flush(self) -> list[PlacedToken]:
        """The text ended: those of what the parser held back."""
        return self._told(*self._parser.flush())

    def _told(self, reasoning: str, answer: str) -> list[PlacedToken]:
        if not (reasoning or answer):
            return []

        start = self._num_chars - len(answer)
        told, self._waiting = self._waiting, []
        return [token for end, token in told if answer and (end > start or token[0] >= start)]
