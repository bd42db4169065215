"""POST /v1/configure: what may change while the server runs changes, and everything else is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec

from histrio.config.settings import AdmissionSettings, BatchingSettings, SizeSettings, SpeculationSettings
from histrio.errors import RequestError
from histrio.messages import Tune
from histrio_api.errors import from_validation
from histrio_api.http.response import Response
from histrio_api.http.routing import post
from histrio_api.request.fields import whole_number
from histrio_api.request.json_body import decode_object
from histrio_api.routes.auth import ADMIN
from histrio_api.routes.common import HttpRequest, json_response, request_body
from histrio_api.routes.described import described
from histrio_api.schemas.parallm import Changes
from histrio_api.shared.edge import Edge
from histrio_api.shared.settings import ApiSettings

__all__ = ["configure"]

_SETTINGS = ("any_model", "keep_alive_s", "log_requests", "max_choices", "max_prompts", "strict")
_FIXED = frozenset(
    name
    for owner in (ApiSettings, SizeSettings, BatchingSettings, SpeculationSettings, AdmissionSettings)
    for name in owner.__struct_fields__
)
"""Settings of a topology; those that may change are looked for first."""
_MAX_PARTS = 64
_MAX_NAME_CHARS = 64


@post("/v1/configure", opt=described(Changes) | ADMIN)
async def configure(request: HttpRequest) -> Response:
    """Change all that is given, in the query or as JSON, or nothing; answers what holds from now on."""
    edge = request.state
    changes = _checked(await _given(request))
    _require_possible(edge, changes)
    _apply(edge, changes)
    return json_response(_state(edge, changes))


async def _given(request: HttpRequest) -> dict[str, Any]:
    """By name, as Python writes names. Raises `RequestError`."""
    async with request_body(request) as body:
        fields = decode_object(body, max_parts=_MAX_PARTS, max_values=_MAX_PARTS) if body.strip() else {}
    for name, text in request.query.items():
        fields.setdefault(name, _value_of(text))
    return {name.replace("-", "_"): value for name, value in fields.items() if value is not None}


def _value_of(text: str) -> Any:
    """A number, or true or false; a text otherwise, which nothing takes."""
    try:
        return msgspec.json.decode(text.lower())
    except (msgspec.DecodeError, RecursionError):
        return text


def _checked(given: dict[str, Any]) -> Changes:
    """Raise `RequestError` for what cannot change, or not to this."""
    for name in given.keys() - {*Changes.__struct_fields__}:
        shown = name[:_MAX_NAME_CHARS] if name.isidentifier() else "a name"
        if name in _FIXED:
            text = f"{shown}: cannot change while the server runs; set it in the topology and start again"
        else:
            text = f"{shown}: unknown; {', '.join(Changes.__struct_fields__)} may be changed"
        raise RequestError(text, param=shown, code="unsupported_parameter")
    try:
        return msgspec.convert({name: whole_number(value) for name, value in given.items()}, Changes)
    except msgspec.ValidationError as error:
        raise from_validation(error) from None


def _require_possible(edge: Edge, changes: Changes) -> None:
    edge.require_accepting()
    model, gauges = edge.gateway.model, edge.gateway.status.gauges
    drafts = changes.use_speculative_decoding is False or changes.max_speculation is not None
    if drafts and not model.honours.max_speculation:
        name = "max_speculation" if changes.max_speculation is not None else "use_speculative_decoding"
        raise _engines_own(name, edge)
    if changes.use_speculative_decoding is False and changes.max_speculation:
        text = "max_speculation: use_speculative_decoding is false; give one of them"
        raise RequestError(text, param="max_speculation")
    for name in ("max_batch_size", "batch_timeout_ms"):
        if getattr(changes, name) is not None and "batch_slots" not in gauges:
            raise _engines_own(name, edge)
    if changes.max_batch_size is not None and changes.max_batch_size > gauges["batch_slots"]:
        most = int(gauges["batch_slots"])
        text = f"max_batch_size: at most {most}, for which the stages have slots; set more in the topology"
        raise RequestError(text, param="max_batch_size")


def _engines_own(name: str, edge: Edge) -> RequestError:
    text = f"{name}: {edge.honoured_by} goes by options of its own; set them in the topology and start again"
    return RequestError(text, param=name, code="unsupported_parameter")


def _apply(edge: Edge, changes: Changes) -> None:
    found = {name: value for name, value in msgspec.structs.asdict(changes).items() if value is not None}
    edge.settings = msgspec.structs.replace(edge.settings, **{name: found[name] for name in _SETTINGS if name in found})
    if changes.use_speculative_decoding is not None:
        edge.max_speculation = None if changes.use_speculative_decoding else 0
    if changes.max_speculation is not None:
        edge.max_speculation = changes.max_speculation
    if changes.max_batch_size is not None or changes.batch_timeout_ms is not None:
        edge.gateway.tune(Tune(changes.max_batch_size, changes.batch_timeout_ms))


def _state(edge: Edge, changes: Changes) -> dict[str, Any]:
    """The bounds of steps as they were asked for, which their owner reports only later."""
    gauges = edge.gateway.status.gauges
    bounds = {
        "max_batch_size": changes.max_batch_size or gauges.get("max_batch_size"),
        "batch_timeout_ms": gauges.get("scheduler_wait_ms")
        if changes.batch_timeout_ms is None
        else changes.batch_timeout_ms,
    }
    speculation = {"use_speculative": edge.max_speculation != 0, "max_speculation": edge.max_speculation}
    return speculation | bounds | {name: getattr(edge.settings, name) for name in _SETTINGS}
