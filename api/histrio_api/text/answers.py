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
    answer: list[str | CallPiece] = field(default_factory=list)
    """Texts and calls in their order, no two texts next to each other. A call that begins here has an id, and what this
    piece has of its arguments."""

    @property
    def text(self) -> str:
        """All of it that is no part of a call."""
        return "".join(each for each in self.answer if isinstance(each, str))

    @property
    def calls(self) -> list[CallPiece]:
        """The calls alone."""
        return [each for each in self.answer if isinstance(each, CallPiece)]

    @property
    def rest_of_call(self) -> str:
        """Arguments of the call that an earlier piece began; they stand before all else in this one."""
        first = self.answer[0] if self.answer else ""
        return first.arguments if isinstance(first, CallPiece) and not first.name else ""

    @property
    def begun(self) -> list[str | CallPiece]:
        """What stands behind that: texts, and calls that begin in this piece."""
        return self.answer[1:] if self.rest_of_call else self.answer


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
            return Parts(reasoning, [answer] if answer else [])

        found = self._tools.push(answer).parts
        if is_last:
            found += self._tools.flush().parts
        return Parts(reasoning, self._joined(found))

    def _joined(self, found: Iterable[str | CallPiece]) -> list[str | CallPiece]:
        """One part for each call, with an id where it begins, and for each text between calls."""
        joined: list[str | CallPiece] = []
        for each in found:
            last = joined[-1] if joined else None
            if isinstance(each, CallPiece) and each.name:
                joined.append(self._with_id(each))
            elif isinstance(each, CallPiece) and isinstance(last, CallPiece):
                joined[-1] = last._replace(arguments=last.arguments + each.arguments)
            elif isinstance(each, str) and isinstance(last, str):
                joined[-1] = last + each
            elif each:
                joined.append(each)
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
        if is_last or (parts.answer and isinstance(parts.answer[-1], str)):
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
