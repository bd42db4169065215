"""Calls in an answer whose parts say for whom they are: a tool's name in a line of its own, and its arguments as JSON.

The prompt ends with the mark that comes before a recipient, so that an answer may begin with a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from histrio.contracts.grammar import TagStructure
from histrio.contracts.tool_format import CallLayout, CallParser, FormatExample, Schemas, WrittenCall
from histrio_api.text.calls.ids import new_id
from histrio_api.text.calls.json_values import MAX_NAME_CHARS, read_value
from histrio_api.text.calls.named_calls import PLAIN_NAME, check_name
from histrio_api.text.calls.recognition import recognised
from histrio_api.text.calls.scanner import Reading, Scanner, ScanningParser
from histrio_api.text.stops import Wanted

__all__ = ["AddressedCalls"]


@dataclass(frozen=True, kw_only=True)
class AddressedCalls:
    """A `ToolFormat` whose calls are `MARK name NEWLINE {arguments}`; the first has no mark where it begins the answer.

    What is addressed to a name that is no tool's is text.
    """

    name: str
    mark: str
    examples: tuple[FormatExample, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """What comes before a name."""
        return (self.mark,)

    @property
    def layout(self) -> CallLayout:
        """The first call has no mark."""
        return CallLayout(separator=self.mark)

    def recognises(self, written: WrittenCall) -> bool:
        """The template's own call is read as one."""
        return recognised(self, written, (f"{self.mark}{written.name}\n",), ())

    def parser(self, schemas: Schemas) -> CallParser:
        """For one answer."""
        return ScanningParser(partial(self._read, schemas))

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        """A call whose name is fixed."""
        check_name(name)
        return TagStructure(f"{name}\n", dict(schema), "")

    def call_id(self, name: str, position: int) -> str:
        """As OpenAI's."""
        return new_id()

    def _read(self, schemas: Schemas, scanner: Scanner) -> Reading[None]:
        marks = Wanted([self.mark])
        found = ""
        while True:
            scanner.begin_trial(len(found))
            name = yield from scanner.word(PLAIN_NAME, MAX_NAME_CHARS)
            if name in schemas and (yield from scanner.expect("\n")) and (yield from scanner.expect("{")):
                scanner.begin_call(name)
                scanner.at -= 1
                yield from read_value(scanner, scanner.argue, marks)
            else:
                scanner.give_up(len(found))
            found = yield from scanner.until(marks, scanner.show)
            if not found:
                return
