"""The models that Ollama's clients see, of which there is one, and what they cannot do to it."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import msgspec

from histrio.config.model_files import read_json_object
from histrio.contracts.gateway import ServedModel
from histrio.errors import RequestError
from histrio_api.http.response import Response
from histrio_api.http.routing import delete, get, post
from histrio_api.request.fields import split_fields
from histrio_api.request.ignored import IgnoredFields, ignored_headers
from histrio_api.request.json_body import decode_object
from histrio_api.routes.auth import ANY_KEY
from histrio_api.routes.common import (
    HttpRequest,
    is_strict,
    json_response,
    may_see_model,
    request_body,
)
from histrio_api.routes.described import described
from histrio_api.schemas.ollama import ModelDetails, ModelName
from histrio_api.shared.edge import Edge

__all__ = ["change_models", "delete_model", "list_tags", "ollama_version", "pull", "running_models", "show"]

OLLAMA_VERSION = "0.12.11"
"""Of the API that is spoken here; clients leave out what an older one would not know."""
_FOREVER = "9999-12-31T23:59:59Z"
_NUM_MODEL_FIELDS = 32


@get("/api/tags", opt=ANY_KEY)
async def list_tags(request: HttpRequest) -> Response:
    """The model that is served, if the key may use it."""
    return json_response({"models": [_entry(request.state.gateway.model)] if may_see_model(request) else []})


@get("/api/ps", opt=ANY_KEY)
async def running_models(request: HttpRequest) -> Response:
    """The same once it is loaded."""
    gateway = request.state.gateway
    if gateway.status.state not in ("ready", "recovering") or not may_see_model(request):
        return json_response({"models": []})

    model = gateway.model
    held = {"expires_at": _FOREVER, "size_vram": _size(model.path), "context_length": model.max_sequence_length}
    return json_response({"models": [_entry(model) | held]})


@get("/api/version", opt=ANY_KEY)
async def ollama_version(request: HttpRequest) -> Response:
    """The version of Ollama's API, and that of histrio."""
    return json_response({"version": OLLAMA_VERSION, "histrio": installed_version("histrio")})


@post("/api/show", opt=described(ModelName))
async def show(request: HttpRequest) -> Response:
    """What is known of the model."""
    edge = request.state
    _, ignored = await _named_model(request)
    model = edge.gateway.model
    family = _family(model.path)
    content = {
        "modelfile": f"FROM {model.id}",
        "parameters": "\n".join(f"{name} {value}" for name, value in model.default_sampling.items()),
        "template": "" if edge.template is None else edge.template.source,
        "license": "",
        "details": _details(model),
        "model_info": {
            "general.architecture": family,
            "general.basename": model.id,
            f"{family}.block_count": model.num_layers,
            f"{family}.context_length": model.max_sequence_length,
            f"{family}.vocab_size": model.vocab_size,
        },
        "capabilities": _capabilities(edge),
        "modified_at": _modified_at(model),
    }
    return json_response(content, ignored_headers(edge, ignored))


@post("/api/pull", opt=described(ModelName))
async def pull(request: HttpRequest) -> Response:
    """The served model is here already."""
    wanted, ignored = await _named_model(request)
    body = msgspec.json.encode({"status": "success"}) + (b"\n" if wanted.stream else b"")
    media_type = "application/x-ndjson" if wanted.stream else "application/json"
    headers = ignored_headers(request.state, ignored) | {"content-type": media_type}
    return Response(body, headers=headers)


@post(["/api/copy", "/api/create", "/api/push"])
async def change_models(request: HttpRequest) -> Response:
    """Refused: the topology says which model there is."""
    raise _one_model()


@delete("/api/delete")
async def delete_model(request: HttpRequest) -> Response:
    """Refused alike."""
    raise _one_model()


def _one_model() -> RequestError:
    text = "histrio serves the one model of its topology; to have another, change `model` there and start it again"
    return RequestError(text, code="not_supported")


async def _named_model(request: HttpRequest) -> tuple[ModelName, IgnoredFields]:
    """Raises `ModelNotFound` unless the request is about the served model."""
    edge, ignored = request.state, IgnoredFields(is_strict=is_strict(request))
    async with request_body(request) as body:
        given = decode_object(body, max_parts=_NUM_MODEL_FIELDS, max_values=_NUM_MODEL_FIELDS)
    wanted, _ = split_fields(given, ModelName, frozenset(), edge.honoured_by, ignored)
    edge.require_model(wanted.wanted)
    return wanted, ignored


def _entry(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.id,
        "model": model.id,
        "modified_at": _modified_at(model),
        "size": _size(model.path),
        "digest": sha256(f"{model.id} {model.created}".encode()).hexdigest(),
        "details": _details(model),
    }


def _details(model: ServedModel) -> ModelDetails:
    family = _family(model.path)
    return ModelDetails(family, [family], quantization_level=_number_format(model.path))


def _modified_at(model: ServedModel) -> str:
    return datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z")


def _capabilities(edge: Edge) -> list[str]:
    has = {
        "completion": edge.gateway.model.kind == "generate",
        "embedding": edge.gateway.model.kind == "embed",
        "insert": edge.tokenizer.gap_marks is not None,
        "tools": edge.template is not None and edge.tool_format is not None,
        "thinking": edge.reasoning_format is not None,
    }
    return [name for name, is_there in has.items() if is_there]


@cache
def _size(folder: str) -> int:
    """Bytes of the model's weights."""
    return sum(file.stat().st_size for kind in ("safetensors", "gguf") for file in Path(folder).glob(f"*.{kind}"))


@cache
def _config(folder: str) -> dict[str, Any]:
    return read_json_object(Path(folder) / "config.json", optional=True)


def _family(folder: str) -> str:
    return str(_config(folder).get("model_type", "llm"))


def _number_format(folder: str) -> str:
    config = _config(folder)
    return str(config.get("dtype") or config.get("torch_dtype") or "")
