"""In which forms the served model writes calls and reasoning: as the settings say, or as its chat template shows."""

from __future__ import annotations

from typing import TypeVar

from histrio.contracts.reasoning_format import ReasoningFormat
from histrio.contracts.tool_format import ToolFormat
from histrio.errors import PluginError, TopologyError
from histrio.plugins.registry import Registry
from histrio_api.text.template import ChatTemplate

__all__ = ["chosen_reasoning_format", "chosen_tool_format"]

T = TypeVar("T")


def chosen_tool_format(known: Registry[ToolFormat], name: str, template: ChatTemplate | None) -> ToolFormat | None:
    """The format of this name; with `auto` the first that recognises itself, if any does. Raises `TopologyError`."""
    if name != "auto":
        return _named(known, name, "api.tool-parser")
    written = None if template is None else template.written_call
    return None if written is None else next((each for each in known if each.recognises(written)), None)


def chosen_reasoning_format(
    known: Registry[ReasoningFormat], name: str, template: ChatTemplate | None
) -> ReasoningFormat | None:
    """As `chosen_tool_format`."""
    if name != "auto":
        return _named(known, name, "api.reasoning-parser")
    if template is None:
        return None
    return next((each for each in known if each.recognises(template.written_answer)), None)


def _named(known: Registry[T], name: str, place: str) -> T | None:
    if name == "off":
        return None
    try:
        return known.get(name)
    except PluginError as error:
        raise TopologyError(place, str(error)) from None
