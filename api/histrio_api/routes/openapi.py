"""The OpenAPI document: every route, with the structs of its requests and answers, made of the code that serves them.

It is no stricter than the endpoint, which takes fields that it does not know, and null for a field that is not given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from inspect import getdoc
from typing import Any

import msgspec

from histrio.config.field_docs import field_docs
from histrio_api.http.routing import Route
from histrio_api.request.known_fields import ALIASES
from histrio_api.request.words import with_word_schemas
from histrio_api.routes.auth import is_open
from histrio_api.routes.described import Described
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge

__all__ = ["openapi_document"]

_PARAMETER = re.compile(r"\{(\w+):\w+\}")
_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_ERROR = {"description": "an error, in the form of the API that the URL belongs to", "content": {_JSON: {}}}

Schema = dict[str, Any]


def openapi_document(routes: Iterable[Route], edge: Edge) -> bytes:
    """The whole document as JSON. Safe to run in a thread."""
    told = [(each, Described.of(each.opt)) for each in routes]
    references, components = _components([described for _, described in told], edge)
    paths: dict[str, Schema] = {}
    for route, described in told:
        for path in sorted(route.paths):
            operations = paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})
            operations[route.method.lower()] = _operation(route, path, described, references, edge)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "histrio", "version": version("histrio")},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": components} | _security_schemes(edge),
    }
    return msgspec.json.encode(document)


def _operation(route: Route, path: str, described: Described, references: dict[type, Schema], edge: Edge) -> Schema:
    summary, _, more = (getdoc(route.handler) or "").partition("\n\n")
    content = {_JSON: {} if described.answers is None else {"schema": references[described.answers]}}
    if described.streams:
        content[described.streams] = {"schema": {"type": "string"}}
    found: Schema = {
        "summary": " ".join(summary.split()),
        "parameters": [*_path_parameters(path), *_query_parameters(described.query)],
        "responses": {"200": {"description": "the answer", "content": content}, "default": _ERROR},
    }
    if more:
        found["description"] = " ".join(more.split())
    if described.asks is not None:
        body = {_JSON: {"schema": references[described.asks]}}
        found["requestBody"] = {"required": True, "content": body}
    if edge.keys.asks:
        found["security"] = [] if is_open(route, edge) else [{"bearer": []}, {"key": []}]
    return found


def _path_parameters(path: str) -> Iterator[Schema]:
    for name in _PARAMETER.findall(path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(query: type | None) -> Iterator[Schema]:
    if query is None:
        return
    (_,), components = msgspec.json.schema_components([query])
    for name, schema in components[query.__name__]["properties"].items():
        yield {"name": name, "in": "query", "required": False, "schema": schema}


def _components(routes: Iterable[Described], edge: Edge) -> tuple[dict[type, Schema], dict[str, Schema]]:
    """A reference for each struct of a body, and what they refer to."""
    asked = {each.asks: each for each in routes if each.asks is not None}
    answered = {each.answers: None for each in routes if each.answers is not None}
    kinds = [*asked, *answered]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    for component in components.values():
        component.pop("additionalProperties", None)
    references = dict(zip(kinds, schemas, strict=True))
    for kind, described in asked.items():
        _complete(components[references[kind]["$ref"].rpartition("/")[2]], kind, described, edge)
    return references, components


def _complete(component: Schema, kind: type, described: Described, edge: Edge) -> None:
    """Add what the struct of a request does not say: descriptions of its fields, samplers' fields and other names."""
    fields: dict[str, Schema] = component["properties"]
    for name in described.without:
        fields.pop(name, None)
    for each in _structs(kind):
        for name, text in field_docs(each).items():
            if name in fields:
                fields[name] = {"description": text} | fields[name]
    if issubclass(kind, GenerationRequest):
        fields |= with_word_schemas(edge.gateway.sampling_schemas())
        others = {other: f"another name of {name}" for other, name in ALIASES.items() if name in fields}
        fields |= {other: {"description": text} for other, text in others.items() if other not in fields}


def _structs(kind: type) -> list[type]:
    """The struct and those that it extends."""
    return [each for each in kind.__mro__ if issubclass(each, msgspec.Struct) and each is not msgspec.Struct]


def _security_schemes(edge: Edge) -> Schema:
    if not edge.keys.asks:
        return {}
    key = {"type": "apiKey", "in": "header", "name": "x-api-key"}
    return {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}, "key": key}}
