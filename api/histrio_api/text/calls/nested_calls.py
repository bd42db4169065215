"""Calls whose arguments are elements within elements: objects and lists are written as elements too.

Every tag begins with one mark that no value contains. Whether elements make a list is told by the schema, or else by
their name. A string of the first level is passed on while it comes; any other value has to be whole before it is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import msgspec

from histrio.contracts.grammar import TagStructure
from histrio.contracts.tool_format import CallLayout, CallParser, FormatExample, Schemas, WrittenCall
from histrio_api.text.calls.ids import new_id
from histrio_api.text.calls.json_values import MAX_NAME_CHARS
from histrio_api.text.calls.named_calls import PLAIN_NAME, check_name
from histrio_api.text.calls.nested_grammar import ITEM, MOST_LEVELS, nested_parameters
from histrio_api.text.calls.recognition import recognised
from histrio_api.text.calls.scanner import Reading, Scanner, ScanningParser
from histrio_api.text.calls.typed_values import as_json, branch_of, escaped, item_schema, property_schema, types_of
from histrio_api.text.stops import Wanted

__all__ = ["NestedCalls"]

_KEY = re.compile(r'[^<>"\n]*')


@dataclass(frozen=True, kw_only=True)
class NestedCalls:
    """A `ToolFormat` whose calls are `SECTION (BEGIN name OPEN element… END)… SECTION_END`; an element is
    `PREFIX<key>value PREFIX</key>`, and a value is text or elements."""

    name: str
    prefix: str
    """Before every tag."""
    section: str
    section_end: str
    begin: str
    """Before a tool's name."""
    open: str
    """Behind it."""
    end: str
    """Behind the arguments of a call."""
    source_marks: tuple[str, ...] = ()
    """A chat template that writes no earlier calls is this format's if it contains all of these."""
    examples: tuple[FormatExample, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """The prefix, and the tags that are always the same."""
        return (self.prefix, self.section, self.section_end, self.begin, self.end)

    @cached_property
    def layout(self) -> CallLayout:
        """One section holds all calls."""
        return CallLayout(trigger=self.section, before=f"{self.section}\n", separator="\n", after=self.section_end)

    def recognises(self, written: WrittenCall) -> bool:
        """The template's own call is read as one."""
        return recognised(self, written, (self.section, self.begin), self.source_marks)

    def parser(self, schemas: Schemas) -> CallParser:
        """For one answer."""
        return ScanningParser(partial(self._read, schemas))

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        """A call whose name is fixed, with elements as deep as the schema's objects and lists."""
        check_name(name)
        parameters, unenforced = nested_parameters(schema, self.prefix)
        begin = f"{self.begin}{name}{self.open}"
        return TagStructure(begin, {}, f"{self.end}\n", parameters=parameters, unenforced=unenforced)

    def call_id(self, name: str, position: int) -> str:
        """As OpenAI's."""
        return new_id()

    @cached_property
    def _sections(self) -> Wanted:
        return Wanted([self.section])

    @cached_property
    def _prefixes(self) -> Wanted:
        return Wanted([self.prefix])

    def _read(self, schemas: Schemas, scanner: Scanner) -> Reading[None]:
        while mark := (yield from scanner.until(self._sections, scanner.show)):
            scanner.begin_trial(len(mark))
            yield from scanner.blanks()
            if not (yield from scanner.expect(self.begin)):
                scanner.give_up(len(mark))
                continue
            while (yield from self._call(schemas, scanner)):
                mark = yield from scanner.end(self.begin, self.section_end)
                if not mark or mark == self.section_end:
                    break
                scanner.begin_trial(len(mark))
            else:
                scanner.give_up(len(mark))

    def _call(self, schemas: Schemas, scanner: Scanner) -> Reading[bool]:
        """What follows the beginning of a call, if it is one."""
        name = yield from scanner.word(PLAIN_NAME, MAX_NAME_CHARS)
        if not name or not (yield from scanner.expect(self.open)):
            return False
        scanner.begin_call(name)
        scanner.argue("{")
        num_arguments = 0
        root = schemas.get(name)
        while key := (yield from self._next_key(scanner)):
            scanner.argue(f"{', ' if num_arguments else ''}{_quoted(key)}: ")
            schema = property_schema(root, key)
            if types_of(schema, root) == {"string"}:
                scanner.argue('"')
                yield from scanner.until(self._prefixes, lambda text: scanner.argue(escaped(text)))
                yield from self._closing(scanner)
                scanner.argue('"')
            else:
                scanner.argue((yield from self._value(scanner, schema, root, 1)))
            num_arguments += 1
        scanner.argue("}")
        return True

    def _next_key(self, scanner: Scanner) -> Reading[str]:
        """The name of the element that comes next; empty where a closing tag does, which is read."""
        found = yield from scanner.end(f"{self.prefix}</", f"{self.prefix}<")
        if found == f"{self.prefix}<":
            return (yield from self._tag(scanner))
        if found:
            yield from self._tag(scanner)
        return ""

    def _tag(self, scanner: Scanner) -> Reading[str]:
        key = yield from scanner.word(_KEY, MAX_NAME_CHARS)
        yield from scanner.expect(">")
        return key.strip()

    def _closing(self, scanner: Scanner) -> Reading[None]:
        """What is left of the tag that ends a value."""
        if (yield from scanner.expect("</")):
            yield from self._tag(scanner)

    def _value(self, scanner: Scanner, schema: Any, root: Mapping[str, Any] | None, level: int) -> Reading[str]:
        """As JSON, up to its closing tag and with it."""
        types = types_of(schema, root)
        written: list[str] = []
        yield from scanner.until(self._prefixes, written.append)
        text = "".join(written)
        if (yield from scanner.expect("</")):
            yield from self._tag(scanner)
        elif not text.strip() and level < MOST_LEVELS and (yield from scanner.expect("<")):
            return (yield from self._elements(scanner, schema, root, level))
        if not text and types <= {"array", "object", "null"}:
            return "[]" if "array" in types else "{}"
        return as_json(text, types)

    def _elements(self, scanner: Scanner, schema: Any, root: Mapping[str, Any] | None, level: int) -> Reading[str]:
        """An object or a list, of which the first tag has begun."""
        found: list[tuple[str, str]] = []
        key = yield from self._tag(scanner)
        types = types_of(schema, root)
        while key:
            is_item = key == ITEM and "array" in types
            inner = item_schema(schema, root) if is_item else property_schema(branch_of(schema, root, "object"), key)
            found.append((key, (yield from self._value(scanner, inner, root, level + 1))))
            key = yield from self._next_key(scanner)
        if "array" in types and all(key == ITEM for key, _ in found):
            return f"[{', '.join(value for _, value in found)}]"
        return "{" + ", ".join(f"{_quoted(key)}: {value}" for key, value in found) + "}"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
