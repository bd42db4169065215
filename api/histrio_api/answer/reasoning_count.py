"""How many tokens of a choice are reasoning, counted while its text comes."""

from __future__ import annotations

from histrio_api.text.answers import AnswerParts

__all__ = ["ReasoningCount"]


class ReasoningCount:
    """Takes an answer token by token, as far as its reasoning goes: what begins the answer proper is seen by the same
    parser that takes it apart."""

    __slots__ = ("_has_reasoning", "_num_tokens", "_parser", "is_over")

    def __init__(self, parts: AnswerParts) -> None:
        assert parts.reasoning_format is not None, "asked for where there may be reasoning"
        self._parser = parts.reasoning_format.parser(parts.reasoning, parts.tool_format is not None)
        self._has_reasoning = False
        self._num_tokens = 0
        self.is_over = False
        """The reasoning has ended, or there is none."""

    @property
    def num_tokens(self) -> int:
        """So far, with the marks around the reasoning."""
        return self._num_tokens if self._has_reasoning else 0

    def push(self, piece: str, num_tokens: int) -> None:
        """The text of one more token, which is the `num_tokens`-th of the choice."""
        reasoning, answer = self._parser.push(piece)
        self._has_reasoning = self._has_reasoning or bool(reasoning)
        self.is_over = bool(answer)
        if not self.is_over:
            self._num_tokens = num_tokens
