"""ParallaxPay's POST /v1/inference: what is asked, and the answer."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from histrio.errors import RequestError
from histrio_api.schemas.chat import ChatRequest
from histrio_api.schemas.strict import STRING, Schema

__all__ = ["Inference", "InferenceMetadata", "InferenceRequest"]


class InferenceRequest(ChatRequest, frozen=True, kw_only=True):
    """A chat, or a `prompt` that begins one."""

    rules: ClassVar[Schema] = {
        "properties": {"prompt": STRING},
        "required": [],
        "anyOf": [
            {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("messages", "prompt")
        ],
    }

    @classmethod
    def own_names(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Raises `RequestError`."""
        if fields.get("prompt") is None:
            return fields
        if fields.get("messages"):
            raise RequestError("prompt: give either prompt or messages", param="prompt")
        if not isinstance(fields["prompt"], str):
            raise RequestError("prompt: must be a text", param="prompt")
        rest = {name: value for name, value in fields.items() if name != "prompt"}
        return rest | {"messages": [{"role": "user", "content": fields["prompt"]}]}


class InferenceMetadata(msgspec.Struct):
    """Where and how fast it was done."""

    model: str
    duration_ms: float
    provider: str = "histrio"
    network: str = "local"


class Inference(msgspec.Struct):
    """The answer of /v1/inference."""

    completion: str
    tokens: int
    """Of the prompt and of the answer."""
    tier: str
    """`basic`, `standard` or `premium`, by how many tokens were asked for; nothing depends on it here."""
    metadata: InferenceMetadata
    success: bool = True
