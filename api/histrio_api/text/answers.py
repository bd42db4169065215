"""A chat's answer taken apart as it comes: the reasoning, the text, and the tool calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from histrio.contracts.grammar import REASONING_CLOSE
from histrio.messages import Reasoning
from histrio_api.schemas.chat import CalledTool
from histrio_api.text.channels import ChannelParser
from histrio_api.text.reasoning import ReasoningParser
from histrio_api.text.template_forms import FINAL_CHANNEL
from histrio_api.text.tools import CALL_OPEN, ToolCallParser

__all__ = ["TEXT_ALONE", "AnswerParser", "AnswerParts", "Parts"]


class AnswerParts(NamedTuple):
    """What an answer may consist of beside text."""

    reasoning: Reasoning = "never"
    """Whether it begins with reasoning."""
    has_tools: bool = False
    """Tool calls are told from text."""
    has_channels: bool = False
    """It is written in channels."""
    hides_reasoning: bool = False
    """Reasoning is told from the rest, and thrown away."""

    @property
    def may_reason(self) -> bool:
        """Whether there may be reasoning in it."""
        return self.has_channels or self.reasoning != "never"

    @property
    def marks(self) -> list[str]:
        """The texts by which the answer is taken apart."""
        marks = {
            CALL_OPEN: self.has_tools,
            REASONING_CLOSE: self.reasoning != "never",
            FINAL_CHANNEL: self.has_channels,
        }
        return [mark for mark, is_looked_for in marks.items() if is_looked_for]


TEXT_ALONE = AnswerParts()


@dataclass(slots=True)
class Parts:
    """What a piece of an answer turned out to be."""

    reasoning: str = ""
    text: str = ""
    calls: list[CalledTool] = field(default_factory=list)


class AnswerParser:
    """One choice's answer. Without reasoning and tools its text comes out as it is."""

    __slots__ = ("_hides_reasoning", "_reasoning", "_tools")

    def __init__(self, parts: AnswerParts) -> None:
        self._reasoning = ChannelParser() if parts.has_channels else ReasoningParser(parts.reasoning)
        self._hides_reasoning = parts.hides_reasoning
        self._tools = ToolCallParser() if parts.has_tools else None

    @property
    def num_calls(self) -> int:
        """Calls found so far."""
        return self._tools.num_calls if self._tools is not None else 0

    def push(self, text: str, *, is_last: bool) -> Parts:
        """Take more of the answer."""
        reasoning, answer = self._reasoning.push(text)
        if is_last:
            last_reasoning, last_answer = self._reasoning.flush()
            reasoning, answer = reasoning + last_reasoning, answer + last_answer
        if self._hides_reasoning:
            reasoning = ""
        if self._tools is None:
            return Parts(reasoning, answer)

        shown, calls = self._tools.push(answer)
        if is_last:
            last_shown, last_calls = self._tools.flush()
            shown, calls = shown + last_shown, calls + last_calls
        return Parts(reasoning, shown, calls)
