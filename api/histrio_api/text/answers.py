"""A chat's answer taken apart as it comes: the thought, the text, and the tool calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from histrio.messages import Thinking
from histrio_api.schemas.chat import CalledTool
from histrio_api.text.channels import ChannelParser
from histrio_api.text.thoughts import ThoughtParser
from histrio_api.text.tools import ToolCallParser

__all__ = ["AnswerParser", "Parts"]


@dataclass(slots=True)
class Parts:
    """What a piece of an answer turned out to be."""

    thought: str = ""
    text: str = ""
    calls: list[CalledTool] = field(default_factory=list)


class AnswerParser:
    """One choice's answer. Without thoughts and tools its text comes out as it is."""

    __slots__ = ("_thoughts", "_tools")

    def __init__(self, thinking: Thinking, has_tools: bool, has_channels: bool = False) -> None:
        self._thoughts = ChannelParser() if has_channels else ThoughtParser(thinking)
        self._tools = ToolCallParser() if has_tools else None

    @property
    def num_calls(self) -> int:
        """Calls found so far."""
        return self._tools.num_calls if self._tools is not None else 0

    def push(self, text: str, *, is_last: bool) -> Parts:
        """Take more of the answer."""
        thought, answer = self._thoughts.push(text)
        if is_last:
            last_thought, last_answer = self._thoughts.flush()
            thought, answer = thought + last_thought, answer + last_answer
        if self._tools is None:
            return Parts(thought, answer)

        shown, calls = self._tools.push(answer)
        if is_last:
            last_shown, last_calls = self._tools.flush()
            shown, calls = shown + last_shown, calls + last_calls
        return Parts(thought, shown, calls)
