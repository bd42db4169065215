"""The JSON schemas of bodies: what the structs of requests and answers say, and what is checked beyond that.

They allow what the endpoint takes, such as fields that it does not know, and null for a field that is not given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from histrio.config.field_docs import field_docs
from histrio.contracts.sampler import TOKEN_ID
from histrio_api.request.known_fields import ALIASES
from histrio_api.request.words import with_word_schemas
from histrio_api.routes.described import Described
from histrio_api.schemas.formats import ResponseFormat
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.schemas.parallm import Changes
from histrio_api.schemas.strict import NULL, Strict
from histrio_api.shared.edge import Edge

__all__ = ["UNSAID", "body_schemas"]

UNSAID = (
    "names a model that is not served, or an item or a response that is not kept",
    "has a message of a role that the model's chat template does not take, or a block that its role does not have",
    "has a field that is known from other servers and would change the answer, with a value that does",
    "has fields that contradict each other, need each other, or together leave no token to draw",
    "has an item without the fields that its type has elsewhere",
    "has texts or ids that are none, unequal in number, mixed in one list, or more than the model takes",
    "asks for what the served model, its files or its engine do not have",
    "brings a grammar, an expression or a schema that is malformed, or cannot be followed",
)
"""For what a request may be refused that no schema says."""

_REF = "#/components/schemas/{name}"

Schema = dict[str, Any]


def body_schemas(routes: Iterable[Described], edge: Edge) -> tuple[dict[type, Schema], dict[str, Schema]]:
    """A reference for the struct of each body, and all that they refer to, by name."""
    asked = {each.asks: each for each in routes if each.asks is not None}
    answered = {each.answers: None for each in routes if each.answers is not None}
    parts = dict.fromkeys(_parts([*asked, ResponseFormat]))
    kinds = [*(asked | answered | parts)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    for component in components.values():
        component.pop("additionalProperties", None)
    references = dict(zip(kinds, schemas, strict=True))

    def of(kind: type) -> Schema:
        name: str = references[kind]["$ref"].rpartition("/")[2]
        found: Schema = components[name]
        return found

    for kind in parts:
        _explain(of(kind), kind)
    for kind, described in asked.items():
        _complete(of(kind), kind, described, edge)
    if Changes in references:
        of(Changes)["additionalProperties"] = False
    for kind in parts:
        _let_be_null(of(kind))
    used = _used(components, [references[kind] for kind in (*asked, *answered)])
    return references, {name: component for name, component in components.items() if name in used}


def _parts(kinds: Iterable[type]) -> Iterator[type[Strict]]:
    """These structs of requests, and those that they consist of."""
    waiting: list[Any] = [inspect.type_info(kind) for kind in kinds]
    found: set[type] = set()
    while waiting:
        match waiting.pop():
            case inspect.StructType(cls=kind, fields=fields) if kind not in found:
                found.add(kind)
                waiting += (field.type for field in fields)
                if issubclass(kind, Strict):
                    yield kind
            case inspect.Metadata(type=inner) | inspect.ListType(item_type=inner):
                waiting.append(inner)
            case inspect.UnionType(types=types):
                waiting += types


def _explain(component: Schema, kind: type[Strict]) -> None:
    """Add the descriptions of fields, and the rules that the struct has beyond them."""
    fields: dict[str, Schema] = component["properties"]
    for each in (each for each in kind.__mro__ if issubclass(each, msgspec.Struct) and each is not msgspec.Struct):
        for name, text in field_docs(each).items():
            if name in fields:
                fields[name] = {"description": text} | fields[name]
    rules = {name: value for name, value in kind.rules.items() if name != "properties"}
    component |= rules
    for name, schema in kind.rules.get("properties", {}).items():
        described = {key: fields[name][key] for key in ("description",) if key in fields.get(name, {})}
        fields[name] = described | dict(schema)


def _complete(component: Schema, kind: type, described: Described, edge: Edge) -> None:
    """Add to the schema of a body samplers' fields, other names, limits that are settings, and what is refused."""
    fields: dict[str, Schema] = component["properties"]
    if issubclass(kind, GenerationRequest):
        for name, schema in with_word_schemas(edge.gateway.sampling_schemas()).items():
            fields[name] = {"anyOf": [*fields[name]["anyOf"], schema]} if name in fields else schema
        fields["response_format"] = _response_format(edge) | {"description": fields["response_format"]["description"]}
    for name, more in _limits(edge).items():
        if name in fields:
            _narrow(fields[name], more)
    for name, neutral in described.without.items():
        fields[name] = {"enum": [msgspec.to_builtins(neutral)], "description": "not of this URL"}
    for other, own in ALIASES.items():
        if own in fields:
            fields.setdefault(other, fields[own] | {"description": f"another name of {own}"})
    _bound_ids(component, edge.gateway.model.vocab_size - 1)


