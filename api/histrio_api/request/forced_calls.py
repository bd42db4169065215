"""What `tool_choice`, `strict` and `parallel_tool_calls` demand of an answer, as a grammar of the model's own form of
calls.

A call that the grammar has let through parses, names a tool of the request, and has arguments that follow its schema.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec.structs import replace

from histrio.contracts.grammar import TagSpec, TagStructure
from histrio.contracts.tool_format import CallLayout, ToolFormat
from histrio.errors import RequestError
from histrio.messages import GrammarSpec
from histrio_api.request.wanted import WantedGrammar
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.custom_tools import INPUT
from histrio_api.schemas.tools import FunctionDefinition, NamedTool, ToolDefinition

__all__ = ["calls_grammar", "form_or_calls"]

_ANY_ARGUMENTS = {"type": "object"}
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_BESIDE_CALLS = ("json_object", "json_schema", "regex", "choice", "lark", "gbnf")
"""Kinds of grammars that a text can have where the answer may also be calls."""


def form_or_calls(
    request: ChatRequest,
    tool_format: ToolFormat | None,
    special_texts: Collection[str],
    form: WantedGrammar | None,
) -> WantedGrammar | None:
    """The grammar of the whole answer: calls as the request demands them, text of the form, or either of them.

    Raises `RequestError`.
    """
    if not request.tools or request.tool_choice == "none" or tool_format is None:
        if request.tool_choice not in ("auto", "none"):
            raise RequestError("tool_choice: asks for a call, but the request has no tools", param="tool_choice")
        return form
    return calls_grammar(tool_format, request, form, special_texts)


def calls_grammar(
    tool_format: ToolFormat,
    request: ChatRequest,
    form: WantedGrammar | None = None,
    special_texts: Collection[str] = (),
) -> WantedGrammar | None:
    """The grammar of an answer that may have calls; None where whatever the model says will do.

    No name of a tool may contain one of the `special_texts`, which are tokens that answers do not show. Raises
    `RequestError`.
    """
    choice = request.tool_choice
    param = _param(request) or (None if form is None else form.param)
    if param is None:
        return None

    is_forced = choice != "auto"
    offered = _offered(request.tools, choice)
    structures = [_call(tool_format, tool, f"tools[{at}]", is_forced) for at, tool in offered]
    _check_names(offered, special_texts)
    is_single = isinstance(choice, NamedTool) or not request.parallel_tool_calls
    if is_forced or form is not None:
        instead = None if is_forced or form is None else _beside_calls(form)
        spec = _only_calls(tool_format.layout, structures, is_single, instead)
    else:
        spec = _calls_in_text(tool_format.layout, structures, is_single)
    places = {
        f"structures[{nth}].{place}": path
        for nth, ((at, tool), structure) in enumerate(zip(offered, structures, strict=True))
        for place, path in _places(tool, f"tools[{at}]", structure).items()
    }
    unenforced = [
        _located(tool, f"tools[{at}]", place)
        for (at, tool), structure in zip(offered, structures, strict=True)
        for place in structure.unenforced
    ]
    strict = tuple(f"tools[{at}]." for at, tool in offered if tool.function.strict)
    if form is not None:
        places["instead"] = form.param
        strict += form.strict
    return WantedGrammar(
        GrammarSpec("structural_tag", msgspec.json.encode(spec).decode()), param, strict, places, unenforced
    )


def _param(request: ChatRequest) -> str | None:
    """The field that asks for enforced calls."""
    if request.tool_choice != "auto":
        return "tool_choice"
    strict = [at for at, tool in enumerate(request.tools) if tool.function.strict]
    if strict:
        at = strict[0]
        return f"tools[{at}].function.strict" if request.tools[at].custom is None else f"tools[{at}].custom.format"
    return None if request.parallel_tool_calls else "parallel_tool_calls"


def _only_calls(
    layout: CallLayout, structures: list[TagStructure], is_single: bool, instead: GrammarSpec | None
) -> TagSpec:
    return TagSpec(structures, [], layout.separator, is_single, layout.before, layout.after, instead)


def _calls_in_text(layout: CallLayout, structures: list[TagStructure], is_single: bool) -> TagSpec:
    if not layout.trigger:
        # Nothing tells calls from text but how each of them begins.
        whole = [
            replace(each, begin=f"{layout.before}{each.begin}", end=f"{each.end}{layout.after}") for each in structures
        ]
        return TagSpec(whole, [each.begin for each in whole], is_single=is_single)
    if layout.takes_text_after:
        return TagSpec(structures, [layout.trigger], is_single=is_single)
    return TagSpec(structures, [layout.trigger], layout.separator, is_single, layout.before, layout.after)


def _beside_calls(form: WantedGrammar) -> GrammarSpec:
    if form.spec.kind not in _BESIDE_CALLS:
        text = f"tools: cannot be combined with {form.param}, unless tool_choice is none"
        raise RequestError(text, param="tools")
    return form.spec


def _offered(tools: list[ToolDefinition], choice: str | NamedTool) -> list[tuple[int, ToolDefinition]]:
    """The tools that may be called, with their positions."""
    numbered = list(enumerate(tools))
    if not isinstance(choice, NamedTool):
        return numbered

    found = [each for each in numbered if each[1].function.name == choice.name]
    if not found:
        param = f"tool_choice.{choice.type}.name"
        raise RequestError(f"{param}: none of the request's tools has this name", param=param)
    return found


def _check_names(offered: list[tuple[int, ToolDefinition]], special_texts: Collection[str]) -> None:
    known: set[str] = set()
    for at, tool in offered:
        param = f"tools[{at}].{tool.type}.name"
        if tool.function.name in known:
            raise RequestError(f"{param}: another tool has this name too", param=param)
        if any(each in tool.function.name for each in special_texts):
            raise RequestError(f"{param}: contains a special token of the model, which no call can spell", param=param)
        known.add(tool.function.name)


def _call(tool_format: ToolFormat, tool: ToolDefinition, path: str, is_forced: bool) -> TagStructure:
    schema = _arguments(tool.function, f"{path}.function", is_forced)
    try:
        return tool_format.structure(tool.function.name, schema)
    except RequestError as error:
        param = f"{path}.{tool.type}.name" if error.param == "name" else _located(tool, path, error.param)
        raise RequestError(f"{param}: {error}", param=param, code=error.code) from None


def _places(tool: ToolDefinition, path: str, structure: TagStructure) -> dict[str, str]:
    """Place in the schema of its arguments → path of the field that it was made of; the first that fits holds."""
    if tool.custom is not None:
        definition = f"{path}.custom.format.grammar.definition"
        return {f"schema.properties.{INPUT}.pattern": definition, "schema": f"{path}.custom.format"}
    schema = f"{path}.function.parameters"
    if structure.parameters is None:
        return {"schema": schema}
    names = (tool.function.parameters or {}).get("properties") or {}
    return {f"parameters[{at}].schema": f"{schema}.properties.{name}" for at, name in enumerate(names)}


def _located(tool: ToolDefinition, path: str, place: str | None) -> str:
    if tool.custom is not None:
        return f"{path}.custom.format"
    return f"{path}.function.parameters.{place or ''}".rstrip(".")


def _arguments(function: FunctionDefinition, path: str, is_forced: bool) -> dict[str, Any]:
    """The schema that the arguments have to follow."""
    if not (is_forced or function.strict):
        return _ANY_ARGUMENTS
    if function.parameters is None:
        return _NO_ARGUMENTS
    if function.parameters.get("type", "object") != "object":
        param = f"{path}.parameters.type"
        raise RequestError(f"{param}: arguments are an object; give the type object", param=param)
    return {"type": "object"} | function.parameters
