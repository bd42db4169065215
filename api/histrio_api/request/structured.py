"""From the fields that ask for a form of the answer to one grammar: OpenAI's, and those of common servers.

All of them say one of six things, and a request may say it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from histrio.contracts.grammar import TagSpec, TagStructure
from histrio.errors import RequestError
from histrio.messages import GrammarSpec, SamplingFields
from histrio_api.error_shapes import MAX_PARAM_CHARS
from histrio_api.errors import from_validation
from histrio_api.request.fields import convert_fields
from histrio_api.request.ignored import IgnoredFields
from histrio_api.request.received import Received
from histrio_api.request.wanted import WantedGrammar
from histrio_api.schemas.formats import ResponseFormat, StructuralTag
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge

__all__ = ["NOT_BESIDE", "requested_grammar", "require_company", "wanted_grammar"]

_FORMATS = ("text", "json_object", "json_schema", "structural_tag")
"""Types of `response_format` that have fields of their own; any other is a kind of grammar."""
NOT_BESIDE = ("min_tokens", "allowed_token_ids", "bad_words", "bad_words_ids")
"""Sampling fields that forbid tokens, or the end, where a grammar may leave nothing else."""


OrCalls = Callable[[WantedGrammar | None], WantedGrammar | None]


def requested_grammar(
    edge: Edge, received: Received[GenerationRequest], or_calls: OrCalls | None = None
) -> WantedGrammar | None:
    """`wanted_grammar` of a request, with the kinds that are enforced for the served model."""
    kinds = edge.gateway.model.honours.grammar_kinds
    request, sampling = received.request, received.sampling
    return wanted_grammar(
        request, sampling, kinds, honoured_by=edge.honoured_by, or_calls=or_calls, ignored=received.ignored
    )


def wanted_grammar(
    request: GenerationRequest,
    sampling: SamplingFields,
    kinds: list[str],
    *,
    honoured_by: str = "this server",
    or_calls: OrCalls | None = None,
    ignored: IgnoredFields | None = None,
) -> WantedGrammar | None:
    """The one grammar of a request, None without any; `kinds` are those that are enforced, `ignored` takes the names of
    fields that no form has. Raises `RequestError`.

    `or_calls` makes of the form that the text must have, or None, the grammar of the whole answer: where an answer may
    have calls.
    """
    wanted = _form_of_text(request, kinds, ignored or IgnoredFields())
    if or_calls is not None:
        wanted = or_calls(wanted)
    if wanted is None:
        return None
    if wanted.spec.kind not in kinds:
        text = f"{wanted.param}: not supported by {honoured_by}; leave it out"
        raise RequestError(text, param=wanted.param, code="unsupported_parameter")

    require_company(request, sampling, wanted.param)
    return wanted


def _form_of_text(request: GenerationRequest, kinds: list[str], ignored: IgnoredFields) -> WantedGrammar | None:
    wanted = list(_wanted(request, kinds, ignored))
    if len(wanted) > 1:
        first, second = wanted[:2]
        raise RequestError(f"{second.param}: {first.param} asks for a form already; give one", param=second.param)
    return wanted[0] if wanted else None


def require_company(request: GenerationRequest, sampling: SamplingFields, param: str) -> None:
    """Raise `RequestError` for what contradicts a grammar: where it ends, there is nothing left but the end."""
    if request.ignore_eos:
        raise RequestError(f"ignore_eos: cannot be combined with {param}", param="ignore_eos")
    for field in NOT_BESIDE:
        if sampling.get(field):
            raise RequestError(f"{field}: cannot be combined with {param}", param=field)


def _wanted(request: GenerationRequest, kinds: list[str], ignored: IgnoredFields) -> Iterator[WantedGrammar]:
    """Every form that the request asks for."""
    if (chosen := request.response_format) is not None:
        yield from _of_response_format(chosen, kinds, ignored)
    if (given := request.structured_outputs) is not None:
        yield from _of_fields("structured_outputs.", given.json, given.regex, given.choice, given.grammar)
        if given.json_object:
            yield WantedGrammar(GrammarSpec("json_object", ""), "structured_outputs.json_object")
        if given.structural_tag is not None:
            yield _of_tag(given.structural_tag, "structured_outputs.structural_tag")
    yield from _of_fields("guided_", request.guided_json, request.guided_regex, request.guided_choice, None)
    yield from _of_fields("", None, request.regex, None, request.grammar)
    if request.json_schema is not None:
        yield WantedGrammar(_schema(request.json_schema), "json_schema")
    if request.guided_grammar is not None:
        yield WantedGrammar(_grammar(request.guided_grammar), "guided_grammar")
    if request.ebnf is not None:
        yield WantedGrammar(GrammarSpec("gbnf", request.ebnf), "ebnf")


def _of_response_format(given: dict[str, Any], kinds: list[str], ignored: IgnoredFields) -> Iterator[WantedGrammar]:
    kind = given.get("type")
    if isinstance(kind, str) and kind not in _FORMATS:
        yield _of_kind(given, kind, kinds, ignored)
        return

    chosen = convert_fields(given, ResponseFormat, ignored, prefix="response_format")
    match chosen.type:
        case "json_schema":
            if chosen.json_schema is None or chosen.json_schema.schema is None:
                param = "response_format.json_schema" + ("" if chosen.json_schema is None else ".schema")
                raise RequestError(f"{param}: the field is required", param=param)
            param = "response_format.json_schema.schema"
            strict = (param,) if chosen.json_schema.strict else ()
            yield WantedGrammar(_schema(chosen.json_schema.schema), param, strict)
        case "json_object" if chosen.schema is not None:
            yield WantedGrammar(_schema(chosen.schema), "response_format.schema")
        case "json_object":
            yield WantedGrammar(GrammarSpec("json_object", ""), "response_format")
        case "structural_tag":
            yield _of_tag(_required_tag(chosen), "response_format")


def _of_kind(given: dict[str, Any], kind: str, kinds: list[str], ignored: IgnoredFields) -> WantedGrammar:
    """A grammar by the name of its kind: its text stands under that name, or is the JSON of all other fields."""
    if kind not in kinds:
        known = ", ".join(sorted({*_FORMATS, *kinds}))
        raise RequestError(f"response_format.type: must be one of {known}", param="response_format.type")

    rest = {name: value for name, value in given.items() if name != "type"}
    if kind not in rest:
        return WantedGrammar(GrammarSpec(kind, msgspec.json.encode(rest).decode() if rest else ""), "response_format")
    for name in rest.keys() - {kind}:
        ignored.add(f"response_format.{name}", f"response_format.{name}")
    value = rest[kind]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return WantedGrammar(GrammarSpec(kind, text), f"response_format.{kind}"[:MAX_PARAM_CHARS])


def _of_fields(
    prefix: str, json: Any, regex: str | None, choice: list[str] | None, grammar: str | None
) -> Iterator[WantedGrammar]:
    if json is not None:
        yield WantedGrammar(_schema(json), f"{prefix}json")
    if regex is not None:
        yield WantedGrammar(GrammarSpec("regex", regex), f"{prefix}regex")
    if choice is not None:
        yield WantedGrammar(GrammarSpec("choice", msgspec.json.encode(choice).decode()), f"{prefix}choice")
    if grammar is not None:
        yield WantedGrammar(_grammar(grammar), f"{prefix}grammar")


def _required_tag(chosen: ResponseFormat) -> StructuralTag:
    for name in ("structures", "triggers"):
        if getattr(chosen, name) is None:
            raise RequestError(f"response_format.{name}: the field is required", param=f"response_format.{name}")
    return StructuralTag(structures=chosen.structures or [], triggers=chosen.triggers or [])


def _of_tag(given: StructuralTag | str, param: str) -> WantedGrammar:
    """Structural tags come as JSON, or as a string of JSON."""
    if isinstance(given, str):
        try:
            given = msgspec.json.decode(given, type=StructuralTag)
        except msgspec.ValidationError as error:
            raise from_validation(error, prefix=f"{param}.") from None
        except (msgspec.DecodeError, RecursionError):
            raise RequestError(f"{param}: not valid JSON", param=param) from None
    spec = TagSpec([TagStructure(each.begin, each.schema, each.end) for each in given.structures], given.triggers)
    return WantedGrammar(GrammarSpec("structural_tag", msgspec.json.encode(spec).decode()), param)


def _schema(given: Any) -> GrammarSpec:
    """A schema comes as JSON, or as a string of JSON; the order of its properties is the order of the answer's."""
    return GrammarSpec("json_schema", given if isinstance(given, str) else msgspec.json.encode(given).decode())


def _grammar(text: str) -> GrammarSpec:
    """Lark rules are `name: …`, those of GBNF and its kin `name ::= …`."""
    return GrammarSpec("gbnf" if "::=" in text else "lark", text)
