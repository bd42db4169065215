"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import ClassVar

from histrio_api.schemas.messages import ChatMessage
from histrio_api.schemas.strict import ARRAY, STRING, Schema, Strict, TokenId

__all__ = ["DetokenizeRequest", "TokenizeRequest"]


class TokenizeRequest(Strict, frozen=True):
    """POST /tokenize: of a text, or of a chat as its prompt would be."""

    rules: ClassVar[Schema] = {
        "anyOf": [
            {"properties": {name: schema}, "required": [name]}
            for name, schema in {"prompt": STRING, "content": STRING, "messages": ARRAY | {"minItems": 1}}.items()
        ]
    }

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    """What llama.cpp calls `prompt`; no special tokens are added unless asked for."""
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False
    with_pieces: bool = False
    """Each token is an object of its id and its text, as llama.cpp has it."""


class DetokenizeRequest(Strict, frozen=True):
    """POST /detokenize."""

    tokens: list[TokenId]
    model: str | None = None
