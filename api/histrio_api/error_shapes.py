"""How an error is written as JSON: as the API says to which the request's URL belongs.

No answer echoes the input, or is longer than `MAX_MESSAGE_CHARS`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from histrio.errors import HistrioError, RequestError

__all__ = [
    "MAX_PARAM_CHARS",
    "anthropic_error",
    "error_object",
    "llama_error",
    "ollama_error",
    "openai_error",
    "responses_error",
    "transport_error",
]

MAX_MESSAGE_CHARS = 1000
MAX_PARAM_CHARS = 100

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_LLAMA_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "unavailable_error",
}
_SCHEMA_FIELD = "response_format.json_schema.schema"
_ANTHROPIC_FIELDS = {
    _SCHEMA_FIELD: "output_config.format.schema",
    "continue_final_message": "messages",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "tool_choice.function": "tool_choice",
    ".function.parameters": ".input_schema",
    ".function": "",
}
"""What the rest of the endpoint calls them → what clients of this API call them."""


_RESPONSES_FIELDS = {
    "response_format.json_schema.schema": "text.format.schema",
    "max_completion_tokens": "max_output_tokens",
    "tool_choice.function": "tool_choice",
    "tool_choice.custom": "tool_choice",
    ".custom.format.grammar": ".format",
    ".custom.": ".",
    ".function.": ".",
}
_MESSAGE_PLACE = re.compile(r"^messages(\[\d+\][\w.\[\]]*)?")
"""A message is made of several items, so that its number says nothing."""


def openai_error(error: HistrioError) -> dict[str, Any]:
    """OpenAI's error object of an error whose text is safe to show."""
    param = getattr(error, "param", None)
    content = {
        "message": str(error)[:MAX_MESSAGE_CHARS],
        "type": error.type,
        "param": None if param is None else param[:MAX_PARAM_CHARS],
        "code": error.code,
    }
    return {"error": content}


def anthropic_error(error: HistrioError) -> dict[str, Any]:
    """Anthropic's, whose message begins with the field that is wrong, if one is."""
    text = str(error)
    for ours, theirs in _ANTHROPIC_FIELDS.items():
        text = text.replace(ours, theirs)
    if text.startswith("stop:"):
        text = f"stop_sequences{text.removeprefix('stop')}"
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": text[:MAX_MESSAGE_CHARS]}}


def ollama_error(error: HistrioError) -> dict[str, Any]:
    """Ollama's, which is a text."""
    return {"error": str(error).replace(_SCHEMA_FIELD, "format")[:MAX_MESSAGE_CHARS]}


def llama_error(error: HistrioError) -> dict[str, Any]:
    """llama.cpp's, whose code is the status."""
    kind = _LLAMA_TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"code": error.status, "message": str(error)[:MAX_MESSAGE_CHARS], "type": kind}}


def responses_error(error: HistrioError) -> dict[str, Any]:
    """OpenAI's for responses, whose fields have other names than those of chats."""
    content: dict[str, Any] = openai_error(error)["error"]
    is_of_input = error.code != "unsupported_parameter"
    shown = {name: _as_responses(content[name], is_of_input) for name in ("message", "param")}
    return {"error": content | shown}


def _as_responses(text: str | None, is_of_input: bool) -> str | None:
    """`is_of_input`: messages are what the input has become, not a field that the request has."""
    for ours, theirs in _RESPONSES_FIELDS.items():
        text = text and text.replace(ours, theirs)
    return text and (_MESSAGE_PLACE.sub("input", text) if is_of_input else text)


def detail_error(error: HistrioError) -> dict[str, Any]:
    """MLX ParaLLM's."""
    return {"detail": str(error)[:MAX_MESSAGE_CHARS]}


def inference_error(error: HistrioError) -> dict[str, Any]:
    """ParallaxPay's."""
    return {"success": False, "error": str(error)[:MAX_MESSAGE_CHARS]}


_SHAPES = (
    {
        "/v1/messages": anthropic_error,
        "/v1/responses": responses_error,
        "/v1/inference": inference_error,
        "/api": ollama_error,
    }
    | dict.fromkeys(("/completion", "/completions", "/infill", "/props", "/slots", "/apply-template"), llama_error)
    | dict.fromkeys(("/v1/generate", "/v1/generate_batch", "/v1/stats", "/v1/configure"), detail_error)
)
"""By the URL, and what is below it; OpenAI's for all others."""


def error_object(error: HistrioError, path: str) -> bytes:
    """The error as a request to this path gets it."""
    shape = next((shape for root, shape in _SHAPES.items() if f"{path}/".startswith(f"{root}/")), openai_error)
    return msgspec.json.encode(shape(error))


def transport_error(status: int, message: str, code: str, path: str) -> bytes:
    """An error that is found below the application, as a request to this path gets it."""
    error = HistrioError(message) if status >= 500 else RequestError(message)
    error.status, error.code = status, code
    return error_object(error, path)
