"""Calls of custom tools in an answer: what the model wrote as the one argument of a function is their input."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from histrio.contracts.tool_format import CallPiece
from histrio_api.schemas.chat import CalledCustom, CalledCustomTool, CalledTool
from histrio_api.text.answers import called_tools
from histrio_api.text.call_arguments import as_input

__all__ = ["CustomCalls", "ToldPiece", "told_calls"]


class ToldPiece(NamedTuple):
    """A piece of a call, as the answer has it."""

    piece: CallPiece
    """Of a custom tool the arguments are the input."""
    is_custom: bool


class CustomCalls:
    """Those of one stream. An input comes whole, once its call has ended."""

    __slots__ = ("_names", "_written")

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._written: list[str] | None = None
        """The arguments of the custom call that is open."""

    def take(self, pieces: Iterable[CallPiece], *, is_last: bool) -> Iterator[ToldPiece]:
        """More of the answer's calls."""
        for piece in pieces:
            if piece.name:
                yield from self._end()
            if piece.name in self._names:
                self._written = [piece.arguments]
                yield ToldPiece(piece._replace(arguments=""), is_custom=True)
            elif self._written is not None:
                self._written.append(piece.arguments)
            else:
                yield ToldPiece(piece, is_custom=False)
        if is_last:
            yield from self._end()

    def _end(self) -> Iterator[ToldPiece]:
        if self._written is not None:
            yield ToldPiece(CallPiece(arguments=as_input("".join(self._written))), is_custom=True)
            self._written = None


def told_calls(pieces: Iterable[CallPiece], names: Collection[str]) -> list[CalledTool | CalledCustomTool]:
    """The calls of a whole answer; those of the tools of these names are custom ones."""
    return [_told(call) if call.function.name in names else call for call in called_tools(pieces)]


def _told(call: CalledTool) -> CalledCustomTool:
    return CalledCustomTool(call.id, CalledCustom(call.function.name, as_input(call.function.arguments)))
