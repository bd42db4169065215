"""Ollama's /api: what is asked there, and the models that are listed."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from histrio.errors import RequestError
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.generation import GenerationRequest
from histrio_api.schemas.local_options import local_options
from histrio_api.schemas.messages import ChatMessage
from histrio_api.schemas.strict import OBJECT, NumTopLogprobs, Schema, Strict
from histrio_api.schemas.unfolded import unfolded

__all__ = [
    "RULES",
    "ModelDetails",
    "ModelName",
    "OllamaChatRequest",
    "OllamaGenerateRequest",
    "own_names",
    "without_tag",
]

RULES: Schema = {"properties": {"format": {"anyOf": [{"enum": ["json", ""]}, OBJECT]}, "options": OBJECT}}
"""Of what becomes other fields before a request is checked."""
_TAG = ":latest"
_MESSAGE_NAMES = {"thinking": "reasoning_content", "tool_name": "name"}


class OllamaChatRequest(ChatRequest, frozen=True, kw_only=True):
    """POST /api/chat."""

    rules: ClassVar[Schema] = RULES

    messages: list[ChatMessage]
    """Empty to have the model loaded, and nothing else."""
    stream: bool = True

    @classmethod
    def own_names(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Raises `RequestError`."""
        given = own_names(fields)
        messages = given.get("messages")
        if isinstance(messages, list):
            given["messages"] = [_renamed(each, _MESSAGE_NAMES) for each in messages]
        return given


class OllamaGenerateRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /api/generate."""

    rules: ClassVar[Schema] = RULES

    stream: bool = True
    prompt: str = ""
    """Empty to have the model loaded, and nothing else."""
    suffix: str = ""
    """What stands behind the answer, of a model with tokens for it."""
    system: str = ""
    raw: bool = False
    """The prompt is given to the model as it is, without the template."""
    think: bool | str | None = None
    logprobs: bool = False
    top_logprobs: NumTopLogprobs = 0
    """Needs `logprobs`."""

    @classmethod
    def own_names(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Raises `RequestError`."""
        return own_names(fields)


class ModelName(Strict, frozen=True):
    """Which model a request is about; older clients say `name`."""

    model: str | None = None
    name: str | None = None
    stream: bool = True
    insecure: bool = False
    """Of a download, like what follows."""
    username: str | None = None
    password: str | None = None
    verbose: bool = False
    """Of what is shown of a model: all of it is."""

    @property
    def wanted(self) -> str:
        """The name without Ollama's tag."""
        return without_tag(self.model or self.name or "")


class ModelDetails(msgspec.Struct):
    """What Ollama's clients show of a model."""

    family: str
    families: list[str]
    format: str = "safetensors"
    parent_model: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


def without_tag(name: str) -> str:
    """The model's name as it is served: Ollama's clients add `:latest` to names that have no tag."""
    return name.removesuffix(_TAG)


def own_names(fields: dict[str, Any]) -> dict[str, Any]:
    """A body's fields with the options beside the other fields. Raises `RequestError`."""
    given = dict(unfolded(fields, "options"))
    if isinstance(given.get("model"), str):
        given["model"] = without_tag(given["model"])
    if (form := given.pop("format", None)) not in (None, ""):
        if given.get("response_format") is not None:
            raise RequestError("format: response_format asks for a form already; give one", param="format")
        given["response_format"] = _response_format(form)
    return local_options(given)


def _response_format(form: Any) -> dict[str, Any]:
    if form == "json":
        return {"type": "json_object"}
    if not isinstance(form, dict):
        raise RequestError('format: must be "json" or a JSON schema', param="format")
    return {"type": "json_schema", "json_schema": {"schema": form}}


def _renamed(message: Any, names: dict[str, str]) -> Any:
    if not isinstance(message, dict):
        return message
    return {names.get(name, name): value for name, value in message.items()}
