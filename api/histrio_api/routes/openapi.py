"""The OpenAPI document: every route, with the structs of its requests and answers, made of the code that serves them.

What the schemas of bodies do not say, its description says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from inspect import getdoc
from typing import Any

import msgspec

from histrio_api.http.routing import Route
from histrio_api.routes.auth import is_open
from histrio_api.routes.body_schemas import UNSAID, body_schemas
from histrio_api.routes.described import Described
from histrio_api.shared.edge import Edge

__all__ = ["openapi_document"]

_PARAMETER = re.compile(r"\{(\w+):\w+\}")
_JSON = "application/json"
_ERROR = {"description": "an error, in the form of the API that the URL belongs to", "content": {_JSON: {}}}

_DESCRIPTION = "\n".join(
    [
        "Fields that are not listed are taken, and named in the header `x-histrio-ignored` of the answer.",
        "A body that follows its schema may be refused if it",
        *(f"- {each}" for each in UNSAID),
    ]
)

Schema = dict[str, Any]


def openapi_document(routes: Iterable[Route], edge: Edge) -> bytes:
    """The whole document as JSON. Safe to run in a thread."""
    told = [(each, Described.of(each.opt)) for each in routes]
    references, components = body_schemas([described for _, described in told], edge)
    paths: dict[str, Schema] = {}
    for route, described in told:
        for path in sorted(route.paths):
            operations = paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})
            operations[route.method.lower()] = _operation(route, path, described, references, edge)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "histrio", "version": version("histrio"), "description": _DESCRIPTION},
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


def _security_schemes(edge: Edge) -> Schema:
    if not edge.keys.asks:
        return {}
    key = {"type": "apiKey", "in": "header", "name": "x-api-key"}
    return {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}, "key": key}}
