"""What a person may set on the page, as JSON: fields with their bounds from where they are checked, and presets.

Of no field are the bounds written here a second time: those of samplers come from their owners, the others from the
request's own struct and the endpoint's settings.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from histrio.config.field_docs import field_docs
from histrio_api.request.words import with_word_schemas
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.shared.edge import Edge

__all__ = ["PRESETS", "page_settings"]

PRESETS: dict[str, dict[str, float]] = {
    "precise": {"temperature": 0.2, "top_p": 0.9},
    "balanced": {"temperature": 0.7, "top_p": 0.95},
    "creative": {"temperature": 1.1, "top_p": 0.98, "min_p": 0.05},
}
"""Of a preset those fields count that are honoured."""
_OWN_FIELDS = (
    "max_tokens",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "priority",
    "cache_salt",
    "max_speculation",
    "reasoning_effort",
    "enable_thinking",
    "parallel_tool_calls",
)
"""Of chats; what the page sets elsewhere, such as `tools`, is not among them."""
_READ_BY_TEMPLATES = {"reasoning_effort", "enable_thinking"}


def page_settings(edge: Edge) -> dict[str, Any]:
    """The model, the fields of a request as JSON schemas, and the presets."""
    model = edge.gateway.model
    sampling = with_word_schemas(edge.gateway.sampling_schemas())
    return {
        "version": version("histrio"),
        "model": {
            "id": model.id,
            "kind": model.kind,
            "architecture": model.architecture,
            "num_layers": model.num_layers,
            "max_sequence_length": model.max_sequence_length,
            "has_chat_template": edge.template is not None,
            "takes_tools": edge.template is not None and edge.tool_format is not None,
            "takes_forms": bool(model.honours.grammar_kinds),
            "default_sampling": model.default_sampling,
        },
        "fields": _own_schemas(edge) | sampling,
        "sampling_fields": sorted(sampling),
        "presets": {
            name: {field: value for field, value in fields.items() if field in sampling}
            for name, fields in PRESETS.items()
        },
    }


def _own_schemas(edge: Edge) -> dict[str, dict[str, Any]]:
    """Of the fields that requests have whatever the samplers are, as far as they are honoured here."""
    properties, texts = _chat_properties(), _chat_texts()
    honours, variables = edge.gateway.model.honours, edge.template.variables if edge.template is not None else ()
    found = {}
    for name in _OWN_FIELDS:
        if getattr(honours, name, True) and (name in variables or name not in _READ_BY_TEMPLATES):
            found[name] = {"description": texts[name]} | properties[name] if name in texts else properties[name]
    limits = edge.settings
    stop = {"type": "string", "maxLength": limits.max_stop_chars, "minLength": 1}
    longest = edge.gateway.model.max_sequence_length
    found["max_tokens"] = found["max_tokens"] | {"anyOf": [{"type": "integer", "minimum": 1, "maximum": longest}]}
    found["stop"] = {"type": "array", "items": stop, "maxItems": limits.max_stop_strings, "default": []}
    return found


@cache
def _chat_properties() -> dict[str, dict[str, Any]]:
    """Of a chat, as JSON schemas; making them takes some hundredths of a second."""
    kinds = msgspec.json.schema(ChatRequest)["$defs"]
    properties: dict[str, dict[str, Any]] = kinds[ChatRequest.__name__]["properties"]
    return properties


@cache
def _chat_texts() -> dict[str, str]:
    return field_docs(GenerationRequest) | field_docs(ChatRequest)
