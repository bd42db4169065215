"""What `tool_choice`, `strict` and `parallel_tool_calls` demand of an answer, as a grammar of the calls' own form.

A call that the grammar has let through parses, names a tool of the request, and has arguments that follow its schema.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from histrio.contracts.grammar import TagSpec, TagStructure
from histrio.errors import RequestError
from histrio.messages import GrammarSpec
from histrio_api.request.wanted import WantedGrammar
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.tools import FunctionDefinition, NamedTool, ToolDefinition
from histrio_api.text.tools import CALL_CLOSE, CALL_OPEN

__all__ = ["forced_calls", "form_or_calls"]

_ANY_ARGUMENTS = {"type": "object"}
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def form_or_calls(
    request: ChatRequest, special_texts: Collection[str], form: WantedGrammar | None
) -> WantedGrammar | None:
    """The form that the answer's text must have, or else that of its calls. Raises `RequestError` for both together."""
    if form is None:
        return forced_calls(request, special_texts)
    if request.tools and request.tool_choice != "none":
        text = f"tools: cannot be combined with {form.param}, unless tool_choice is none"
        raise RequestError(text, param="tools")
    return form


def forced_calls(request: ChatRequest, special_texts: Collection[str] = ()) -> WantedGrammar | None:
    """The grammar of the answer's calls; None where whatever the model says will do. Raises `RequestError`.

    No name of a tool may contain one of the `special_texts`, which are tokens that answers do not show.
    """
    choice = request.tool_choice
    if not request.tools or choice == "none":
        _check_needless(choice)
        return None

    param = _param(request)
    if param is None:
        return None

    is_forced = choice != "auto"
    offered = _offered(request.tools, choice)
    structures = [_call(tool, f"tools[{at}].function", is_forced) for at, tool in offered]
    _check_names(offered, special_texts)
    spec = TagSpec(
        structures,
        triggers=[] if is_forced else [CALL_OPEN],
        separator="\n" if is_forced else None,
        is_single=isinstance(choice, NamedTool) or not request.parallel_tool_calls,
    )
    places = {f"structures[{nth}].schema": f"tools[{at}].function.parameters" for nth, (at, _) in enumerate(offered)}
    return WantedGrammar(GrammarSpec("structural_tag", msgspec.json.encode(spec).decode()), param, places)


def _param(request: ChatRequest) -> str | None:
    """The field that asks for enforced calls."""
    if request.tool_choice != "auto":
        return "tool_choice"
    strict = [at for at, tool in enumerate(request.tools) if tool.function.strict]
    if strict:
        return f"tools[{strict[0]}].function.strict"
    return None if request.parallel_tool_calls else "parallel_tool_calls"


def _check_needless(choice: str | NamedTool) -> None:
    if choice not in ("auto", "none"):
        raise RequestError("tool_choice: asks for a call, but the request has no tools", param="tool_choice")


def _offered(tools: list[ToolDefinition], choice: str | NamedTool) -> list[tuple[int, ToolDefinition]]:
    """The tools that may be called, with their positions."""
    numbered = list(enumerate(tools))
    if not isinstance(choice, NamedTool):
        return numbered

    found = [each for each in numbered if each[1].function.name == choice.function.name]
    if not found:
        param = "tool_choice.function.name"
        raise RequestError(f"{param}: none of the request's tools has this name", param=param)
    return found


def _check_names(offered: list[tuple[int, ToolDefinition]], special_texts: Collection[str]) -> None:
    known: set[str] = set()
    for at, tool in offered:
        param = f"tools[{at}].function.name"
        if tool.function.name in known:
            raise RequestError(f"{param}: another tool has this name too", param=param)
        if any(each in tool.function.name for each in special_texts):
            raise RequestError(f"{param}: contains a special token of the model, which no call can spell", param=param)
        known.add(tool.function.name)


def _call(tool: ToolDefinition, path: str, is_forced: bool) -> TagStructure:
    name = msgspec.json.encode(tool.function.name).decode()
    begin = f'{CALL_OPEN}\n{{"name": {name}, "arguments": '
    return TagStructure(begin, _arguments(tool.function, path, is_forced), f"}}\n{CALL_CLOSE}")


def _arguments(function: FunctionDefinition, path: str, is_forced: bool) -> dict[str, Any]:
    """The schema that the arguments have to follow."""
    if function.strict is False or (function.strict is None and not is_forced):
        return _ANY_ARGUMENTS
    if function.parameters is None:
        return _NO_ARGUMENTS
    if function.parameters.get("type", "object") != "object":
        param = f"{path}.parameters.type"
        raise RequestError(f"{param}: arguments are an object; give the type object", param=param)
    return {"type": "object"} | function.parameters
