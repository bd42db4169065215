"""A format recognises itself in a chat template by reading the call that the template has written."""

from __future__ import annotations

from collections.abc import Iterable

from histrio.contracts.tool_format import Found, ToolFormat, WrittenCall
from histrio_api.text.calls.json_values import decoded

__all__ = ["joined", "recognised"]


def recognised(
    tool_format: ToolFormat,
    written: WrittenCall,
    needed: tuple[str, ...],
    source_marks: tuple[str, ...],
    foreign: tuple[str, ...] = (),
) -> bool:
    """Whether the format finds exactly the call that was given to the template, and all that is `needed` stands there.

    A template that writes no calls is taken at its word: it has all `source_marks`, if there are any, and nothing
    `foreign`.
    """
    if not written.text:
        is_named = bool(source_marks) and all(each in written.source for each in source_marks)
        return is_named and not any(each in written.source for each in foreign)
    if not all(each in written.text for each in needed):
        return False

    schema = {"properties": {key: {"type": "string"} for key in written.arguments}}
    parser = tool_format.parser({written.name: schema})
    calls = joined([parser.push(written.text), parser.flush()])
    return [(name, decoded(arguments)) for name, arguments in calls] == [(written.name, dict(written.arguments))]


def joined(found: Iterable[Found]) -> list[tuple[str, str]]:
    """Name and arguments of each call, put together of its pieces."""
    calls: list[tuple[str, str]] = []
    for each in found:
        for piece in each.calls:
            if piece.name:
                calls.append((piece.name, piece.arguments))
            else:
                name, arguments = calls[-1]
                calls[-1] = (name, arguments + piece.arguments)
    return calls
