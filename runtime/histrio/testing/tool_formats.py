"""The conformance kit of tool formats: each finds what its examples say, however an answer is cut, and reads what its
own grammar writes.

    assert tool_format_faults(MyFormat()) == []
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from histrio.contracts.grammar import TagStructure
from histrio.contracts.tool_format import FormatExample, Found, ToolFormat

__all__ = ["KINDS", "SCHEMAS", "read_answer", "tool_format_faults", "written_calls"]

KINDS = ("one call", "parallel calls", "text around", "unicode and quotes", "broken")
"""Kinds of answers; every format has an example of each."""
_INTEGER, _STRING = {"type": "integer"}, {"type": "string"}
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "add": {"type": "object", "properties": {"a": _INTEGER, "b": _INTEGER}, "required": ["a", "b"]},
    "say": {"type": "object", "properties": {"text": _STRING}, "required": ["text"]},
}
"""The tools that examples call."""
_ARGUMENTS: Mapping[str, dict[str, Any]] = {"add": {"a": 1, "b": -2}, "say": {"text": 'a "b" – 日本'}}

Read = tuple[str, list[tuple[str, str]]]


def tool_format_faults(tool_format: ToolFormat) -> list[str]:
    """What of the format breaks its contract, in sentences; empty for a sound one."""
    return [*_missing(tool_format), *_of_examples(tool_format), *_of_grammar(tool_format)]


def written_calls(tool_format: ToolFormat, names: Iterable[str] = ("add", "say")) -> str:
    """Calls of these tools as a grammar of the format demands them."""
    layout = tool_format.layout
    calls = []
    for name in names:
        structure = tool_format.structure(name, SCHEMAS[name])
        calls.append(f"{structure.begin}{_written(structure, _ARGUMENTS[name])}{structure.end}")
    return f"{layout.before}{layout.separator.join(calls)}{layout.after}"


def read_answer(tool_format: ToolFormat, pieces: Iterable[str]) -> Read:
    """Text and calls of an answer to the tools of `SCHEMAS`, which comes in these pieces."""
    parser = tool_format.parser(SCHEMAS)
    found = [*(parser.push(each) for each in pieces), parser.flush()]
    return "".join(each.text for each in found), _joined(found)


def _joined(found: Iterable[Found]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for piece in (piece for each in found for piece in each.calls):
        if piece.name:
            calls.append((piece.name, piece.arguments))
        else:
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.arguments)
    return calls


def _missing(tool_format: ToolFormat) -> Iterator[str]:
    kinds = {example.about for example in tool_format.examples}
    yield from (f"there is no example of the kind {kind!r}" for kind in KINDS if kind not in kinds)
    ids = {tool_format.call_id("add", position) for position in range(10)}
    if len(ids) < 10:
        yield "call_id gives two calls of one answer the same id"


def _of_examples(tool_format: ToolFormat) -> Iterator[str]:
    for nth, example in enumerate(tool_format.examples):
        where = f"example {nth} ({example.about})"
        whole = read_answer(tool_format, [example.answer])
        if not _is_as_said(whole, example):
            yield f"{where}: read as {whole}"
        if read_answer(tool_format, example.answer) != whole:
            yield f"{where}: something else is read character by character"
        for cut in range(1, len(example.answer)):
            if read_answer(tool_format, [example.answer[:cut], example.answer[cut:]]) != whole:
                yield f"{where}: something else is read if it is cut at {cut}"
                break


def _is_as_said(found: Read, example: FormatExample) -> bool:
    text, calls = found
    return text == example.text and _values(calls) == _values(example.calls)


def _values(calls: Iterable[tuple[str, str]]) -> list[tuple[str, Any]]:
    return [(name, _value(arguments)) for name, arguments in calls]


def _value(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _of_grammar(tool_format: ToolFormat) -> Iterator[str]:
    """What a grammar of the format's structures and layout writes is read again."""
    answer = written_calls(tool_format)
    if not answer.startswith(tool_format.layout.trigger):
        yield "calls of its own grammar do not begin with the layout's trigger"
    text, found = read_answer(tool_format, [answer])
    if text or _values(found) != list(_ARGUMENTS.items()):
        yield f"it reads its own grammar's answer {answer!r} as {text!r} and {found}"


def _written(structure: TagStructure, arguments: Mapping[str, Any]) -> str:
    if structure.parameters is None:
        return json.dumps(arguments, ensure_ascii=False)
    values = [
        json.dumps(each, ensure_ascii=False) if parameter.schema is not None else str(each)
        for parameter, each in zip(structure.parameters, arguments.values(), strict=True)
    ]
    written = [f"{each.begin}{value}{each.end}" for each, value in zip(structure.parameters, values, strict=True)]
    return structure.separator.join(written)
