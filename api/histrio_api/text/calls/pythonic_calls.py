"""Calls as Python writes them: `[name(key=value, …), …]`, with each value passed on as soon as it has ended."""

from __future__ import annotations

import ast
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
from histrio_api.text.calls.parameter_grammar import keyword_parameters
from histrio_api.text.calls.recognition import recognised
from histrio_api.text.calls.scanner import Reading, Scanner, ScanningParser
from histrio_api.text.stops import Wanted

__all__ = ["PythonicCalls"]

_KEY = re.compile(r"\w*")
_UP_TO = re.compile(r"[^\"'()\[\]{},]*")
_IN = {quote: re.compile(rf"(?:[^{quote}\\]|\\.)*", re.DOTALL) for quote in "\"'"}
_JSON_NAMES: dict[str, bool | None] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, kw_only=True)
class PythonicCalls:
    """A `ToolFormat` whose calls are `BEGIN name(key=value), name(…) END`."""

    name: str
    begins: tuple[str, ...]
    """The first is the one that a grammar writes."""
    end: str
    is_marked: bool = True
    """False: what begins a call may begin other text. Only the names of the request's tools make it a call then."""
    separator: str = ", "
    """Between calls."""
    trailer: str = ""
    """May come behind `end`."""
    writes_trailer: bool = False
    """A grammar writes it, too."""
    source_marks: tuple[str, ...] = ()
    """A chat template that writes no earlier calls is this format's if it contains all of these."""
    examples: tuple[FormatExample, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """What begins and what ends calls."""
        return tuple(each.strip() for each in (*self.begins, self.end, self.trailer) if len(each.strip()) > 1)

    @cached_property
    def layout(self) -> CallLayout:
        """One list holds all calls."""
        return CallLayout(
            trigger=self.begins[0] if self.is_marked else "",
            before=self.begins[0],
            separator=self.separator,
            after=self.end + (self.trailer if self.writes_trailer else ""),
        )

    def recognises(self, written: WrittenCall) -> bool:
        """The template's own call is read as one."""
        needed = (self.begins[0] if self.is_marked else "", f"{written.name}(")
        return recognised(self, written, needed, self.source_marks)

    def parser(self, schemas: Schemas) -> CallParser:
        """For one answer."""
        return ScanningParser(partial(self._read, schemas))

    def structure(self, name: str, schema: Mapping[str, Any]) -> TagStructure:
        """A call whose name is fixed; its values are JSON, of which every text is one that Python writes too."""
        check_name(name)
        parameters, unenforced = keyword_parameters(schema)
        return TagStructure(f"{name}(", {}, ")", parameters=parameters, separator=", ", unenforced=unenforced)

    def call_id(self, name: str, position: int) -> str:
        """As OpenAI's."""
        return new_id()

    @cached_property
    def _begins(self) -> Wanted:
        return Wanted(self.begins)

    def _read(self, schemas: Schemas, scanner: Scanner) -> Reading[None]:
        while begin := (yield from scanner.until(self._begins, scanner.show)):
            scanner.begin_trial(len(begin))
            if not (yield from self._call(schemas, scanner)):
                scanner.give_up(len(begin))
                continue
            yield from self._more_calls(schemas, scanner)
            if self.trailer:
                yield from scanner.end(self.trailer)

    def _more_calls(self, schemas: Schemas, scanner: Scanner) -> Reading[None]:
        """What follows a call, with the end of them all."""
        between, end = self.separator.strip(), self.end.strip()
        while True:
            mark = yield from scanner.end(*(each for each in (between, end) if each))
            if mark == end or (between and not mark):
                return
            yield from scanner.blanks()
            scanner.begin_trial(0)
            if not (yield from self._call(schemas, scanner)):
                scanner.give_up(0)
                return

    def _call(self, schemas: Schemas, scanner: Scanner) -> Reading[bool]:
        yield from scanner.blanks()
        name = yield from scanner.word(PLAIN_NAME, MAX_NAME_CHARS)
        if not name or (not self.is_marked and name not in schemas) or not (yield from scanner.expect("(")):
            return False
        scanner.begin_call(name)
        scanner.argue("{")
        num_arguments = 0
        while not (yield from scanner.end(")")):
            if num_arguments and not (yield from scanner.expect(",")):
                break
            yield from scanner.blanks()
            key = yield from scanner.word(_KEY, MAX_NAME_CHARS)
            yield from scanner.blanks()
            if not key or not (yield from scanner.expect("=")):
                break
            scanner.argue(f"{', ' if num_arguments else ''}{msgspec.json.encode(key).decode()}: ")
            scanner.argue(_as_json((yield from _expression(scanner))))
            num_arguments += 1
        scanner.argue("}")
        return True


def _expression(scanner: Scanner) -> Reading[str]:
    """The text of one value: up to the comma or the bracket that ends it."""
    written: list[str] = []
    depth = 0
    while True:
        if scanner.at == len(scanner.text) and not (yield from scanner.more()):
            return "".join(written)
        found = _UP_TO.match(scanner.text, scanner.at)
        assert found is not None, "it matches nothing, too"
        written.append(found[0])
        scanner.at = found.end()
        sign = scanner.text[scanner.at : scanner.at + 1]
        if not sign:
            continue
        if sign in _IN:
            written.append((yield from _quoted(scanner, sign)))
            continue
        if not depth and sign in ",)]}":
            return "".join(written)
        depth += (sign in "([{") - (sign in ")]}")
        written.append(sign)
        scanner.at += 1


def _quoted(scanner: Scanner, quote: str) -> Reading[str]:
    """A string with its quotation marks."""
    written = [quote]
    scanner.at += 1
    while True:
        found = _IN[quote].match(scanner.text, scanner.at)
        assert found is not None, "it matches nothing, too"
        written.append(found[0])
        scanner.at = found.end()
        if scanner.text.startswith(quote, scanner.at):
            scanner.at += 1
            return "".join([*written, quote])
        if not (yield from scanner.more()):
            return "".join([*written, scanner.text[scanner.at :]])


def _as_json(expression: str) -> str:
    """The value of a Python literal, in which JSON's own names may stand; what is none, as a string."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        value = ast.literal_eval(_Names().visit(tree))
        return msgspec.json.encode(value).decode()
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, msgspec.MsgspecError):
        return msgspec.json.encode(expression.strip()).decode()


class _Names(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        """JSON's names for values are Python's."""
        return ast.Constant(_JSON_NAMES[node.id]) if node.id in _JSON_NAMES else node
