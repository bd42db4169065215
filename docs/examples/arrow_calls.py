"""A tool format and a reasoning format in one file.

The model writes a call as `-> name {"key": "value"}` on a line of its own, and what it thinks between `((` and `))`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from histrio.contracts.grammar import TagStructure
from histrio.contracts.hooks import hookimpl
from histrio.contracts.reasoning_format import ReasoningFormat, ReasoningParser, WrittenAnswer
from histrio.contracts.tool_format import CallLayout, CallPiece, FormatExample, Found, Schemas, ToolFormat, WrittenCall
from histrio.messages import Reasoning, ReasoningMarks
from histrio_api.text.reasoning import MarkedReasoning

ARROW = "-> "
SUM = '{"a": 1, "b": 2}'


class ArrowParser:
    """Waits for whole lines, which makes it short: a parser that passes arguments on while they come is longer."""

    def __init__(self) -> None:
        self._line = ""

    def push(self, text: str) -> Found:
        """Take more of the answer."""
        *lines, self._line = (self._line + text).split("\n")
        return self._read([f"{line}\n" for line in lines])

    def flush(self) -> Found:
        """The last line has no end."""
        last, self._line = self._line, ""
        return self._read([last])

    def _read(self, lines: list[str]) -> Found:
        found: list[str | CallPiece] = []
        for line in lines:
            name, brace, rest = line.removeprefix(ARROW).partition(" {")
            if line.startswith(ARROW) and name and brace:
                found += [CallPiece(name), CallPiece(arguments="{" + rest.rstrip())]
            else:
                found.append(line)
        return Found(found)


class ArrowCalls:
    """How the model calls tools."""

    name = "arrow"
    marks = (ARROW,)
    layout = CallLayout(trigger=ARROW, separator="\n", takes_text_after=True)
    examples = (
        FormatExample(about="one call", answer=f"-> add {SUM}", calls=(("add", SUM),)),
        FormatExample(
            about="parallel calls",
            answer=f'-> add {SUM}\n-> say {{"text": "hi"}}',
            calls=(("add", SUM), ("say", '{"text": "hi"}')),
        ),
        FormatExample(
            about="text around", answer=f"I add.\n-> add {SUM}\nDone.", text="I add.\nDone.", calls=(("add", SUM),)
        ),
        FormatExample(
            about="unicode and quotes",
            answer='-> say {"text": "\\"日本\\" -> 🙂"}',
            calls=(("say", '{"text": "\\"日本\\" -> 🙂"}'),),
        ),
        FormatExample(about="broken", answer='-> say {"text": "5" x}', calls=(("say", '{"text": "5" x}'),)),
        FormatExample(about="broken", answer="-> nothing", text="-> nothing"),
    )

    def recognises(self, written: WrittenCall) -> bool:
        """The template writes the call so."""
        return f"{ARROW}{written.name} {{" in written.text

    def parser(self, schemas: Schemas) -> ArrowParser:
        """For one answer."""
        return ArrowParser()

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        """An arrow, the name, and JSON."""
        return TagStructure(f"{ARROW}{name} ", dict(schema), "")

    def call_id(self, name: str, position: int) -> str:
        """Two calls of one answer differ by their position."""
        return f"{name}-{position}"


class Brackets:
    """How the model writes what it thinks."""

    name = "brackets"
    marks = ReasoningMarks("((", "))", "")
    hidden_marks = ("((", "))")

    def recognises(self, written: WrittenAnswer) -> bool:
        """The template speaks of both marks."""
        return all(mark in written.source for mark in self.hidden_marks)

    def parser(self, reasoning: Reasoning, has_tools: bool) -> ReasoningParser:
        """The parser for marks does all that is needed."""
        return MarkedReasoning(reasoning, self.marks)


@hookimpl
def register_tool_formats(register: Callable[[ToolFormat], None]) -> None:
    """Offer the calls."""
    register(ArrowCalls())


@hookimpl
def register_reasoning_formats(register: Callable[[ReasoningFormat], None]) -> None:
    """Offer the reasoning."""
    register(Brackets())