def _limits(edge: Edge) -> dict[str, Schema]:
    """Of fields, as the settings have them."""
    limits, vocab_size = edge.settings, edge.gateway.model.vocab_size
    has_all = limits.max_logprobs == -1 or vocab_size <= limits.max_logprobs
    likeliest = ({} if has_all else {"minimum": 0}) | (
        {} if limits.max_logprobs == -1 else {"maximum": limits.max_logprobs}
    )
    stop = {"type": "string", "minLength": 1, "maxLength": limits.max_stop_chars}
    return {
        "n": {"maximum": limits.max_choices},
        **dict.fromkeys(("top_logprobs", "prompt_logprobs", "logprobs"), likeliest),
        "stop": {"anyOf": [stop, {"type": "array", "items": stop, "maxItems": limits.max_stop_strings}]},
        "stop_token_ids": {"maxItems": limits.max_stop_strings},
        "messages": {"maxItems": limits.max_messages},
        "tools": {"maxItems": limits.max_tools},
        "prompts": {"maxItems": limits.max_prompts},
        "documents": {"maxItems": limits.max_inputs},
        "tokens": {"maxItems": limits.max_detokenize_tokens},
    }


def _narrow(schema: Schema, more: Mapping[str, Any]) -> None:
    """Add bounds to a schema, or to the one alternative that is no null."""
    for alternative in schema.get("anyOf", []) if "anyOf" not in more else []:
        if alternative != NULL:
            schema = alternative
            break
    if "maximum" in more:
        more = {**more, "maximum": min(more["maximum"], schema.get("maximum", more["maximum"]))}
    schema |= more


def _response_format(edge: Edge) -> Schema:
    """As its struct has it, or a kind of grammar that a plugin enforces."""
    named = {branch["properties"]["type"]["enum"][0] for branch in ResponseFormat.rules["anyOf"]}
    others = sorted({*edge.gateway.model.honours.grammar_kinds} - named)
    kind = {"type": "object", "properties": {"type": {"enum": others}}, "required": ["type"]}
    return {"anyOf": [{"$ref": _REF.format(name=ResponseFormat.__name__)}, *([kind] if others else [])]}


def _bound_ids(schema: Any, largest: int) -> None:
    """Bound every token id within."""
    if isinstance(schema, dict) and schema.get("title") == TOKEN_ID:
        schema["maximum"] = largest
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _bound_ids(each, largest)


def _let_be_null(component: Schema) -> None:
    """Null for a field means that it is not given."""
    fields: dict[str, Schema] = component["properties"]
    for name in fields.keys() - component.get("required", []):
        schema, null = fields[name], dict(NULL)
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], *([] if None in schema["enum"] else [None])]
            schema.pop("type", None)
        elif "anyOf" in schema:
            schema["anyOf"] = [*schema["anyOf"], *([] if null in schema["anyOf"] else [null])]
        elif schema.keys() - {"description", "default"}:
            outer = {key: schema[key] for key in ("description", "default") if key in schema}
            inner = {key: value for key, value in schema.items() if key not in outer}
            fields[name] = outer | {"anyOf": [inner, null]}


def _used(components: dict[str, Schema], roots: list[Schema]) -> set[str]:
    """Names of the components that these references lead to."""
    found: set[str] = set()
    waiting: list[Any] = [*roots]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict):
            name = str(schema.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                waiting.append(components[name])
            waiting += schema.values()
        elif isinstance(schema, list):
            waiting += schema
    return found
