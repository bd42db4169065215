"""A chat's answer taken apart as it comes: the reasoning, the text, and the tool calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from histrio.contracts.reasoning_format import ReasoningFormat
from histrio.contracts.tool_format import CallPiece, ToolFormat
from histrio.messages import Reasoning
from histrio_api.schemas.chat import CalledFunction, CalledTool

__all__ = ["TEXT_ALONE", "AnswerParser", "AnswerParts", "Parts", "WholeCalls", "called_tools"]


class AnswerParts(NamedTuple):
    """What an answer may consist of beside text."""

    reasoning: Reasoning = "never"
    """Whether it begins with reasoning."""
    reasoning_format: ReasoningFormat | None = None
    """Tells reasoning from the rest; None where there is none to tell."""
    tool_format: ToolFormat | None = None
    """Tells tool calls from text; None where no tool may be called."""
    schemas: Mapping[str, Mapping[str, Any] | None] = {}
    """Of the arguments of each tool."""
    custom_tools: frozenset[str] = frozenset()
    """Names of those that take a text instead of arguments."""
    hides_reasoning: bool = False
    """Reasoning is told from the rest, and thrown away."""

    @property
    def may_reason(self) -> bool:
        """Whether there may be reasoning in it."""
        return self.reasoning_format is not None

    @property
    def marks(self) -> list[str]:
        """The texts by which the answer is taken apart."""
        of_reasoning = () if self.reasoning_format is None else self.reasoning_format.hidden_marks
        of_tools = () if self.tool_format is None else self.tool_format.marks
        return [*of_reasoning, *of_tools]


TEXT_ALONE = AnswerParts()


@dataclass(slots=True)
class Parts:
    """What a piece of an answer turned out to be."""

    reasoning: str = ""
    text: str = ""
    calls: list[CallPiece] = field(default_factory=list)
    """Those that begin a call have an id."""

    @property
    def rest_of_call(self) -> str:
        """Arguments of the call that an earlier piece began; they stand before all else in this one."""
        return self.calls[0].arguments if self.calls and not self.calls[0].name else ""

    @property
    def begun_calls(self) -> list[CallPiece]:
        """The calls that begin in this piece; they stand behind all else in it."""
        return [piece for piece in self.calls if piece.name]


class AnswerParser:
    """One choice's answer. Without reasoning and tools its text comes out as it is."""

    __slots__ = ("_format", "_hides_reasoning", "_reasoning", "_tools", "num_calls")

    def __init__(self, parts: AnswerParts) -> None:
        self._format = parts.tool_format
        self._reasoning = (
            None
            if parts.reasoning_format is None
            else parts.reasoning_format.parser(parts.reasoning, self._format is not None)
        )
        self._hides_reasoning = parts.hides_reasoning
        self._tools = None if self._format is None else self._format.parser(parts.schemas)
        self.num_calls = 0
        """Calls found so far."""

    def push(self, text: str, *, is_last: bool) -> Parts:
        """Take more of the answer."""
        reasoning, answer = "", text
        if self._reasoning is not None:
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
        return Parts(reasoning, shown, self._joined(calls))

    def _joined(self, pieces: Iterable[CallPiece]) -> list[CallPiece]:
        """One piece for each call, and an id for each that begins."""
        joined: list[CallPiece] = []
        for piece in pieces:
            if piece.name:
                joined.append(self._with_id(piece))
            elif joined:
                joined[-1] = joined[-1]._replace(arguments=joined[-1].arguments + piece.arguments)
            else:
                joined.append(piece)
        return joined

    def _with_id(self, piece: CallPiece) -> CallPiece:
        assert self._format is not None, "only a format finds calls"
        self.num_calls += 1
        return piece._replace(id=piece.id or self._format.call_id(piece.name, self.num_calls - 1))


class WholeCalls:
    """Pieces of calls, for the APIs that give a call once it is whole."""

    def __init__(self) -> None:
        self._pieces: list[CallPiece] = []

    def take(self, parts: Parts, *, is_last: bool) -> list[CalledTool]:
        """The calls that have ended by now: another call, text, or the answer's end has come behind them."""
        self._pieces += parts.calls
        if is_last or (parts.text and not parts.calls):
            calls, self._pieces = called_tools(self._pieces), []
            return calls

        start = max((at for at, piece in enumerate(self._pieces) if piece.name), default=0)
        calls, self._pieces = called_tools(self._pieces[:start]), self._pieces[start:]
        return calls


def called_tools(pieces: Iterable[CallPiece]) -> list[CalledTool]:
    """The calls of a whole answer."""
    calls: list[CalledTool] = []
    for piece in pieces:
        if piece.name:
            calls.append(CalledTool(piece.id, CalledFunction(piece.name, piece.arguments)))
        else:
            calls[-1].function.arguments += piece.arguments
    return calls
