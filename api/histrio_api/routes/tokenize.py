"""POST /tokenize and /detokenize, as routers and test tools use them to count tokens."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import msgspec
from litestar import post
from litestar.response.base import ASGIResponse

from histrio.errors import RequestError
from histrio_api.errors import from_validation
from histrio_api.request.json_body import decode_object
from histrio_api.request.rendering import render_messages
from histrio_api.routes.common import HttpRequest, edge_of, request_body
from histrio_api.schemas.tokenize import DetokenizeRequest, TokenizeRequest
from histrio_api.shared.edge import Edge

__all__ = ["detokenize", "tokenize"]

R = TypeVar("R", TokenizeRequest, DetokenizeRequest)


@post("/tokenize", status_code=200)
async def tokenize(request: HttpRequest) -> ASGIResponse:
    """Ids of a text, or of the prompt that a chat becomes."""
    edge = edge_of(request)
    async with request_body(request) as body:
        return ASGIResponse(body=await edge.run_text(partial(_tokenized, edge, body), len(body)))


@post("/detokenize", status_code=200)
async def detokenize(request: HttpRequest) -> ASGIResponse:
    """Text of ids, special tokens included."""
    edge = edge_of(request)
    async with request_body(request) as body:
        return ASGIResponse(body=await edge.run_text(partial(_detokenized, edge, body), len(body)))


def _tokenized(edge: Edge, body: bytes) -> bytes:
    """From the body of a request to that of its answer."""
    wanted = _convert(edge, body, TokenizeRequest)
    if (wanted.prompt is None) == (wanted.messages is None):
        raise RequestError("prompt: give either prompt or messages", param="prompt")

    ids = _encode(edge, wanted)
    content: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": edge.gateway.model.max_sequence_length,
        "tokens": ids,
        "token_strs": [edge.tokenizer.token(token_id) for token_id in ids] if wanted.return_token_strs else None,
    }
    return msgspec.json.encode(content)


def _detokenized(edge: Edge, body: bytes) -> bytes:
    """From the body of a request to that of its answer."""
    wanted = _convert(edge, body, DetokenizeRequest)
    limit, vocab_size = edge.settings.max_detokenize_tokens, edge.gateway.model.vocab_size
    if len(wanted.tokens) > limit:
        raise RequestError(f"tokens: at most {limit} ids are accepted", param="tokens")
    if wanted.tokens and max(wanted.tokens) >= vocab_size:
        raise RequestError(f"tokens: ids must be below {vocab_size}", param="tokens")

    return msgspec.json.encode({"prompt": edge.tokenizer.decode(wanted.tokens, skip_special=False)})


def _encode(edge: Edge, wanted: TokenizeRequest) -> list[int]:
    if wanted.prompt is not None:
        text, param, adds_special = wanted.prompt, "prompt", wanted.add_special_tokens is not False
    else:
        messages = wanted.messages or []
        text = render_messages(edge, messages, add_generation_prompt=wanted.add_generation_prompt)
        param, adds_special = "messages", bool(wanted.add_special_tokens)

    limit = edge.settings.max_tokenize_chars
    if len(text) > limit:
        raise RequestError(f"{param}: at most {limit} characters are accepted; send the text in parts", param=param)
    return edge.tokenizer.encode(text, add_special=adds_special)


def _convert(edge: Edge, body: bytes, kind: type[R]) -> R:
    settings = edge.settings
    decoded = decode_object(body, max_parts=settings.max_json_parts, max_values=settings.max_json_values)
    given = {name: value for name, value in decoded.items() if value is not None}
    try:
        wanted = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise from_validation(error) from None
    if wanted.model is not None:
        edge.require_model(wanted.model)

    return wanted
